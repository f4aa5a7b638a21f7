import { afterEach, beforeEach, expect, test } from 'vitest';
import { iova } from '../../sys/address.js';
import { Mapping, PROT_READ, PROT_WRITE } from '../../sys/mapping.js';
import { createDmaTable, DmaTableReader, DmaTableWriter } from '../dma-table.js';
import { RecordingListener } from '../testing/recording-listener.js';
import { type Contained, World, type WorldDevice } from '../testing/world.js';
import {
  VFIO_DMA_MAP_FLAG_READ,
  VFIO_DMA_MAP_FLAG_WRITE,
  VFIO_DMA_UNMAP_FLAG_ALL,
  VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP,
  VFIO_TYPE1_IOMMU,
} from '../uapi.js';
import { DMA_ENTRY_LIMIT } from './dma-space.js';
import { VFIO_IOMMU_NOTIFY } from './group.js';
import { type DmaUnmapEvent, VFIO_IOMMU_NOTIFY_DMA_UNMAP } from './iommu-driver.js';
import type { DmaUnmapDirty } from './type1.js';

const RW = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
const PAGE = 4096n;

let world: World;
let ram: Mapping;
let made: WorldDevice;
beforeEach(() => {
  world = new World();
  ram = Mapping.anonymous(0x100000);
  made = world.device();
});
afterEach(() => {
  world.remove(made);
  ram[Symbol.dispose]();
  world.end();
});

const map = ({ container }: Contained, at: bigint, size: bigint, flags = RW) =>
  container.mapDma({ flags, vaddr: ram.hva, iova: iova(at), size });
const unmap = ({ container }: Contained, at: bigint, size: bigint) =>
  container.unmapDma({ flags: 0, iova: iova(at), size });

test('a copy may cross maps, is all or nothing, and goes only where the maps allow', () => {
  const contained = world.contain(made);
  const { container } = contained;
  container.mapDma({ flags: RW, vaddr: ram.hva, iova: iova(0x1000n), size: PAGE });
  const second = { vaddr: (ram.hva + 0x8000n) as typeof ram.hva, iova: iova(0x2000n), size: PAGE };
  container.mapDma({ flags: VFIO_DMA_MAP_FLAG_READ, ...second });
  const file = world.open(contained, made);
  const { dma } = made.device;
  ram.view.slice(0xffe, 2).set([1, 2]);
  ram.view.slice(0x8000, 2).set([3, 4]);
  const data = new Uint8Array(4);
  dma.rw(iova(0x1ffen), data, false);
  expect([...data]).toEqual([1, 2, 3, 4]);
  expect(() => dma.rw(iova(0x1ffen), data.fill(9), true)).toThrowError(/EPERM/);
  expect([...ram.view.slice(0xffe, 2)]).toEqual([1, 2]);
  expect(() => dma.rw(iova(0x2ffen), data, false)).toThrowError(/EFAULT/);
  file[Symbol.dispose]();
  contained.close();
});

test('memory that its owner has unmapped is EFAULT, not a crash', () => {
  const contained = world.contain(made);
  const own = Mapping.anonymous(0x1000);
  const vaddr = own.hva;
  contained.container.mapDma({ flags: RW, vaddr, iova: iova(0n), size: PAGE });
  const file = world.open(contained, made);
  own[Symbol.dispose]();
  expect(() => made.device.dma.rw(iova(0n), new Uint8Array(1), false)).toThrowError(/EFAULT/);
  expect(() => contained.container.mapDma({ flags: RW, vaddr, iova: iova(PAGE), size: PAGE })).toThrowError(
    /EFAULT/,
  );
  file[Symbol.dispose]();
  contained.close();
});

test("an unmap tells listeners and drivers before the memory is gone, without holding the IOMMU's lock", () => {
  const contained = world.contain(made);
  const file = world.open(contained, made);
  map(contained, 0n, PAGE);
  const reachable: boolean[] = [];
  const listener = new RecordingListener<DmaUnmapEvent>('p2p', (_event, { iova: at }) => {
    const data = new Uint8Array(1);
    made.device.dma.rw(at, data, false);
    expect(contained.container.unmapDma({ flags: 0, iova: iova(0x100000n), size: PAGE })).toBe(0n);
    reachable.push(true);
  });
  const events = { mask: VFIO_IOMMU_NOTIFY_DMA_UNMAP };
  world.core.run(made.device.registerNotifier(VFIO_IOMMU_NOTIFY, events, listener));
  expect(events.mask).toBe(0);
  expect(unmap(contained, 0n, 4n * PAGE)).toBe(PAGE);
  expect(listener.heard).toEqual([{ iova: 0n, size: PAGE }]);
  expect(reachable).toEqual([true]);
  expect(made.ops.calls).toContain('dmaUnmap 0x0 0x1000');
  world.core.run(made.device.unregisterNotifier(VFIO_IOMMU_NOTIFY, listener));
  file[Symbol.dispose]();
  contained.close();
});

