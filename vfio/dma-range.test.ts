import fc from 'fast-check';
import { expect, test } from 'vitest';
import { hva } from '../sys/address.js';
import { PROT_READ, PROT_WRITE } from '../sys/mapping.js';
import { holds, mapProblem, mapProt, overlaps, rangeProblem, U64_END, wraps } from './dma-range.js';

const PAGE = 4096n;
const READ = 1;
const WRITE = 2;

test.each([
  [0, { flags: 0 }],
  [4, { flags: READ | 4 }],
  ['an empty map', { size: 0n }],
  ['half a page', { size: PAGE / 2n }],
  ['an IOVA inside a page', { iova: 1n }],
  ['memory inside a page', { vaddr: hva(8n) }],
])('a map is wrong with %s', (_what, wrong) => {
  const right = { flags: READ | WRITE, iova: PAGE, vaddr: hva(PAGE), size: PAGE };
  expect(mapProblem(right)).toBeUndefined();
  expect(mapProblem({ ...right, ...wrong })).toMatch(/flags 0x|multiples of the page size/);
});

test('the last page of the address space can be mapped, and a byte more wraps', () => {
  const last = { iova: U64_END - PAGE, size: PAGE };
  expect(wraps(last.iova, last.size)).toBe(false);
  expect(wraps(last.iova, last.size + 1n)).toBe(true);
  expect(rangeProblem(last)).toBeUndefined();
  expect(rangeProblem({ ...last, size: 2n * PAGE })).toMatch(/wraps/);
  expect(rangeProblem({ ...last, size: 0n })).toMatch(/empty/);
});

test('ranges overlap when they share a byte, and one holds the other when no byte is outside', () => {
  const arbitrary = fc.tuple(fc.bigInt({ min: 0n, max: 12n }), fc.bigInt({ min: 1n, max: 6n }));
  fc.assert(
    fc.property(arbitrary, arbitrary, ([iova, size], [otherIova, otherSize]) => {
      const bytes = Array.from({ length: Number(size) }, (_, i) => iova + BigInt(i));
      const others = new Set(Array.from({ length: Number(otherSize) }, (_, i) => otherIova + BigInt(i)));
      const [a, b] = [
        { iova, size },
        { iova: otherIova, size: otherSize },
      ];
      expect(overlaps(a, b)).toBe(bytes.some((byte) => others.has(byte)));
      expect(holds(b, a)).toBe(bytes.every((byte) => others.has(byte)));
    }),
  );
});

test('the flags of a map are the rights of the device', () => {
  expect([READ, WRITE, READ | WRITE].map(mapProt)).toEqual([PROT_READ, PROT_WRITE, PROT_READ | PROT_WRITE]);
});
