/** Pages that a device has written, as bits that the threads of its data path share. */

/** Page that writes are logged by, in bytes. */
export const LOG_PAGE_BYTES = 4096;

/** A range of IOVAs whose pages are logged. */
interface LoggedRange {
  readonly iova: number;
  readonly bytes: number;
  /** Its first page's bit. */
  readonly firstBit: number;
}

/** A log as data, for other threads. */
export interface WrittenPagesData {
  readonly ranges: readonly LoggedRange[];
  readonly bits: SharedArrayBuffer;
}

/** @param ranges page-aligned */
export function createWrittenPages(
  ranges: readonly { readonly iova: bigint; readonly length: bigint }[],
): WrittenPagesData {
  let bits = 0;
  const logged = ranges.map(({ iova, length }) => {
    const range = { iova: Number(iova), bytes: Number(length), firstBit: bits };
    bits += Number(length) / LOG_PAGE_BYTES;
    return range;
  });
  return { ranges: logged, bits: new SharedArrayBuffer(Math.ceil(bits / 32) * 4) };
}

/** One thread's side of a log. */
export class WrittenPages {
  readonly #ranges: readonly LoggedRange[];
  readonly #words: Int32Array;

  constructor({ ranges, bits }: WrittenPagesData) {
    this.#ranges = ranges;
    this.#words = new Int32Array(bits);
  }

  /** The device writes there, or is about to. @param bytes at least 1 */
  mark(iova: number, bytes: number): void {
    for (const range of this.#ranges) {
      const first = Math.max(iova, range.iova) - range.iova;
      const end = Math.min(iova + bytes, range.iova + range.bytes) - range.iova;
      if (first >= end) continue;
      const last = range.firstBit + Math.floor((end - 1) / LOG_PAGE_BYTES);
      for (let bit = range.firstBit + Math.floor(first / LOG_PAGE_BYTES); bit <= last; bit++) {
        const mask = 1 << (bit & 31);
        // Most marks are of a page that has one.
        if ((Atomics.load(this.#words, bit >>> 5) & mask) === 0) Atomics.or(this.#words, bit >>> 5, mask);
      }
    }
  }

  /** Calls `use` with each page of a range that was marked, by its IOVA, and takes the mark away. */
  take(iova: bigint, length: bigint, use: (page: bigint) => void): void {
    const [from, until] = [Number(iova), Number(iova + length)];
    for (const range of this.#ranges) {
      const first = Math.max(from, range.iova) - range.iova;
      const end = Math.min(until, range.iova + range.bytes) - range.iova;
      const pages = Math.ceil(end / LOG_PAGE_BYTES);
      for (let page = Math.floor(first / LOG_PAGE_BYTES); page < pages; page++) {
        const bit = range.firstBit + page;
        if ((bit & 31) === 0 && this.#words[bit >>> 5] === 0) {
          page += 31;
          continue;
        }
        const mask = 1 << (bit & 31);
        if ((Atomics.and(this.#words, bit >>> 5, ~mask) & mask) !== 0)
          use(BigInt(range.iova + page * LOG_PAGE_BYTES));
      }
    }
  }
}
