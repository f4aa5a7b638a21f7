import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { VirtualMachine } from '../virtual-machine.js';
import { RequestError } from './error-status.js';

/** Requests that may wait for the guest to read: the others are for looking what it does. */
export const MOST_TYPING = 8;
/** What is given to the port at once: a client that goes away leaves no more. */
const PIECE_BYTES = 4096;

/** Input for COM1, one request after the other. What a client that has gone away still had to type is dropped. */
export class ConsoleInput {
  /** Those that wait for their turn; the one that types is not among them. */
  readonly #waiting: (() => void)[] = [];
  #isTyping = false;

  /**
   * Resolves once the port has taken all of it; nothing at all tells whether it can be typed at.
   * @throws RequestError if COM1 has another end, or too many wait; SysError ESRCH if the machine ends before
   */
  async type(
    machine: Pick<VirtualMachine, 'typeSerial'>,
    bytes: Uint8Array,
    gone: AbortSignal,
  ): Promise<void> {
    if (this.#isTyping) await this.#turn(gone);
    else this.#isTyping = true;
    try {
      let at = 0;
      do {
        if (!(await machine.typeSerial(bytes.slice(at, at + PIECE_BYTES)))) throw ended();
        at += PIECE_BYTES;
      } while (at < bytes.length && !gone.aborted);
    } catch (error) {
      throw error instanceof RangeError ? new RequestError(409, error.message) : error;
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#isTyping = false;
      else next();
    }
  }

  #turn(gone: AbortSignal): Promise<void> {
    if (this.#waiting.length + 1 >= MOST_TYPING)
      throw new RequestError(503, `${MOST_TYPING} requests wait for the guest to read COM1`);
    return new Promise((resolve, reject) => {
      const proceed = () => {
        gone.removeEventListener('abort', leave);
        resolve();
      };
      const leave = () => {
        this.#waiting.splice(this.#waiting.indexOf(proceed), 1);
        reject(new RequestError(503, 'the client has gone away'));
      };
      gone.addEventListener('abort', leave, { once: true });
      this.#waiting.push(proceed);
    });
  }
}

const ended = (): SysError =>
  new SysError({ call: 'type', target: 'the machine', errno: errno.ESRCH, hint: 'it has ended' });
