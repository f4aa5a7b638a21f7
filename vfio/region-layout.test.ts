import { expect, test } from 'vitest';
import { mappableBytes, mmapProblem, regionOffset, regionPlace, trapped } from './region-layout.js';
import { type RegionInfo, VFIO_REGION_INFO_CAP_SPARSE_MMAP, VFIO_REGION_INFO_FLAG_MMAP } from './uapi.js';

const PAGE = 4096;
const region: RegionInfo = {
  index: 2,
  flags: VFIO_REGION_INFO_FLAG_MMAP | 3,
  size: 3 * PAGE + 16,
  offset: regionOffset(2),
  capabilities: [],
};
const sparse: RegionInfo = {
  ...region,
  capabilities: [{ id: VFIO_REGION_INFO_CAP_SPARSE_MMAP, areas: [{ offset: PAGE, size: PAGE }] }],
};

test('region 2 is where vfio-pci has it, and every offset of it leads back there', () => {
  expect(regionOffset(2)).toBe(2 * 2 ** 40);
  expect(regionPlace(regionOffset(2) + 5)).toEqual({ index: 2, at: 5 });
  expect(regionPlace(regionOffset(3) - 1)).toEqual({ index: 2, at: 2 ** 40 - 1 });
});

test('a region can be mapped to the end of its last page, and no further', () => {
  expect(mappableBytes(region.size)).toBe(4 * PAGE);
  expect(mmapProblem(region, 3 * PAGE, PAGE)).toBeUndefined();
  expect(mmapProblem(region, 3 * PAGE, 2 * PAGE)).toMatch(/cannot be mapped/);
});

test.each([
  ['half a page', 0, PAGE / 2],
  ['nothing', 0, 0],
  ['from inside a page', 8, PAGE],
])('a map of %s is refused', (_what, at, bytes) => {
  expect(mmapProblem(region, at, bytes)).toMatch(/multiples of a page/);
});

test('with sparse areas nothing outside of one can be mapped', () => {
  expect(mmapProblem(sparse, PAGE, PAGE)).toBeUndefined();
  expect(mmapProblem(sparse, 0, PAGE)).toMatch(/cannot be mapped/);
  expect(mmapProblem(sparse, PAGE, 2 * PAGE)).toMatch(/cannot be mapped/);
});

test('a trapped region keeps its other rights, and has no areas left', () => {
  expect(trapped(sparse)).toEqual({ ...region, flags: 3 });
  expect(mmapProblem(trapped(sparse), PAGE, PAGE)).toMatch(/region 2 cannot be mapped/);
});
