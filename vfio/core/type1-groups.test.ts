import { afterEach, beforeEach, expect, test } from 'vitest';
import { type Hva, iova } from '../../sys/address.js';
import { createSharedMemory, Mapping, PROT_READ, PROT_WRITE } from '../../sys/mapping.js';
import { Scope } from '../../sys/scope.js';
import { RecordingListener } from '../testing/recording-listener.js';
import { World, type WorldDevice } from '../testing/world.js';
import {
  type IommuInfo,
  VFIO_DMA_CC_IOMMU,
  VFIO_DMA_MAP_FLAG_READ,
  VFIO_DMA_MAP_FLAG_WRITE,
  VFIO_DMA_UNMAP_FLAG_ALL,
  VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP,
  VFIO_TYPE1_IOMMU,
  VFIO_TYPE1v2_IOMMU,
} from '../uapi.js';
import type { CoreContainerFile } from './container.js';
import { DMA_ENTRY_LIMIT } from './dma-space.js';
import { VFIO_IOMMU_NOTIFY } from './group.js';
import type { CoreGroupFile } from './group-file.js';
import { type DmaUnmapEvent, VFIO_IOMMU_NOTIFY_DMA_UNMAP } from './iommu-driver.js';
import type { DmaUnmapDirty } from './type1.js';

const RW = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
const PAGE = 4096n;
const END = 1n << 64n;
type Ranges = IommuInfo['iovaRanges'];
const range = (first: bigint, pages: bigint) => ({
  start: iova(first * PAGE),
  last: iova((first + pages) * PAGE - 1n),
});

let world: World;
let scope: Scope;
let ram: Mapping;
beforeEach(() => {
  world = new World();
  scope = new Scope();
  ram = scope.own(Mapping.anonymous(0x10000));
});
afterEach(() => {
  scope[Symbol.dispose]();
  world.end();
});

/** An open group whose IOMMU has these ranges. */
function group(ranges: Ranges = [], isCoherent = true): CoreGroupFile & { readonly made: WorldDevice } {
  const made = world.device({ group: world.iommuGroup({ isCoherent, iovaRanges: ranges }) });
  scope.defer(() => world.remove(made));
  return Object.assign(scope.own(world.openGroup(made.device.group.number)), { made });
}

/** A container with an IOMMU and these groups. */
function containerOf(type: number, ...groups: CoreGroupFile[]): CoreContainerFile {
  const container = scope.own(world.openContainer());
  for (const each of groups) each.setContainer(container);
  container.setIommu(type);
  return container;
}

const map = (container: CoreContainerFile, at: bigint, size = PAGE, vaddr: bigint = ram.hva, flags = RW) =>
  container.mapDma({ flags, vaddr: vaddr as Hva, iova: iova(at), size });
const unmap = (container: CoreContainerFile, at: bigint, size: bigint, flags = 0) =>
  container.unmapDma({ flags, iova: iova(at), size });

test('the IOVA ranges are those that all groups have in common, and wider again when a group leaves', () => {
  const [wide, low, any] = [group([range(0n, 64n)]), group([range(0n, 16n)]), group()];
  const container = containerOf(VFIO_TYPE1v2_IOMMU, any);
  const ranges = () => container.getIommuInfo().iovaRanges;
  expect(ranges()).toEqual([]);
  wide.setContainer(container);
  expect(ranges()).toEqual([range(0n, 64n)]);
  low.setContainer(container);
  expect(ranges()).toEqual([range(0n, 16n)]);
  expect(() => map(container, 16n * PAGE)).toThrow(/EINVAL\n.*outside the IOVA ranges/);
  any.unsetContainer();
  expect(ranges()).toEqual([range(0n, 16n)]);
  low.unsetContainer();
  expect(ranges()).toEqual([range(0n, 64n)]);
  map(container, 16n * PAGE);
  any.setContainer(container);
  wide.unsetContainer();
  expect(ranges()).toEqual([]);
  map(container, 64n * PAGE);
});

