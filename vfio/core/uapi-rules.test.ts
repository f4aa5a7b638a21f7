import { afterEach, beforeEach, expect, test } from 'vitest';
import { iova } from '../../sys/address.js';
import { Mapping, PROT_READ, PROT_WRITE } from '../../sys/mapping.js';
import { World } from '../testing/world.js';
import {
  type DmaMap,
  type GfxPlaneQuery,
  VFIO_DMA_CC_IOMMU,
  VFIO_DMA_MAP_FLAG_READ,
  VFIO_DMA_MAP_FLAG_WRITE,
  VFIO_DMA_UNMAP_FLAG_ALL,
  VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP,
  VFIO_GFX_PLANE_TYPE_DMABUF,
  VFIO_GFX_PLANE_TYPE_PROBE,
  VFIO_GFX_PLANE_TYPE_REGION,
  VFIO_IRQ_SET_ACTION_MASK,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_DATA_BOOL,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
  VFIO_NOIOMMU_IOMMU,
  VFIO_TYPE1_IOMMU,
  VFIO_TYPE1v2_IOMMU,
  VFIO_UNMAP_ALL,
} from '../uapi.js';

const rw = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
const PAGE = 4096n;

let world: World;
let ram: Mapping;
beforeEach(() => {
  world = new World({ ports: { hasRawio: () => true }, enableUnsafeNoiommuMode: true });
  ram = Mapping.anonymous(0x100000);
});
afterEach(() => {
  ram[Symbol.dispose]();
  world.end();
});

const map = (at: bigint, size: bigint, flags = rw): DmaMap => ({
  flags,
  vaddr: ram.hva,
  iova: iova(at),
  size,
});

test('F1 SET_IOMMU without a group, or when set, is EINVAL; an unsupported type is ENODEV', () => {
  const made = world.device();
  const container = world.openContainer();
  expect(() => container.setIommu(VFIO_TYPE1v2_IOMMU)).toThrowError(/EINVAL/);
  const group = world.openGroup(made.device.group.number);
  group.setContainer(container);
  expect(() => container.setIommu(7)).toThrowError(/ENODEV/);
  expect(() => container.setIommu(VFIO_NOIOMMU_IOMMU)).toThrowError(/ENODEV/);
  container.setIommu(VFIO_TYPE1v2_IOMMU);
  expect(() => container.setIommu(VFIO_TYPE1v2_IOMMU)).toThrowError(/EINVAL/);
  group[Symbol.dispose]();
  container[Symbol.dispose]();
  world.remove(made);
});

test('F2 CHECK_EXTENSION asks every back-end before SET_IOMMU, and after it only the chosen one', () => {
  const made = world.device({ group: world.iommuGroup({ isCoherent: false, iovaRanges: [] }) });
  const container = world.openContainer();
  for (const extension of [VFIO_TYPE1_IOMMU, VFIO_TYPE1v2_IOMMU, VFIO_NOIOMMU_IOMMU, VFIO_UNMAP_ALL]) {
    expect(container.checkExtension(extension)).toBe(1);
  }
  expect(container.checkExtension(7)).toBe(0);
  const group = world.openGroup(made.device.group.number);
  group.setContainer(container);
  container.setIommu(VFIO_TYPE1v2_IOMMU);
  expect(container.checkExtension(VFIO_NOIOMMU_IOMMU)).toBe(0);
  expect(container.checkExtension(VFIO_TYPE1v2_IOMMU)).toBe(1);
  expect(container.checkExtension(VFIO_DMA_CC_IOMMU)).toBe(0);
  group[Symbol.dispose]();
  container[Symbol.dispose]();
  world.remove(made);
});

test('F3 detaching the last group releases the IOMMU and all maps', () => {
  const [first, second] = [world.device(), world.device()];
  const one = world.contain(first);
  const two = world.contain(second, one.container);
  one.container.mapDma(map(0n, PAGE));
  one.container.mapDma(map(0x10000n, PAGE));
  const before = one.container.getIommuInfo().dmaAvailable;
  one.group.unsetContainer();
  expect(two.container.getIommuInfo().dmaAvailable).toBe(before);
  two.group.unsetContainer();
  expect(world.core.live.get('vfio_dma')).toBeUndefined();
  expect(() => one.container.getIommuInfo()).toThrowError(/EINVAL/);
  two.group.setContainer(one.container);
  one.container.setIommu(VFIO_TYPE1v2_IOMMU);
  expect(one.container.unmapDma({ flags: VFIO_DMA_UNMAP_FLAG_ALL, iova: iova(0n), size: 0n })).toBe(0n);
  two.close();
  one.close();
  world.remove(first, second);
});

