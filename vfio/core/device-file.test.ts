import { afterEach, beforeEach, expect, test } from 'vitest';
import { Mapping } from '../../sys/mapping.js';
import { regionOffset } from '../region-layout.js';
import { type Contained, World, type WorldDevice } from '../testing/world.js';
import {
  type DeviceFile,
  VFIO_GFX_PLANE_TYPE_DMABUF,
  VFIO_GFX_PLANE_TYPE_PROBE,
  VFIO_GFX_PLANE_TYPE_REGION,
  VFIO_NOIOMMU_IOMMU,
  VFIO_REGION_INFO_FLAG_MMAP,
  VFIO_REGION_INFO_FLAG_READ,
  VFIO_REGION_INFO_FLAG_WRITE,
  VFIO_TYPE1v2_IOMMU,
} from '../uapi.js';
import { noiommuDriver } from './noiommu.js';
import { RefCount } from './ref-count.js';

const READ = VFIO_REGION_INFO_FLAG_READ;
const WRITE = VFIO_REGION_INFO_FLAG_WRITE;
const region = (flags: number, size = 16) => ({ flags, size, capabilities: [] });

let world: World;
let made: WorldDevice;
let contained: Contained;
let file: DeviceFile;
beforeEach(() => {
  world = new World();
  const regions = [
    region(READ | WRITE),
    region(READ),
    region(WRITE),
    region(READ | VFIO_REGION_INFO_FLAG_MMAP, 8192),
  ];
  made = world.device({ regions, irqs: [1, 8], onMmap: (_index, _at, bytes) => Mapping.anonymous(bytes) });
  contained = world.contain(made);
  file = world.open(contained, made);
});
afterEach(() => {
  file[Symbol.dispose]();
  contained.close();
  world.remove(made);
  world.end();
});

test.each([
  { at: 0, length: 4, moved: 4 },
  { at: 12, length: 4, moved: 4 },
  { at: 13, length: 4, moved: 3 },
  { at: 15, length: 100, moved: 1 },
])('an access of $length bytes at $at moves the $moved that the region has', ({ at, length, moved }) => {
  const data = new Uint8Array(length).fill(7);
  expect(file.write(at, data)).toBe(moved);
  const expected = new Uint8Array(16).fill(7, at, at + moved);
  expect(made.ops.memory[0]).toEqual(expected);
  expect(file.read(at, data.fill(9))).toBe(moved);
  expect([...data]).toEqual([...new Array(moved).fill(7), ...new Array(length - moved).fill(9)]);
});

test('past a region’s end, or against its flags, an access is EINVAL, and the driver sees none', () => {
  const data = new Uint8Array(1);
  made.ops.calls.length = 0;
  for (const access of [
    () => file.read(16, data),
    () => file.write(16, data),
    () => file.write(regionOffset(1), data),
    () => file.read(regionOffset(2), data),
    () => file.read(regionOffset(4), data),
    () => file.mmap(0, 4096),
    () => file.mmap(regionOffset(3) + 4096, 8192),
    () => file.mmap(regionOffset(3), 100),
  ]) {
    expect(access).toThrow(/EINVAL/);
  }
  expect(made.ops.calls).toEqual([]);
  expect(file.read(regionOffset(1), data)).toBe(1);
  expect(file.write(regionOffset(2), data)).toBe(1);
  using mapping = file.mmap(regionOffset(3) + 4096, 4096);
  expect([mapping.bytes, made.ops.calls.at(-1)]).toEqual([4096, 'mmap 3 0x1000 0x1000']);
});

test('each index of a region or an interrupt is there, and none besides', () => {
  expect([0, 1, 2, 3].map((index) => file.getRegionInfo(index).offset)).toEqual(
    [0, 1, 2, 3].map(regionOffset),
  );
  expect([0, 1].map((index) => file.getIrqInfo(index).count)).toEqual([1, 8]);
  for (const index of [-1, 4, 0.5]) {
    expect(() => file.getRegionInfo(index)).toThrow(`VFIO_DEVICE_GET_REGION_INFO on ${file.target}: EINVAL`);
    expect(() => file.getRegionIoFds(index)).toThrow(/EINVAL/);
  }
  for (const index of [-1, 2, 0.5]) expect(() => file.getIrqInfo(index)).toThrow(/GET_IRQ_INFO on .*EINVAL/);
  expect(file.getRegionIoFds(3)).toEqual([]);
});