test('a group that reaches none of the others’ IOVAs, or not what is mapped, stays outside, and nothing changes', () => {
  const [low, high, wide] = [group([range(0n, 16n)]), group([range(16n, 16n)]), group([range(0n, 32n)])];
  const container = containerOf(VFIO_TYPE1v2_IOMMU, wide);
  map(container, 15n * PAGE, PAGE);
  expect(() => high.setContainer(container)).toThrow(/SET_CONTAINER on .*EINVAL\n.*cannot reach 0xf000/);
  low.setContainer(container);
  expect(() => high.setContainer(container)).toThrow(/EINVAL\n.*no IOVA that all groups can reach/);
  low.unsetContainer();
  expect(container.getIommuInfo().iovaRanges).toEqual([range(0n, 32n)]);
  unmap(container, 15n * PAGE, PAGE);
  high.setContainer(container);
  expect(() => high.setContainer(container)).toThrow(/EINVAL/);
});

test('SET_IOMMU for groups with no IOVA in common is EINVAL, and leaves the container without an IOMMU', () => {
  const [low, high] = [group([range(0n, 16n)]), group([range(16n, 16n)])];
  const container = scope.own(world.openContainer());
  for (const each of [low, high]) each.setContainer(container);
  expect(() => container.setIommu(VFIO_TYPE1v2_IOMMU)).toThrow(/EINVAL\n.*no IOVA/);
  expect(world.core.live.get('vfio-iommu-type1')).toBeUndefined();
  expect(() => container.getIommuInfo()).toThrow(/EINVAL/);
  high.unsetContainer();
  container.setIommu(VFIO_TYPE1v2_IOMMU);
  expect(container.getIommuInfo()).toEqual({
    pageSizes: END - PAGE,
    iovaRanges: [range(0n, 16n)],
    dmaAvailable: DMA_ENTRY_LIMIT,
  });
});

test('DMA is coherent if it is for every group of the container', () => {
  const [yes, no] = [group([], true), group([], false)];
  const container = containerOf(VFIO_TYPE1v2_IOMMU, yes, no);
  expect(container.checkExtension(VFIO_DMA_CC_IOMMU)).toBe(0);
  no.unsetContainer();
  expect(container.checkExtension(VFIO_DMA_CC_IOMMU)).toBe(1);
  no.setContainer(container);
  yes.unsetContainer();
  expect(container.checkExtension(VFIO_DMA_CC_IOMMU)).toBe(0);
});

test.each([
  { what: 'an IOVA that wraps', at: END - PAGE, size: 2n * PAGE, hint: /the range wraps/ },
  { what: 'memory that wraps', vaddr: END - PAGE, size: 2n * PAGE, hint: /the range wraps/ },
  { what: 'a part of a page', size: PAGE - 1n, hint: /multiples of the page size/ },
])('MAP_DMA of $what is EINVAL', ({ at = 0n, vaddr, size, hint }) => {
  const container = containerOf(VFIO_TYPE1v2_IOMMU, group());
  expect(() => map(container, at, size, vaddr)).toThrow(hint);
  expect(container.getIommuInfo().dmaAvailable).toBe(DMA_ENTRY_LIMIT);
});

test('memory that ends at 2^64 does not wrap: it is EFAULT, as it is not ours', () => {
  const container = containerOf(VFIO_TYPE1v2_IOMMU, group());
  expect(() => map(container, 0n, PAGE, END - PAGE)).toThrow(/EFAULT/);
});

test('memory that is read-only is mapped for reading only', () => {
  const container = containerOf(VFIO_TYPE1v2_IOMMU, group());
  using file = createSharedMemory('ram', 4096);
  using memory = Mapping.file(file.fd, 4096, { isWritable: false });
  expect(() => map(container, 0n, PAGE, memory.hva)).toThrow(/EFAULT\n.*read-only/);
  map(container, 0n, PAGE, memory.hva, VFIO_DMA_MAP_FLAG_READ);
});