test('F4 a group opened twice is EBUSY, and so is a reopen while the old container exists', () => {
  const made = world.device();
  const contained = world.contain(made);
  const { number } = made.device.group;
  expect(() => world.openGroup(number)).toThrowError(/EBUSY/);
  const file = world.open(contained, made);
  contained.close();
  expect(made.device.group.container).toBeDefined();
  expect(() => world.openGroup(number)).toThrowError(/EBUSY/);
  file[Symbol.dispose]();
  expect(made.device.group.container).toBeUndefined();
  world.openGroup(number)[Symbol.dispose]();
  world.remove(made);
});

test('F5 groups with and without an IOMMU cannot share a container (EPERM), and one without needs CAP_SYS_RAWIO (EPERM)', () => {
  let isAllowed = true;
  const own = new World({ ports: { hasRawio: () => isAllowed }, enableUnsafeNoiommuMode: true });
  const [real, bare] = [own.device(), own.device({ group: undefined })];
  const container = own.openContainer();
  const [realGroup, bareGroup] = [real, bare].map(({ device }) => own.openGroup(device.group.number));
  realGroup?.setContainer(container);
  expect(() => bareGroup?.setContainer(container)).toThrowError(/EPERM/);
  realGroup?.unsetContainer();
  bareGroup?.setContainer(container);
  expect(() => realGroup?.setContainer(container)).toThrowError(/EPERM/);
  container.setIommu(VFIO_NOIOMMU_IOMMU);
  bareGroup?.getDeviceFd(bare.device.name)[Symbol.dispose]();
  isAllowed = false;
  expect(() => bareGroup?.getDeviceFd(bare.device.name)).toThrowError(/EPERM/);
  bareGroup?.[Symbol.dispose]();
  expect(() => own.openGroup(bare.device.group.number)).toThrowError(/EPERM/);
  for (const file of [realGroup, container]) file?.[Symbol.dispose]();
  own.remove(real, bare);
  own.takeWarnings();
  own.end();
});

test('F6 GET_DEVICE_FD: not contained, without an IOMMU or not viable is EINVAL, an unknown name ENODEV', () => {
  const iommuGroup = world.iommuGroup();
  const made = world.device({ group: iommuGroup });
  const neighbour = world.prepare({ group: iommuGroup });
  neighbour.dev.driver = undefined;
  const group = world.openGroup(made.device.group.number);
  expect(() => group.getDeviceFd(made.device.name)).toThrowError(/EINVAL/);
  const container = world.openContainer();
  group.setContainer(container);
  expect(() => group.getDeviceFd(made.device.name)).toThrowError(/EINVAL/);
  container.setIommu(VFIO_TYPE1v2_IOMMU);
  expect(() => group.getDeviceFd('0000:99:00.0')).toThrowError(/ENODEV/);
  neighbour.dev.driver = 'e1000e';
  expect(() => group.getDeviceFd(made.device.name)).toThrowError(/EINVAL/);
  neighbour.dev.driver = undefined;
  group.getDeviceFd(made.device.name)[Symbol.dispose]();
  group[Symbol.dispose]();
  container[Symbol.dispose]();
  world.remove(made);
});

test('F7 pin_pages is EINVAL in a group of several devices and for an unmapped IOVA, E2BIG for too many pages, EPERM against the direction of the map', () => {
  const iommuGroup = world.iommuGroup();
  const made = world.device({ group: iommuGroup });
  const contained = world.contain(made);
  contained.container.mapDma(map(0n, 16n * PAGE));
  contained.container.mapDma(map(0x100000n, PAGE, VFIO_DMA_MAP_FLAG_READ));
  const file = world.open(contained, made);
  const { dma } = made.device;
  const pages = dma.pinPages(iova(PAGE), 2, PROT_READ | PROT_WRITE);
  pages[1]?.set([42]);
  expect(ram.view.slice(0x2000, 1)[0]).toBe(42);
  expect(() => dma.pinPages(iova(0n), 513, PROT_READ)).toThrowError(/E2BIG/);
  expect(() => dma.pinPages(iova(15n * PAGE), 2, PROT_READ)).toThrowError(/EINVAL/);
  expect(() => dma.pinPages(iova(0x100000n), 1, PROT_WRITE)).toThrowError(/EPERM/);
  expect(dma.unpinPages(iova(PAGE), 2)).toBe(2);
  expect(dma.unpinPages(iova(PAGE), 2)).toBe(0);
  const second = world.device({ group: iommuGroup });
  expect(world.takeWarnings()).toHaveLength(1);
  expect(() => dma.pinPages(iova(0n), 1, PROT_READ)).toThrowError(/EINVAL/);
  file[Symbol.dispose]();
  contained.close();
  world.remove(made, second);
});

