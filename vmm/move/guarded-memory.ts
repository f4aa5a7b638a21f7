import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { MemoryView } from '../../sys/mapping.js';

/** Memory that its owner may unmap: an access after that is an error. Use what {@link slice} returns at once. */
export class GuardedMemory {
  readonly #view: MemoryView | undefined;
  readonly #isThere: () => boolean;

  constructor(view: MemoryView | undefined, isThere: () => boolean) {
    this.#view = view;
    this.#isThere = isThere;
  }

  /** Length in bytes. */
  get bytes(): number {
    return this.#mapped().bytes;
  }

  /** @throws SysError ESRCH once it is gone; RangeError outside the memory */
  slice(at: number, length: number): Uint8Array<ArrayBuffer> {
    return this.#mapped().slice(at, length);
  }

  #mapped(): MemoryView {
    if (this.#view !== undefined && this.#isThere()) return this.#view;
    const hint = 'the machine has ended, or was reset';
    throw new SysError({ call: 'move', target: 'guest memory', errno: errno.ESRCH, hint });
  }
}
