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

/** Most bits of a log: 32 MiB, for 1 TiB by pages of 4 KiB. */
const MOST_BITS = 2 ** 28;

/** A log as data, for other threads. */
export interface WrittenPagesData {
  /** What a bit stands for: a page, or so many that the bits of all ranges are few enough. A power of two. */
  readonly pageBytes: number;
  readonly ranges: readonly LoggedRange[];
  readonly bits: SharedArrayBuffer;
}

/** @param ranges page-aligned */
export function createWrittenPages(
  ranges: readonly { readonly iova: bigint; readonly length: bigint }[],
): WrittenPagesData {
  const bytes = ranges.reduce((sum, { length }) => sum + Number(length), 0);
  let pageBytes = LOG_PAGE_BYTES;
  while (bytes / pageBytes > MOST_BITS) pageBytes *= 2;
  let bits = 0;
  const logged = ranges.map(({ iova, length }) => {
    const range = { iova: Number(iova), bytes: Number(length), firstBit: bits };
    bits += Math.ceil(Number(length) / pageBytes);
    return range;
  });
  return { pageBytes, ranges: logged, bits: new SharedArrayBuffer(Math.ceil(bits / 32) * 4) };
}

/** One thread's side of a log. */
export class WrittenPages {
  readonly #ranges: readonly LoggedRange[];
  readonly #words: Int32Array;
  readonly #pageBytes: number;

  constructor({ pageBytes, ranges, bits }: WrittenPagesData) {
    this.#pageBytes = pageBytes;
    this.#ranges = ranges;
    this.#words = new Int32Array(bits);
  }

  /** The device writes there, or is about to. @param bytes at least 1 */
  mark(iova: number, bytes: number): void {
    const pageBytes = this.#pageBytes;
    for (const range of this.#ranges) {
      const first = Math.max(iova, range.iova) - range.iova;
      const end = Math.min(iova + bytes, range.iova + range.bytes) - range.iova;
      if (first >= end) continue;
      const last = range.firstBit + Math.floor((end - 1) / pageBytes);
      for (let bit = range.firstBit + Math.floor(first / pageBytes); bit <= last; bit++) {
        const mask = 1 << (bit & 31);
        // Most marks are of a page that has one.
        if ((Atomics.load(this.#words, bit >>> 5) & mask) === 0) Atomics.or(this.#words, bit >>> 5, mask);
      }
    }
  }

  /** Calls `use` with each page of a range that was marked, by its IOVA, and takes the mark away. */
  take(iova: bigint, length: bigint, use: (page: bigint) => void): void {
    const pageBytes = this.#pageBytes;
    const [from, until] = [Number(iova), Number(iova + length)];
    for (const range of this.#ranges) {
      const first = Math.max(from, range.iova) - range.iova;
      const end = Math.min(until, range.iova + range.bytes) - range.iova;
      const pages = Math.ceil(end / pageBytes);
      for (let page = Math.floor(first / pageBytes); page < pages; page++) {
        const bit = range.firstBit + page;
        if ((bit & 31) === 0 && this.#words[bit >>> 5] === 0) {
          page += 31;
          continue;
        }
        const mask = 1 << (bit & 31);
        if ((Atomics.and(this.#words, bit >>> 5, ~mask) & mask) !== 0)
          use(BigInt(range.iova + page * pageBytes));
      }
    }
  }
}
