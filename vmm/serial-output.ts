/** What a machine's serial ports send to its owner. Main thread. */
import { ConsoleRing } from './console-ring.js';
import type { VmObserver } from './machine-types.js';

/** The number of the first serial port. */
const COM1 = 0;

/** How long an incomplete line of the guest waits for its end. */
const FLUSH_AFTER_MS = 50;
/** The same for a port that a person types at: each character comes back as an incomplete line. */
const ECHO_AFTER_MS = 4;

/** The output of the ports whose ends are `observer` or `stdio`. Main thread only. */
export class SerialOutput {
  /** COM1's last output, over resets. */
  readonly console = new ConsoleRing();
  readonly #ends: readonly string[];
  readonly #observer: Pick<VmObserver, 'serial'>;
  readonly #flush: () => void;
  /** By serial port. */
  readonly #timers: NodeJS.Timeout[] = [];

  /** @param ends of the ports, as in the configuration @param flush asks the machine for the incomplete lines of its guest */
  constructor(ends: readonly string[], observer: Pick<VmObserver, 'serial'>, flush: () => void) {
    this.#ends = ends;
    this.#observer = observer;
    this.#flush = flush;
  }

  /** The guest has sent something. Returns what the observer does: a promise if it has not read that yet. */
  hear(port: number, bytes: Uint8Array): unknown {
    clearTimeout(this.#timers[port]);
    if (port === COM1) this.console.write(bytes);
    return this.#observer.serial?.(bytes, port);
  }

  /** The guest has begun a line. */
  awaitLine(port: number): void {
    const ms = this.#ends[port] === 'stdio' ? ECHO_AFTER_MS : FLUSH_AFTER_MS;
    this.#timers[port] = setTimeout(this.#flush, ms).unref();
  }

  /** The machine has ended, or is reset: no line is awaited any more. */
  end(): void {
    for (const timer of this.#timers.splice(0)) clearTimeout(timer);
  }
}
