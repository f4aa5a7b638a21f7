import { isErrno } from '../../sys/error.js';
import type { Outcome } from '../outcome.js';
import type { Counters, RunReport } from '../protocol.js';

/** A machine as the page shows it, beside its pictures: what the library's calls return at one moment. */
export interface MachineStatus {
  /** Milliseconds of the monotonic clock when it was read. */
  readonly at: number;
  readonly state: 'running' | 'paused' | 'ended';
  /** How the run ended. */
  readonly outcome?: Outcome;
  /** Why the machine failed. */
  readonly failure?: string;
  readonly counters?: Counters;
}

/** A machine that the page can show and control: a VirtualMachine. */
export interface StatusSource {
  /** As {@link VirtualMachine.finished}. */
  readonly finished: Promise<RunReport>;
  /** As {@link VirtualMachine.counters}. */
  counters(): Promise<Counters>;
}

/** The machine is asked this often at most, however many pages there are. */
export const READ_EVERY_MS = 250;

/**
 * What a machine's calls return, read for all pages at once. After the end, it is what was last, with the counters of the
 * report. Main thread only.
 */
export class StatusReader {
  readonly #source: StatusSource;
  readonly #now: () => number;
  #last: MachineStatus;
  #reading: Promise<void> | undefined;

  /** @param now milliseconds of any monotonic clock; tests pass their own */
  constructor(source: StatusSource, now: () => number = () => performance.now()) {
    this.#source = source;
    this.#now = now;
    this.#last = { at: Number.NEGATIVE_INFINITY, state: 'running' };
    source.finished.then(
      ({ outcome, exits, accesses, devices }) =>
        this.#end({ outcome, counters: { exits, accesses, devices } }),
      (error: Error) => this.#end({ failure: error.message }),
    );
  }

  /** The state now, or up to 250 ms ago. */
  async read(): Promise<MachineStatus> {
    if (this.#last.state !== 'ended' && this.#now() - this.#last.at >= READ_EVERY_MS) {
      this.#reading ??= this.#read().finally(() => {
        this.#reading = undefined;
      });
      await this.#reading;
    }
    return this.#last;
  }

  async #read(): Promise<void> {
    try {
      const counters = await this.#source.counters();
      if (this.#last.state !== 'ended') this.#last = { at: this.#now(), state: 'running', counters };
    } catch (error) {
      // The machine restarts or has just ended, and its last state stays; or many calls are pending: it is read again.
      if (!['ESRCH', 'ECONNRESET', 'EBUSY'].some((code) => isErrno(error, code as 'ESRCH')))
        this.#last = { ...this.#last, failure: (error as Error).message };
    }
  }

  #end(last: Partial<MachineStatus>): void {
    this.#last = { ...this.#last, ...last, at: this.#now(), state: 'ended' };
  }
}