test.each([
  { what: 'an unknown flag', flags: 0x80, at: 0n, size: PAGE },
  { what: 'all, and a bitmap', flags: 3, at: 0n, size: 0n },
  { what: 'all, at an IOVA', flags: VFIO_DMA_UNMAP_FLAG_ALL, at: PAGE, size: 0n },
  { what: 'all, with a size', flags: VFIO_DMA_UNMAP_FLAG_ALL, at: 0n, size: PAGE },
  { what: 'a bitmap that is not there', flags: VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP, at: 0n, size: PAGE },
  { what: 'a range that begins inside a map', flags: 0, at: PAGE, size: PAGE },
  { what: 'a range that ends inside a map', flags: 0, at: 0n, size: PAGE },
  { what: 'an empty range', flags: 0, at: 0n, size: 0n },
  { what: 'a range that wraps', flags: 0, at: END - PAGE, size: 2n * PAGE },
])('UNMAP_DMA of $what is EINVAL, and unmaps nothing', ({ flags, at, size }) => {
  const container = containerOf(VFIO_TYPE1v2_IOMMU, group());
  map(container, 0n, 2n * PAGE);
  container.dirtyPages.start();
  expect(() => unmap(container, at, size, flags)).toThrow(/VFIO_IOMMU_UNMAP_DMA on .*EINVAL/);
  expect(unmap(container, 0n, 2n * PAGE)).toBe(2n * PAGE);
});

test('UNMAP_DMA with a bitmap of another page size is EINVAL, and reports from the range’s start', () => {
  const one = group();
  const container = containerOf(VFIO_TYPE1v2_IOMMU, one);
  scope.own(one.getDeviceFd(one.made.device.name));
  container.dirtyPages.start();
  map(container, 4n * PAGE, PAGE);
  map(container, 6n * PAGE, 2n * PAGE);
  one.made.device.dma.rw(iova(7n * PAGE), new Uint8Array(1), true);
  const bitmap = new Uint8Array(8);
  const ask = (pageSize: bigint): bigint => {
    const flags = VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP;
    const dirty = { pageSize, bitmap };
    return container.unmapDma({ flags, iova: iova(2n * PAGE), size: 8n * PAGE, dirty } as DmaUnmapDirty);
  };
  expect(() => ask(2n * PAGE)).toThrow(/EINVAL\n.*page size must be 4096/);
  expect(ask(PAGE)).toBe(3n * PAGE);
  expect([...bitmap]).toEqual([1 << 5, 0, 0, 0, 0, 0, 0, 0]);
});

test('version 1 unmaps what begins in the range, with what lies behind its end, and nothing that begins before', () => {
  const container = containerOf(VFIO_TYPE1_IOMMU, group());
  for (const page of [0n, 4n, 8n]) map(container, page * PAGE, 4n * PAGE);
  expect(unmap(container, 2n * PAGE, 4n * PAGE)).toBe(0n);
  expect(unmap(container, 4n * PAGE, 5n * PAGE)).toBe(8n * PAGE);
  expect(unmap(container, 0n, 16n * PAGE)).toBe(4n * PAGE);
});

test('tracking that starts again keeps what is dirty; after a stop it begins anew, and maps made meanwhile are tracked', () => {
  const one = group();
  const container = containerOf(VFIO_TYPE1v2_IOMMU, one);
  scope.own(one.getDeviceFd(one.made.device.name));
  const { dirtyPages } = container;
  map(container, 0n, 4n * PAGE);
  const write = (page: bigint) => one.made.device.dma.rw(iova(page * PAGE), new Uint8Array(1), true);
  const dirty = (pages: bigint) => {
    const bitmap = new Uint8Array(8);
    dirtyPages.getBitmap({ iova: iova(0n), size: pages * PAGE, pageSize: PAGE, bitmap });
    return bitmap[0];
  };
  dirtyPages.stop();
  dirtyPages.start();
  write(1n);
  dirtyPages.start();
  map(container, 4n * PAGE, 2n * PAGE);
  write(5n);
  expect(dirty(6n)).toBe(0b100010);
  write(2n);
  dirtyPages.stop();
  // Nothing is recorded, so nothing is kept for it.
  const { space } = one.made.device.group.container?.backend ?? {};
  expect(space?.maps.map((dma) => dma.dirty)).toEqual([undefined, undefined]);
  write(3n);
  dirtyPages.start();
  expect(dirty(6n)).toBe(0);
});