test('a driver that unpins when it is told is in order, and a map that goes with pages pinned is told of', () => {
  const contained = world.contain(made);
  const file = world.open(contained, made);
  const { dma } = made.device;
  const unpinning = new RecordingListener<DmaUnmapEvent>('driver', (_event, { iova: at }) =>
    dma.unpinPages(at, 2),
  );
  map(contained, 0n, 2n * PAGE);
  dma.pinPages(iova(0n), 2, PROT_READ | PROT_WRITE);
  world.core.run(
    made.device.registerNotifier(VFIO_IOMMU_NOTIFY, { mask: VFIO_IOMMU_NOTIFY_DMA_UNMAP }, unpinning),
  );
  expect(unmap(contained, 0n, 2n * PAGE)).toBe(2n * PAGE);
  expect(world.takeWarnings()).toEqual([]);
  world.core.run(made.device.unregisterNotifier(VFIO_IOMMU_NOTIFY, unpinning));

  map(contained, 0n, 2n * PAGE);
  dma.pinPages(iova(0n), 2, PROT_READ | PROT_WRITE);
  expect(unmap(contained, 0n, 2n * PAGE)).toBe(2n * PAGE);
  expect(world.takeWarnings()).toEqual(['container (core): 0x0 is unmapped with 2 pages pinned']);
  dma.unpinPages(iova(0n), 2);
  file[Symbol.dispose]();
  contained.close();
});

test('type1 of version 1 takes a map by its start only, and does not track dirty pages', () => {
  const group = world.openGroup(made.device.group.number);
  const container = world.openContainer();
  group.setContainer(container);
  container.setIommu(VFIO_TYPE1_IOMMU);
  const contained = { group, container, close: () => undefined };
  map(contained, 0n, 4n * PAGE);
  expect(unmap(contained, PAGE, PAGE)).toBe(0n);
  expect(unmap(contained, 0n, PAGE)).toBe(4n * PAGE);
  expect(() => container.dirtyPages).toThrowError(/EACCES/);
  group[Symbol.dispose]();
  container[Symbol.dispose]();
});

test('UNMAP_ALL and a wide UNMAP tell a driver of its maps upwards, and those below are unmapped by then', () => {
  const contained = world.contain(made);
  const file = world.open(contained, made);
  const { dma } = made.device;
  const starts = [0n, 2n, 3n, 9n].map((page) => page * PAGE);
  const isMapped = (start: bigint) => {
    try {
      dma.rw(iova(start), new Uint8Array(1), false);
      return true;
    } catch {
      return false;
    }
  };
  for (const [unmapFlags, size] of [
    [VFIO_DMA_UNMAP_FLAG_ALL, 0n],
    [0, 16n * PAGE],
  ] as const) {
    const left: bigint[][] = [];
    for (const start of starts) map(contained, start, PAGE);
    made.ops.dmaUnmap = () => left.push(starts.filter(isMapped));
    expect(contained.container.unmapDma({ flags: unmapFlags, iova: iova(0n), size })).toBe(4n * PAGE);
    expect(left).toEqual([starts, starts.slice(1), starts.slice(2), starts.slice(3)]);
  }
  file[Symbol.dispose]();
  contained.close();
});

test('UNMAP with a dirty bitmap while tracking is off is EINVAL, and unmaps nothing', () => {
  const contained = world.contain(made);
  const { container } = contained;
  map(contained, 0n, PAGE);
  const dirty = { pageSize: PAGE, bitmap: new Uint8Array(8) };
  const flags = VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP;
  const unmapDirty = () => container.unmapDma({ flags, iova: iova(0n), size: PAGE, dirty } as DmaUnmapDirty);
  expect(unmapDirty).toThrowError(/EINVAL\n.*tracking is off/);
  container.dirtyPages.start();
  expect(unmapDirty()).toBe(PAGE);
  contained.close();
});

test('a bitmap of dirty pages has whole units of 8 bytes, and 256 MiB at most, or is EINVAL', () => {
  const contained = world.contain(made);
  const { dirtyPages } = contained.container;
  dirtyPages.start();
  const ask = (pages: bigint, bytes: number) =>
    dirtyPages.getBitmap({
      iova: iova(0n),
      size: pages * PAGE,
      pageSize: PAGE,
      bitmap: new Uint8Array(bytes),
    });
  for (const [pages, bytes] of [
    [1n, 1],
    [1n, 7],
    [64n, 7],
    [65n, 9],
    [1n, 2 ** 28 + 8],
  ] as const) {
    expect(() => ask(pages, bytes), `${pages} pages, ${bytes} bytes`).toThrowError(/EINVAL/);
  }
  ask(1n, 8);
  ask(64n, 8);
  ask(65n, 16);
  contained.close();
});

