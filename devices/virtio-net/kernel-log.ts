import { Mapping } from '../../sys/mapping.js';
import { LOG_PAGE_BYTES, type WrittenPages } from '../../vfio/written-pages.js';

/** End of the I/O virtual addresses that can be logged. It makes 32 MiB of bits, which are there as far as they are used. */
export const KERNEL_LOG_END: number = 2 ** 40;

const PAGES = KERNEL_LOG_END / LOG_PAGE_BYTES;
const WORD_BITS = 32;

/**
 * Where the kernel marks the pages that it writes. It knows no length, and marks whatever page it is given: so there is a bit for each
 * that it can be given, from the start, and its place never changes. Dispose it once the kernel marks no more. Event thread only.
 * @see KernelQueues.setLog
 */
export class KernelLog implements Disposable {
  readonly #memory = Mapping.anonymous(PAGES / 8);
  readonly #words: Int32Array;

  /** @throws SysError ENOMEM */
  constructor() {
    const { buffer, byteOffset } = this.#memory.view.slice(0, PAGES / 8);
    this.#words = new Int32Array(buffer, byteOffset, PAGES / WORD_BITS);
  }

  /** Of its first bit, in this process. */
  get address(): number {
    return this.#memory.view.address;
  }

  /**
   * Moves the marks of a range to another log. The kernel may mark pages meanwhile: each mark is taken away in one step with its
   * being read, so that it is in this log or in the other one.
   */
  moveTo(written: WrittenPages, iova: number, bytes: number): void {
    const first = Math.floor(iova / LOG_PAGE_BYTES);
    const end = Math.min(Math.ceil((iova + bytes) / LOG_PAGE_BYTES), PAGES);
    if (first >= end) return;
    for (let word = first >>> 5; word * WORD_BITS < end; word++) {
      if (this.#words[word] === 0) continue;
      const [from, to] = [first - word * WORD_BITS, end - word * WORD_BITS];
      const mask = (from <= 0 ? -1 : -1 << from) & (to >= WORD_BITS ? -1 : ~(-1 << to));
      let marks = Atomics.and(this.#words, word, ~mask) & mask;
      for (; marks !== 0; marks &= marks - 1) {
        const page = word * WORD_BITS + 31 - Math.clz32(marks & -marks);
        written.mark(page * LOG_PAGE_BYTES, LOG_PAGE_BYTES);
      }
    }
  }

  [Symbol.dispose](): void {
    this.#memory[Symbol.dispose]();
  }
}
