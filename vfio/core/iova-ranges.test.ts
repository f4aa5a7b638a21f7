import { expect, test } from 'vitest';
import { iova } from '../../sys/address.js';
import { intersectRanges, isInRanges } from './iova-ranges.js';

const range = (start: bigint, last: bigint) => ({ start: iova(start), last: iova(last) });

test('ranges have in common what lies in both, to the last byte; an empty list stands for all', () => {
  const a = [range(0x1000n, 0x1fffn), range(0x4000n, 0x7fffn)];
  expect(intersectRanges(a, [])).toBe(a);
  expect(intersectRanges([], a)).toBe(a);
  expect(intersectRanges([], [])).toEqual([]);
  expect(intersectRanges(a, a)).toEqual(a);
  expect(intersectRanges(a, [range(0n, 0x5000n)])).toEqual([a[0], range(0x4000n, 0x5000n)]);
  expect(intersectRanges(a, [range(0x1800n, 0xffffn)])).toEqual([range(0x1800n, 0x1fffn), a[1]]);
  expect(intersectRanges(a, [range(0x1fffn, 0x4000n)])).toEqual([
    range(0x1fffn, 0x1fffn),
    range(0x4000n, 0x4000n),
  ]);
  expect(intersectRanges(a, [range(0x2000n, 0x3fffn)])).toBe(undefined);
});

test('a map is inside if one range holds all of it', () => {
  const ranges = [range(0x1000n, 0x1fffn), range(0x2000n, 0x2fffn)];
  const isIn = (start: bigint, size: bigint) => isInRanges(ranges, start, size);
  expect([isIn(0x1000n, 0x1000n), isIn(0x1fffn, 1n), isIn(0x2000n, 0x1000n)]).toEqual([true, true, true]);
  expect([isIn(0xfffn, 2n), isIn(0x1fffn, 2n), isIn(0x2fffn, 2n), isIn(0x3000n, 1n)]).toEqual(
    new Array(4).fill(false),
  );
  expect(isInRanges([], 0n, 1n << 64n)).toBe(true);
});
