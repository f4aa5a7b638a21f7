/** Pages of guest memory, as bits and as runs. */
import type { MovedMemory } from './moved-memory.js';

export const PAGE_BYTES = 4096;

/** One bit for each page of `bytes`, lowest bit first, in whole units of 8 bytes. */
export const pageBitmap = (bytes: number): Uint8Array<ArrayBuffer> =>
  new Uint8Array(Math.ceil(bytes / PAGE_BYTES / 64) * 8);

/** Ranges of bytes whose pages have their bit set, each of `mostBytes` at most. */
export function* dirtyRuns(
  bitmap: Uint8Array,
  bytes: number,
  mostBytes: number,
): Generator<{ readonly at: number; readonly bytes: number }> {
  const pages = bytes / PAGE_BYTES;
  const most = mostBytes / PAGE_BYTES;
  for (let page = 0; page < pages; ) {
    if (page % 8 === 0 && bitmap[page >> 3] === 0) {
      page += 8;
      continue;
    }
    if (!isSet(bitmap, page)) {
      page++;
      continue;
    }
    let end = page + 1;
    while (end < pages && end - page < most && isSet(bitmap, end)) end++;
    yield { at: page * PAGE_BYTES, bytes: (end - page) * PAGE_BYTES };
    page = end;
  }
}

const isSet = (bitmap: Uint8Array, page: number): boolean =>
  ((bitmap[page >> 3] as number) & (1 << (page & 7))) !== 0;

/** How many bits are set, of the pages of `bytes`. */
export function countPages(bitmap: Uint8Array, bytes: number): number {
  let count = 0;
  for (const run of dirtyRuns(bitmap, bytes, bytes)) count += run.bytes / PAGE_BYTES;
  return count;
}

const ZEROS = new Uint8Array(PAGE_BYTES);

/** A range as runs of pages that are zero, and that are not. */
export function* zeroRuns(
  memory: MovedMemory,
  at: number,
  bytes: number,
): Generator<{ readonly at: number; readonly bytes: number; readonly isZero: boolean }> {
  let from = at;
  let was: boolean | undefined;
  for (let page = at; page < at + bytes; page += PAGE_BYTES) {
    const isZero = Buffer.compare(memory.slice(page, PAGE_BYTES), ZEROS) === 0;
    if (was !== undefined && isZero !== was) {
      yield { at: from, bytes: page - from, isZero: was };
      from = page;
    }
    was = isZero;
  }
  if (was !== undefined) yield { at: from, bytes: at + bytes - from, isZero: was };
}