test('what the driver lacks is ENOTTY, or EINVAL for an mmap', () => {
  const ops = made.ops as { reset: unknown; mmap: unknown };
  file.reset();
  expect(made.ops.calls.at(-1)).toBe('reset');
  Object.assign(ops, { reset: undefined, mmap: undefined });
  expect(() => file.reset()).toThrow(/^VFIO_DEVICE_RESET on .*ENOTTY/);
  expect(() => file.mmap(regionOffset(3), 4096)).toThrow(/^mmap on .*EINVAL\n.*has no mmap/);
  const plane = { flags: VFIO_GFX_PLANE_TYPE_REGION, drmPlaneType: 1 };
  expect(() => file.queryGfxPlane?.(plane)).toThrow(/^VFIO_DEVICE_QUERY_GFX_PLANE on .*ENOTTY/);
  expect(() => file.getGfxDmabuf?.(1)).toThrow(/^VFIO_DEVICE_GET_GFX_DMABUF on .*ENOTTY/);
});

test('a query for a plane names one type, with or without a probe', () => {
  const asked: number[] = [];
  Object.assign(made.ops, { queryGfxPlane: ({ flags }: { flags: number }) => asked.push(flags) });
  const query = (flags: number) => file.queryGfxPlane?.({ flags, drmPlaneType: 1 });
  const [dmabuf, inRegion, probe] = [
    VFIO_GFX_PLANE_TYPE_DMABUF,
    VFIO_GFX_PLANE_TYPE_REGION,
    VFIO_GFX_PLANE_TYPE_PROBE,
  ];
  const good = [dmabuf, inRegion, dmabuf | probe, inRegion | probe];
  for (const flags of good) query(flags);
  expect(asked).toEqual(good);
  for (const flags of [0, probe, dmabuf | inRegion, inRegion | 8]) {
    expect(() => query(flags), String(flags)).toThrow(/EINVAL/);
  }
});

test('ending an association that was never made, or has ended, drops no reference', () => {
  const other = world.device();
  const cdev = world.openCdev(other.device.cdev);
  const kvm = { getUnlessDying: () => true, put: () => undefined, isAlive: true };
  const { core } = world;
  core.run(cdev.setKvmSteps(null));
  core.run(cdev.setKvmSteps(kvm));
  core.run(cdev.setKvmSteps(kvm));
  core.run(cdev.setKvmSteps(null));
  core.run(cdev.setKvmSteps(null));
  expect(cdev.kvm).toBe(null);
  // It is open until its own close.
  expect(() => cdev.getInfo()).toThrow(/EINVAL\n.*bind it to an iommufd first/);
  cdev[Symbol.dispose]();
  core.run(cdev.setKvmSteps(null));
  world.remove(other);
  expect(world.takeWarnings()).toEqual([]);
});

test('the driver without an IOMMU answers for its own type only', () => {
  expect(noiommuDriver.checkExtension(VFIO_NOIOMMU_IOMMU)).toBe(1);
  expect(noiommuDriver.checkExtension(VFIO_TYPE1v2_IOMMU)).toBe(0);
});

test('a count that reached 0 stays there, and each imbalance is reported once', () => {
  const warnings: string[] = [];
  const refs = new RefCount('it', 0, (text) => warnings.push(text));
  expect([refs.count, refs.getUnlessZero()]).toEqual([0, false]);
  refs.start();
  refs.get();
  expect([refs.count, refs.getUnlessZero(), refs.count]).toEqual([2, true, 3]);
  expect([refs.put(), refs.put(), refs.put()]).toEqual([false, false, true]);
  expect(warnings).toEqual([]);
  expect(refs.put()).toBe(false);
  refs.get();
  expect([refs.count, refs.getUnlessZero()]).toEqual([0, false]);
  expect(warnings).toHaveLength(2);
  refs.start();
  refs.start();
  expect([refs.count, warnings]).toEqual([1, new Array(3).fill(expect.stringMatching(/^it: /))]);
});