test('a driver that unmaps the map it is told of counts it once, and the call in progress counts none', () => {
  const one = group();
  const container = containerOf(VFIO_TYPE1v2_IOMMU, one);
  const { ops } = one.made;
  scope.own(one.getDeviceFd(one.made.device.name));
  map(container, 0n, PAGE);
  map(container, 4n * PAGE, PAGE);
  const inner: bigint[] = [];
  ops.dmaUnmap = (at, size) => {
    if (inner.length > 0 || at !== 0n) return;
    inner.push(-1n);
    inner.push(unmap(container, at, size));
  };
  expect(unmap(container, 0n, 8n * PAGE)).toBe(PAGE);
  expect(inner).toEqual([-1n, PAGE]);
  expect(container.getIommuInfo().dmaAvailable).toBe(DMA_ENTRY_LIMIT);
});

test('listeners of unmaps ask for that event only, and one that is left is warned of with the IOMMU', () => {
  const one = group();
  const container = containerOf(VFIO_TYPE1v2_IOMMU, one);
  const { device } = one.made;
  const listener = new RecordingListener<DmaUnmapEvent>('p2p');
  const register = (mask: number) => {
    const events = { mask };
    try {
      world.core.run(device.registerNotifier(VFIO_IOMMU_NOTIFY, events, listener));
      return events.mask;
    } catch (error) {
      return String(error);
    }
  };
  expect(register(VFIO_IOMMU_NOTIFY_DMA_UNMAP | 2)).toMatch(/EINVAL\n.*unknown events 0x2/);
  expect(device.group.containerUsers).toBe(1);
  expect(register(VFIO_IOMMU_NOTIFY_DMA_UNMAP)).toBe(0);
  map(container, 0n);
  unmap(container, 0n, PAGE);
  expect(listener.heard).toEqual([{ iova: 0n, size: PAGE }]);
  one.unsetContainer();
  expect(world.takeWarnings()).toEqual(['container (core) loses its IOMMU with listeners: p2p']);
});

test('when the last group leaves, drivers are told of each map', () => {
  const one = group();
  const container = containerOf(VFIO_TYPE1v2_IOMMU, one);
  map(container, 0n);
  map(container, 4n * PAGE);
  const { device } = one.made;
  const told: bigint[] = [];
  const space = device.group.container?.backend?.space;
  space?.clients.add({ name: 'client', dmaUnmap: (at) => told.push(at) });
  one.unsetContainer();
  expect(told).toEqual([0n, 4n * PAGE]);
  expect(world.core.live.get('vfio_dma')).toBeUndefined();
});

test('remote memory is accessed by its owner, and can be neither pinned nor reached by a table', () => {
  const one = group();
  const container = containerOf(VFIO_TYPE1v2_IOMMU, one);
  scope.own(one.getDeviceFd(one.made.device.name));
  const { dma } = one.made.device;
  const asked: [bigint, number, boolean][] = [];
  const remote = {
    rw: (at: bigint, data: Uint8Array, isWrite: boolean) => {
      asked.push([at, data.length, isWrite]);
      if (!isWrite) data.fill(7);
    },
  };
  map(container, 0n);
  container.mapDma({ flags: RW, remote, iova: iova(PAGE), size: PAGE });
  const data = new Uint8Array(6);
  dma.rw(iova(PAGE - 2n), data, false);
  expect([...data]).toEqual([0, 0, 7, 7, 7, 7]);
  dma.rw(iova(PAGE + 5n), data, true);
  expect(asked).toEqual([
    [PAGE, 4, false],
    [PAGE + 5n, 6, true],
  ]);
  expect(() => dma.pinPages(iova(0n), 2, PROT_READ | PROT_WRITE)).toThrow(/EFAULT\n.*another process/);
  expect(dma.unpinPages(iova(0n), 2)).toBe(0);
});