const badIrqSets: readonly [string, Parameters<ReturnType<World['open']>['setIrqs']>[0]][] = [
  ['no such index', { index: 2, flags: 0x21, start: 0, count: 1 }],
  ['start past the end', { index: 1, flags: 0x21, start: 8, count: 0 }],
  ['count past the end', { index: 1, flags: 0x21, start: 4, count: 5 }],
  ['start + count wraps', { index: 1, flags: 0x21, start: 1, count: 0xffff_ffff }],
  ['negative', { index: 1, flags: 0x21, start: -1, count: 1 }],
  ['unknown flag', { index: 1, flags: 0x61, start: 0, count: 1 }],
  ['no kind of data', { index: 1, flags: VFIO_IRQ_SET_ACTION_TRIGGER, start: 0, count: 1 }],
  ['two kinds of data', { index: 1, flags: 0x23, start: 0, count: 1, data: [1] }],
  [
    'too little data',
    {
      index: 1,
      flags: VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
      start: 0,
      count: 2,
      data: [-1],
    },
  ],
  ['no data', { index: 1, flags: VFIO_IRQ_SET_DATA_BOOL | VFIO_IRQ_SET_ACTION_MASK, start: 0, count: 1 }],
];

test('F8 SET_IRQS: invalid start, count, flags and data are EINVAL before the driver is called', () => {
  const made = world.device({ irqs: [1, 8] });
  const contained = world.contain(made);
  const file = world.open(contained, made);
  for (const [what, set] of badIrqSets) {
    expect(() => file.setIrqs(set), what).toThrowError(/EINVAL/);
  }
  expect(() => file.setIrqs({ index: 1, flags: 0x01, start: 0, count: 1 })).toThrowError(/ENOTTY/);
  expect(() => file.setIrqs({ index: 1, flags: 0x31, start: 0, count: 1 })).toThrowError(/ENOTTY/);
  expect(made.ops.irqSet).toBeUndefined();
  const off = { index: 1, flags: VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER, start: 0, count: 0 };
  file.setIrqs(off);
  expect(made.ops.irqSet).toEqual(off);
  file[Symbol.dispose]();
  contained.close();
  world.remove(made);
});

test('SET_IRQS with a kind of data and a count of 0 carries none, and the driver decides', () => {
  const made = world.device({ irqs: [1, 8] });
  const contained = world.contain(made);
  const file = world.open(contained, made);
  for (const type of [VFIO_IRQ_SET_DATA_BOOL, VFIO_IRQ_SET_DATA_EVENTFD]) {
    const none = { index: 1, flags: type | VFIO_IRQ_SET_ACTION_TRIGGER, start: 0, count: 0, data: [] };
    file.setIrqs(none);
    expect(made.ops.irqSet).toEqual(none);
  }
  file[Symbol.dispose]();
  contained.close();
  world.remove(made);
});

