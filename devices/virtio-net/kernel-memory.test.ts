import { expect, test } from 'vitest';
import { PROT_READ, PROT_WRITE } from '../../sys/mapping.js';
import { givenMaps, locateRings, overlaps, regionsOf, ringsOf } from './kernel-memory.js';

const prot = PROT_READ | PROT_WRITE;
const PAGE = 0x1000;
const map = (iova: number, pages: number, address: number) => ({ iova, bytes: pages * PAGE, address, prot });

test('memory for one direction, and of another process, is not given', () => {
  const maps = [
    map(0, 1, 0x10_0000),
    { ...map(PAGE, 1, 0x20_0000), prot: PROT_READ },
    { ...map(2 * PAGE, 1, 0x30_0000), prot: PROT_WRITE },
    { ...map(3 * PAGE, 1, 0), prot: 0 },
  ];
  expect(givenMaps(maps)).toEqual([maps[0]]);
});

test('maps are one region only if they meet both in their own addresses and in this process', () => {
  const maps = [
    map(0, 2, 0x10_0000),
    map(2 * PAGE, 1, 0x10_2000),
    map(3 * PAGE, 1, 0x10_4000), // a gap in memory
    map(5 * PAGE, 1, 0x10_5000), // a gap in the addresses
  ];
  expect(regionsOf(maps)).toEqual([
    { iova: 0, bytes: 3 * PAGE, address: 0x10_0000 },
    { iova: 3 * PAGE, bytes: PAGE, address: 0x10_4000 },
    { iova: 5 * PAGE, bytes: PAGE, address: 0x10_5000 },
  ]);
  expect(regionsOf([])).toEqual([]);
});

const setup = { index: 0, size: 256, hasIndirect: true, hasEventIdx: true };

test('rings are found at their addresses in this process, up to the last byte of a region, and not beyond', () => {
  const regions = [{ iova: 0x8000, bytes: 0x4000, address: 0x7f00_0000_0000 }];
  const [, , { bytes: usedBytes }] = ringsOf({ ...setup, desc: 0, driver: 0, device: 0 });
  const device = 0xc000 - usedBytes;
  const queue = { ...setup, desc: 0x8000, driver: 0x9000, device };
  expect(locateRings(queue, regions)).toEqual({
    desc: 0x7f00_0000_0000,
    avail: 0x7f00_0000_1000,
    used: 0x7f00_0000_4000 - usedBytes,
  });
  for (const outside of [{ device: device + 4 }, { driver: 0x7ffe }, { desc: 0xc000 }, { desc: 2 ** 60 }])
    expect(locateRings({ ...queue, ...outside }, regions)).toBeUndefined();
});

test('the rings are as long as their events need', () => {
  const lengths = ringsOf({ ...setup, desc: 0, driver: 0, device: 0 }).map(({ bytes }) => bytes);
  expect(lengths).toEqual([4096, 6 + 2 * 256, 6 + 8 * 256]);
});

test('ranges overlap if they share a byte', () => {
  const range = { iova: PAGE, bytes: PAGE };
  expect(overlaps(range, { iova: 0, bytes: PAGE })).toBe(false);
  expect(overlaps(range, { iova: 0, bytes: PAGE + 1 })).toBe(true);
  expect(overlaps(range, { iova: 2 * PAGE - 1, bytes: 1 })).toBe(true);
  expect(overlaps(range, { iova: 2 * PAGE, bytes: 1 })).toBe(false);
  expect(overlaps(range, { iova: 0, bytes: 2 ** 64 })).toBe(true);
});
