import { expect, test } from 'vitest';
import type { Iova } from '../../sys/address.js';
import { maps } from '../virtio-net/testing/guest.js';
import { DMA_CHECK, DMA_COPY, DMA_DONE, DMA_ERROR, DMA_FILL } from './spec.js';
import { CardBench } from './testing/card-bench.js';
import { WrittenPages } from './written-pages.js';

const PAGE = 4096n;
const { main, next, readOnly } = maps;
const rangeOf = ({ iova, bytes }: { readonly iova: number; readonly bytes: number }) => ({
  iova: BigInt(iova) as Iova,
  length: BigInt(bytes),
});
const SMALL = { ram: '4K' };

/** Numbers of the bits that a report sets. */
function report({ ops }: CardBench, range: ReturnType<typeof rangeOf>, pageSize = PAGE): number[] {
  const bitmap = new Uint8Array(Math.ceil(Number(range.length / pageSize) / 8));
  ops.dmaLogging?.readAndClear(range, pageSize, bitmap);
  return [...bitmap].flatMap((byte, i) =>
    [0, 1, 2, 3, 4, 5, 6, 7].flatMap((bit) => ((byte >> bit) & 1 ? [8 * i + bit] : [])),
  );
}

const start = ({ ops }: CardBench, ...ranges: ReturnType<typeof rangeOf>[]) =>
  ops.dmaLogging?.start(ranges, PAGE);

for (const isRemote of [false, true]) {
  const where = isRemote ? 'another process' : 'this process';
  test(`pages that the card writes in memory of ${where} are reported once, in the range that is asked for`, () => {
    using bench = new CardBench(SMALL);
    if (isRemote) bench.memory.map(Object.values(maps).map((map) => ({ ...map, isRemote })));
    expect(start(bench, rangeOf(main), rangeOf(next))).toBe(PAGE);
    const fill = { target: main.iova + 0x2ffe, length: 4, value: 7 };
    expect(bench.transfer(DMA_FILL, fill)).toBe(DMA_DONE);
    const copy = { source: main.iova, target: next.iova + 0x5000, length: 0x3000 };
    expect(bench.transfer(DMA_COPY, copy)).toBe(DMA_DONE);
    expect(bench.transfer(DMA_CHECK, { source: main.iova + 0x8000, length: 8 })).toBe(DMA_DONE);
    expect(report(bench, { iova: BigInt(main.iova) as Iova, length: 3n * PAGE })).toEqual([2]);
    expect(report(bench, rangeOf(main))).toEqual([3]);
    expect(report(bench, rangeOf(next))).toEqual([5, 6, 7]);
    expect(report(bench, rangeOf(next))).toEqual([]);
  });
}

test('a bit of a larger page stands for all of its pages', () => {
  using bench = new CardBench(SMALL);
  start(bench, rangeOf(main));
  bench.transfer(DMA_FILL, { target: main.iova + 0x3f000, length: 0x2000, value: 7 });
  expect(report(bench, rangeOf(main), 0x10000n)).toEqual([3, 4]);
});

test('what was written before the start, outside the ranges, or not at all is not reported', () => {
  using bench = new CardBench(SMALL);
  bench.transfer(DMA_FILL, { target: main.iova, length: 8, value: 7 });
  start(bench, { iova: BigInt(main.iova) as Iova, length: 2n * PAGE });
  bench.transfer(DMA_FILL, { target: main.iova + 0x4000, length: 8, value: 7 });
  expect(bench.transfer(DMA_FILL, { target: readOnly.iova, length: 8, value: 7 })).toBe(DMA_ERROR);
  expect(report(bench, rangeOf(main))).toEqual([]);
  expect(report(bench, rangeOf(readOnly))).toEqual([]);
});

test('a second start and a report while it is off are EINVAL, a second stop is nothing, and closing the card ends the log', () => {
  using bench = new CardBench(SMALL);
  expect(() => report(bench, rangeOf(main))).toThrowError(/EINVAL.*its log is off/s);
  start(bench, rangeOf(main));
  expect(() => start(bench, rangeOf(main))).toThrowError(/EINVAL.*its log is on already/s);
  bench.ops.closeDevice();
  bench.ops.openDevice(bench.memory.open);
  expect(() => report(bench, rangeOf(main))).toThrowError(/EINVAL.*its log is off/s);
  bench.ops.dmaLogging?.stop();
});

test('beyond its bound a log says that all pages were written', () => {
  const pages = new WrittenPages(2);
  pages.add(0, 8192);
  expect(pages.take(0, 1)).toEqual([0]);
  pages.add(0x10_0000, 8192);
  expect(pages.take(0, 1)).toBe('all');
});
