import fc from 'fast-check';
import { expect, test } from 'vitest';
import { memoryAt } from '../../sys/libc.js';
import { createWrittenPages, WrittenPages } from '../../vfio/written-pages.js';
import { KERNEL_LOG_END, KernelLog } from './kernel-log.js';

const PAGE = 4096;
const PAGES = 300;

/** Sets a page's bit as the kernel does. */
function setBit({ address }: KernelLog, page: number): void {
  const byte = new Uint8Array(memoryAt(address + Math.floor(page / 8), 1));
  byte[0] = (byte[0] as number) | (1 << (page % 8));
}

const logOf = (iova: number, pages: number) =>
  new WrittenPages(createWrittenPages([{ iova: BigInt(iova), length: BigInt(pages * PAGE) }]));

function pagesOf(written: WrittenPages, iova: number, pages: number): number[] {
  const found: number[] = [];
  written.take(BigInt(iova), BigInt(pages * PAGE), (page) => found.push(Number(page) / PAGE));
  return found;
}

test('the marks of a range are moved, each once, and no others are', () => {
  const bits = fc.uniqueArray(fc.nat(PAGES - 1));
  const range = fc.record({ first: fc.nat(PAGES), count: fc.nat(PAGES) });
  fc.assert(
    fc.property(bits, fc.array(range, { maxLength: 4 }), (marked, ranges) => {
      using log = new KernelLog();
      for (const page of marked) setBit(log, page);
      const left = new Set(marked);
      for (const { first, count } of [...ranges, { first: 0, count: PAGES }]) {
        const written = logOf(0, 2 * PAGES);
        log.moveTo(written, first * PAGE, count * PAGE);
        const expected = [...left].filter((page) => page >= first && page < first + count);
        expect(pagesOf(written, 0, 2 * PAGES)).toEqual(expected.sort((a, b) => a - b));
        for (const page of expected) left.delete(page);
      }
    }),
    { numRuns: 200 },
  );
});

test('it has a bit for the last page of its addresses, and a range may reach beyond them', () => {
  using log = new KernelLog();
  const last = KERNEL_LOG_END / PAGE - 1;
  setBit(log, last);
  const from = KERNEL_LOG_END - PAGE;
  const written = logOf(from, 4);
  log.moveTo(written, KERNEL_LOG_END, 2 ** 52);
  expect(pagesOf(written, from, 4)).toEqual([]);
  log.moveTo(written, from, 2 ** 52);
  expect(pagesOf(written, from, 4)).toEqual([last]);
});

test('part of a page is the page', () => {
  using log = new KernelLog();
  for (const page of [4, 5, 6]) setBit(log, page);
  const written = logOf(0, PAGES);
  log.moveTo(written, 4 * PAGE + 100, PAGE);
  expect(pagesOf(written, 0, PAGES)).toEqual([4, 5]);
});