test.each([1n, 8n, 9n])('the last of the %i pages of a map can be dirty', (pages) => {
  const contained = world.contain(made);
  const file = world.open(contained, made);
  const { dirtyPages } = contained.container;
  map(contained, 0n, pages * PAGE);
  dirtyPages.start();
  made.device.dma.rw(iova((pages - 1n) * PAGE), new Uint8Array(1), true);
  const bitmap = new Uint8Array(8);
  dirtyPages.getBitmap({ iova: iova(0n), size: pages * PAGE, pageSize: PAGE, bitmap });
  expect(new BigUint64Array(bitmap.buffer)[0]).toBe(1n << (pages - 1n));
  file[Symbol.dispose]();
  contained.close();
});

test('a map, its dirty pages and its unmap may end at 2^64', () => {
  const contained = world.contain(made);
  const { container } = contained;
  const last = (1n << 64n) - PAGE;
  map(contained, last, PAGE);
  container.dirtyPages.start();
  container.dirtyPages.getBitmap({
    iova: iova(last),
    size: PAGE,
    pageSize: PAGE,
    bitmap: new Uint8Array(8),
  });
  expect(unmap(contained, last, PAGE)).toBe(PAGE);
  contained.close();
});

test('a container takes 65,535 maps, one more is ENOSPC, and a device sees them all', () => {
  const contained = world.contain(made);
  const file = world.open(contained, made);
  const reader = new DmaTableReader(made.device.dma.table);
  for (let i = 0; i < DMA_ENTRY_LIMIT; i++) map(contained, BigInt(i) * 2n * PAGE, PAGE);
  expect(contained.container.getIommuInfo().dmaAvailable).toBe(0);
  expect(() => map(contained, 1n << 40n, PAGE)).toThrowError(/ENOSPC/);
  reader.enter();
  expect(reader.slice(0, 1, PROT_READ)).toBeDefined();
  expect(reader.slice(4096, 1, PROT_READ)).toBeUndefined();
  expect(reader.slice((DMA_ENTRY_LIMIT - 1) * 8192, 4096, PROT_WRITE)).toHaveLength(4096);
  reader.leave();
  const flags = VFIO_DMA_UNMAP_FLAG_ALL;
  expect(contained.container.unmapDma({ flags, iova: iova(0n), size: 0n })).toBe(
    BigInt(DMA_ENTRY_LIMIT) * PAGE,
  );
  file[Symbol.dispose]();
  contained.close();
});

test('a table follows insertions and removals anywhere, and refuses more than it can hold without a change', () => {
  const writer = new DmaTableWriter(createDmaTable(3));
  const reader = new DmaTableReader(writer.buffer);
  const entry = (at: number) => ({ iova: at, bytes: 4096, address: Number(ram.hva) + at, prot: PROT_READ });
  const starts = () => {
    reader.enter();
    const seen = [0, 0x1000, 0x2000, 0x3000].filter((at) => reader.slice(at, 1, PROT_READ) !== undefined);
    reader.leave();
    return seen;
  };
  writer.replace([entry(0), entry(0x2000)]);
  writer.splice(1, 0, [entry(0x1000)]);
  expect(starts()).toEqual([0, 0x1000, 0x2000]);
  expect(() => writer.splice(3, 0, [entry(0x3000)])).toThrowError(RangeError);
  expect(starts()).toEqual([0, 0x1000, 0x2000]);
  writer.splice(0, 1, []);
  expect(starts()).toEqual([0x1000, 0x2000]);
  writer.splice(1, 1, [entry(0x3000)]);
  expect(starts()).toEqual([0x1000, 0x3000]);
  writer.replace([]);
  expect(starts()).toEqual([]);
});

test('devices that a driver puts into one set share its lock and its open count', () => {
  const [a, b] = [world.prepare(), world.prepare()];
  const slot = { slot: '0000:01' };
  for (const { device } of [a, b]) {
    device.assignSet(slot);
    world.core.run(device.register());
  }
  expect(a.device.set).toBe(b.device.set);
  expect(made.device.set).not.toBe(a.device.set);
  const one = world.contain(a);
  const two = world.contain(b, one.container);
  const files = [world.open(one, a), world.open(one, a), world.open(two, b)];
  expect(a.device.set.openCount).toBe(3);
  for (const file of files) file[Symbol.dispose]();
  two.close();
  one.close();
  world.remove(a);
  expect(b.device.set.devices).toEqual(new Set([b.device]));
  world.remove(b);
  expect(world.core.registry.deviceSets.size).toBe(1);
});