test('type1 tracks dirty pages of maps that are written, and unmap hands over the last of them', () => {
  const made = world.device();
  const contained = world.contain(made);
  const { container } = contained;
  container.mapDma(map(0x10000n, 16n * PAGE));
  const file = world.open(contained, made);
  const { dma } = made.device;
  const range = { iova: iova(0x10000n), size: 16n * PAGE, pageSize: PAGE };
  const bitmap = new Uint8Array(8);
  expect(() => container.dirtyPages.getBitmap({ ...range, bitmap })).toThrowError(/EINVAL/);
  container.dirtyPages.start();
  dma.rw(iova(0x11fffn), new Uint8Array(2), true);
  dma.rw(iova(0x15000n), new Uint8Array(2), false);
  container.dirtyPages.getBitmap({ ...range, bitmap });
  expect([...bitmap]).toEqual([0b110, 0, 0, 0, 0, 0, 0, 0]);
  bitmap.fill(0);
  container.dirtyPages.getBitmap({ ...range, bitmap });
  expect([...bitmap]).toEqual(Array(8).fill(0));
  expect(() => container.dirtyPages.getBitmap({ ...range, size: PAGE, bitmap })).toThrowError(/EINVAL/);
  expect(() => container.dirtyPages.getBitmap({ ...range, bitmap: new Uint8Array(1) })).toThrowError(
    /EINVAL/,
  );
  dma.rw(iova(0x1f000n), new Uint8Array(1), true);
  const flags = VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP;
  const unmap = { flags, iova: range.iova, size: range.size, dirty: { pageSize: PAGE, bitmap } };
  expect(container.unmapDma(unmap)).toBe(range.size);
  expect([...bitmap]).toEqual([0, 0b1000_0000, 0, 0, 0, 0, 0, 0]);
  container.dirtyPages.stop();
  file[Symbol.dispose]();
  contained.close();
  world.remove(made);
});

test('a device whose driver did not unpin what it pinned is told of when it closes, and the pages are free again', () => {
  const made = world.device();
  const contained = world.contain(made);
  contained.container.mapDma(map(0n, PAGE));
  const file = world.open(contained, made);
  made.device.dma.pinPages(iova(0n), 1, PROT_READ);
  file[Symbol.dispose]();
  expect(world.takeWarnings()).toEqual([`${made.device.name} is detached with 1 pages pinned`]);
  expect(contained.container.unmapDma({ flags: 0, iova: iova(0n), size: PAGE })).toBe(PAGE);
  contained.close();
  world.remove(made);
});

test('an IOMMU of a group narrows what can be mapped, and refuses to join maps it cannot reach', () => {
  const narrow = world.device({
    group: world.iommuGroup({
      isCoherent: true,
      iovaRanges: [{ start: iova(0x1000n), last: iova(0xfffffn) }],
    }),
  });
  const wide = world.device();
  const contained = world.contain(wide);
  contained.container.mapDma(map(0x10_0000n, PAGE));
  const group = world.openGroup(narrow.device.group.number);
  expect(() => group.setContainer(contained.container)).toThrowError(/EINVAL/);
  contained.container.unmapDma({ flags: 0, iova: iova(0x10_0000n), size: PAGE });
  group.setContainer(contained.container);
  expect(contained.container.getIommuInfo().iovaRanges).toEqual([{ start: 0x1000n, last: 0xfffffn }]);
  for (const at of [0n, 0x10_0000n]) {
    expect(() => contained.container.mapDma(map(at, PAGE))).toThrowError(/EINVAL/);
  }
  contained.container.mapDma(map(0xff000n, PAGE));
  group[Symbol.dispose]();
  contained.close();
  world.remove(narrow, wide);
});

test('QUERY_GFX_PLANE: ENOTTY of what is no display, EINVAL unless the flags name one type of plane', () => {
  const world = new World();
  const made = world.device();
  const contained = world.contain(made);
  const file = world.open(contained, made);
  const query = (flags: number) => file.queryGfxPlane({ flags, drmPlaneType: 1 });
  expect(() => query(VFIO_GFX_PLANE_TYPE_REGION)).toThrowError(/ENOTTY/);
  const asked: number[] = [];
  const shown = { drmFormat: 1, drmFormatMod: 0n, width: 2, height: 3, stride: 8, size: 4096, offset: 0 };
  const plane = { ...shown, xPos: 0, yPos: 0, xHot: 0, yHot: 0, regionIndex: 0 };
  Object.assign(made.ops, {
    queryGfxPlane({ flags }: GfxPlaneQuery) {
      asked.push(flags);
      return plane;
    },
  });
  for (const flags of [0, VFIO_GFX_PLANE_TYPE_PROBE, 6, 7, 8, 12])
    expect(() => query(flags)).toThrowError(/EINVAL/);
  expect(query(VFIO_GFX_PLANE_TYPE_REGION)).toBe(plane);
  expect(query(VFIO_GFX_PLANE_TYPE_PROBE | VFIO_GFX_PLANE_TYPE_DMABUF)).toBe(plane);
  expect(asked).toEqual([4, 3]);
  file[Symbol.dispose]();
  contained.close();
  world.remove(made);
  world.end();
});
