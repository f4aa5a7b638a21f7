import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { VirtualMachine, VmObserver } from '../virtual-machine.js';

/** How long {@link FreshMachine.says} waits. */
export interface SaysOptions {
  /** In milliseconds. Default: 60,000 */
  readonly timeoutMs?: number;
}

const TIMEOUT_MS = 60_000;
/** Of what the guest has said, in errors. */
const LAST_CHARACTERS = 2000;

/** What a {@link FreshMachine} uses of its machine. */
export type TestedMachine = Pick<VirtualMachine, 'finished' | 'typeSerial' | typeof Symbol.asyncDispose>;

/** A running machine of a test, and what its guest has said on COM1. Disposing ends it. Main thread. */
export class FreshMachine<M extends TestedMachine = VirtualMachine> implements AsyncDisposable {
  /** The machine. */
  readonly vm: M;
  #text = '';
  readonly #listeners = new Set<() => void>();

  /** @param start starts it with this observer */
  constructor(start: (observer: VmObserver) => M) {
    this.vm = start({
      serial: (bytes, port) => {
        if (port > 0) return;
        this.#text += Buffer.from(bytes).toString('latin1');
        for (const listener of [...this.#listeners]) listener();
      },
    });
  }

  /** What the guest has said on COM1 since this machine began. */
  get console(): string {
    return this.#text;
  }

  /** Types a line at COM1. Resolves to true once the port has taken it; to false if the machine has ended. */
  type(line: string): Promise<boolean> {
    return this.vm.typeSerial(Buffer.from(`${line}\n`));
  }

  /**
   * Resolves once the guest has said a text, or does so already, to all that it has said.
   * @throws SysError ETIMEDOUT with what it has said instead; ECONNABORTED if the machine ends before; what has ended the machine
   */
  says(wanted: string | RegExp, { timeoutMs = TIMEOUT_MS }: SaysOptions = {}): Promise<string> {
    const isThere = () =>
      typeof wanted === 'string' ? this.#text.includes(wanted) : wanted.test(this.#text);
    const failed = (code: number, why: string) => {
      const said = this.#text.length === 0 ? 'nothing' : this.#text.slice(-LAST_CHARACTERS);
      return new SysError({
        call: 'says',
        target: String(wanted),
        errno: code,
        hint: `${why}; it has said: ${said}`,
      });
    };
    return new Promise((resolve, reject) => {
      const end = (settle: () => void) => {
        clearTimeout(timer);
        this.#listeners.delete(check);
        settle();
      };
      const check = () => {
        if (isThere()) end(() => resolve(this.#text));
      };
      const timer = setTimeout(
        () => end(() => reject(failed(errno.ETIMEDOUT, `the guest has not said it within ${timeoutMs} ms`))),
        timeoutMs,
      );
      this.#listeners.add(check);
      this.vm.finished.then(
        ({ outcome }) =>
          end(() => reject(failed(errno.ECONNABORTED, `the machine has ended: ${JSON.stringify(outcome)}`))),
        (error) => end(() => reject(error)),
      );
      check();
    });
  }

  /** Ends the machine, and waits until everything is closed. Never rejects. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.vm[Symbol.asyncDispose]();
  }
}
