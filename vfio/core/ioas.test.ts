import { afterEach, beforeEach, expect, test } from 'vitest';
import { type Hva, type Iova, iova } from '../../sys/address.js';
import { Mapping, PROT_READ } from '../../sys/mapping.js';
import { Scope } from '../../sys/scope.js';
import { DmaTableReader } from '../dma-table.js';
import { FaultInjector } from '../testing/fault-injector.js';
import { World, type WorldDevice } from '../testing/world.js';
import { type IommuInfo, VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE } from '../uapi.js';
import type { CoreDeviceFile } from './device-file.js';
import { DMA_ENTRY_LIMIT } from './dma-space.js';
import { CoreIommufdFile } from './iommufd.js';

const flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
const PAGE = 4096n;
const MAX = (1n << 64n) - 1n;

let faults: FaultInjector;
let world: World;
let scope: Scope;
let ram: Mapping;
let iommufd: CoreIommufdFile;
beforeEach(() => {
  faults = new FaultInjector();
  world = new World({ ports: { allocate: (what) => faults.call(what) } });
  scope = new Scope();
  ram = scope.own(Mapping.anonymous(0x10000));
  iommufd = CoreIommufdFile.open(world.core.environment);
});
afterEach(() => {
  iommufd[Symbol.dispose]();
  scope[Symbol.dispose]();
  world.end();
});

const at = (offset: bigint): Hva => (ram.hva + offset) as Hva;
const map = (ioas: number, start: bigint, size = PAGE, vaddr = ram.hva) =>
  iommufd.ioasMap(ioas, { flags, vaddr, iova: iova(start), size });
const unmap = (ioas: number, start: bigint, size: bigint) =>
  iommufd.ioasUnmap(ioas, { iova: iova(start), size });

/** A device that is bound. */
function bound(ranges: IommuInfo['iovaRanges'] = []): WorldDevice & { readonly file: CoreDeviceFile } {
  const made = world.device({ group: world.iommuGroup({ isCoherent: true, iovaRanges: ranges }) });
  scope.defer(() => world.remove(made));
  const file = scope.own(world.openCdev(made.device.cdev));
  file.bindIommufd(iommufd);
  return { ...made, file };
}

test('ids of IOASes and devices begin at 1, and each one that is free is used again', () => {
  expect([iommufd.ioasAlloc(), iommufd.ioasAlloc(), iommufd.ioasAlloc()]).toEqual([1, 2, 3]);
  iommufd.destroy(2);
  expect(() => iommufd.ioasIovaRanges(2)).toThrow(/ENOENT\n.*no IOAS 2/);
  const device = bound();
  expect(() => iommufd.ioasIovaRanges(2)).toThrow(/ENOENT/);
  expect(iommufd.ioasAlloc()).toBe(4);
  device.file[Symbol.dispose]();
  expect(iommufd.ioasAlloc()).toBe(2);
  expect(() => iommufd.destroy(0)).toThrow(/ENOENT/);
});

test('a closed iommufd takes all of its IOASes and their maps with it', () => {
  for (const each of [iommufd.ioasAlloc(), iommufd.ioasAlloc()]) map(each, 0x10000n);
  const count = (kind: string) => world.core.live.get(kind);
  expect(['ioas', 'vfio_dma', 'iommufd'].map(count)).toEqual([2, 2, 1]);
  iommufd[Symbol.dispose]();
  expect(['ioas', 'vfio_dma', 'iommufd'].map(count)).toEqual([undefined, undefined, undefined]);
});

test('a destroyed IOAS tells nobody, as no device is attached, and unmaps what it had', () => {
  const ioas = iommufd.ioasAlloc();
  map(ioas, 0n);
  map(ioas, 4n * PAGE);
  iommufd.destroy(ioas);
  expect(world.core.live.get('vfio_dma')).toBeUndefined();
});

test('memory that wraps is EOVERFLOW, and an IOVA that does as well', () => {
  const ioas = iommufd.ioasAlloc();
  expect(() => map(ioas, 0n, 2n * PAGE, (MAX - PAGE + 2n) as Hva)).toThrow(/EOVERFLOW\n.*memory wraps/);
  expect(() => map(ioas, 0n, PAGE, (MAX - PAGE + 1n) as Hva)).toThrow(/EFAULT/);
  expect(() => map(ioas, MAX - PAGE + 1n, PAGE + 1n)).toThrow(/EOVERFLOW\n.*range wraps/);
  expect(map(ioas, MAX - PAGE + 1n)).toBe(MAX - PAGE + 1n);
});

test('a map may touch the ends of what the devices reach, and not pass them', () => {
  const ioas = iommufd.ioasAlloc();
  bound([{ start: iova(2n * PAGE), last: iova(8n * PAGE - 1n) }]).file.attachIoas(ioas);
  for (const page of [1n, 8n]) expect(() => map(ioas, page * PAGE)).toThrow(/EINVAL\n.*IOVA ranges/);
  expect(() => map(ioas, 7n * PAGE, 2n * PAGE)).toThrow(/EINVAL/);
  expect([map(ioas, 2n * PAGE), map(ioas, 7n * PAGE)]).toEqual([2n * PAGE, 7n * PAGE]);
  expect(iommufd.ioasMap(ioas, { flags, vaddr: ram.hva, size: 4n * PAGE })).toBe(3n * PAGE);
  expect(() => iommufd.ioasMap(ioas, { flags, vaddr: ram.hva, size: PAGE })).toThrow(/ENOSPC\n.*no free/);
});

test('a free range is looked for in the first range that has one, up to its last byte', () => {
  const ioas = iommufd.ioasAlloc();
  const ranges = [
    { start: iova(0n), last: iova(2n * PAGE - 1n) },
    { start: iova(4n * PAGE), last: iova(6n * PAGE - 1n) },
  ];
  bound(ranges).file.attachIoas(ioas);
  const next = (pages: bigint) => iommufd.ioasMap(ioas, { flags, vaddr: ram.hva, size: pages * PAGE });
  expect(next(2n)).toBe(4n * PAGE);
  expect(next(1n)).toBe(PAGE);
  expect(() => next(1n)).toThrow(/ENOSPC/);
  expect(unmap(ioas, 4n * PAGE, 2n * PAGE)).toBe(2n * PAGE);
  expect([next(1n), next(1n)]).toEqual([4n * PAGE, 5n * PAGE]);
});

test('half of the address space at once is EOVERFLOW, a little less only has no memory', () => {
  const ioas = iommufd.ioasAlloc();
  const ask = (size: bigint) => () => iommufd.ioasMap(ioas, { flags, vaddr: 0n as Hva, size });
  expect(ask(MAX / 2n)).toThrow(/EOVERFLOW\n.*half the address space/);
  expect(ask(MAX / 2n - 1n)).toThrow(/EFAULT/);
});

test('IOAS_UNMAP of all is that size at 0 and no other, and returns the bytes of all maps', () => {
  const ioas = iommufd.ioasAlloc();
  map(ioas, PAGE);
  map(ioas, 8n * PAGE, 2n * PAGE);
  expect(() => unmap(ioas, 1n, MAX)).toThrow(/EOVERFLOW/);
  expect(() => unmap(ioas, 0n, MAX - 1n - PAGE)).not.toThrow();
  expect(() => unmap(ioas, 0n, MAX - 1n)).toThrow(/ENOENT\n.*nothing is mapped/);
  map(ioas, PAGE);
  expect(unmap(ioas, 0n, MAX)).toBe(PAGE);
});

test('a driver that unmaps the map it is told of counts it once', () => {
  const ioas = iommufd.ioasAlloc();
  const { file, ops } = bound();
  file.attachIoas(ioas);
  map(ioas, 0n);
  map(ioas, 2n * PAGE);
  const told: bigint[] = [];
  ops.dmaUnmap = (start) => {
    told.push(start);
    if (told.length === 1) expect(unmap(ioas, 0n, PAGE)).toBe(PAGE);
  };
  expect(unmap(ioas, 0n, 4n * PAGE)).toBe(PAGE);
  expect(told).toEqual([0n, 0n, 2n * PAGE]);
});

test('an unmap that ends early unmaps what it had reached, in the tables of devices as well', () => {
  const ioas = iommufd.ioasAlloc();
  const { file, device, ops } = bound();
  file.attachIoas(ioas);
  map(ioas, 0n);
  map(ioas, 2n * PAGE, 2n * PAGE);
  expect(() => unmap(ioas, 0n, 3n * PAGE)).toThrow(/ENOENT\n.*would split a map/);
  expect(ops.calls.filter((call) => call.startsWith('dmaUnmap'))).toEqual(['dmaUnmap 0x0 0x1000']);
  expect(() => device.dma.rw(iova(0n), new Uint8Array(1), false)).toThrow(/EFAULT/);
  device.dma.rw(iova(2n * PAGE), new Uint8Array(1), false);
  expect(unmap(ioas, 0n, MAX)).toBe(2n * PAGE);
});

test('a copy is the memory of each map it crosses, and its IOVA may be chosen', () => {
  const [from, to] = [iommufd.ioasAlloc(), iommufd.ioasAlloc()];
  map(from, 0x10000n, PAGE, at(3n * PAGE));
  map(from, 0x11000n, PAGE, at(PAGE));
  const [size, source] = [PAGE, iova(0x10800n)];
  const start = iommufd.ioasCopy({ from, to, source, size, flags });
  expect(start).toBe(PAGE + 0x800n);
  unmap(to, start, size);
  const copy = { from, to, source: iova(0x10000n), size: 2n * PAGE, flags, iova: iova(0n) };
  expect(iommufd.ioasCopy(copy)).toBe(0n);
  const { file, device } = bound();
  file.attachIoas(to);
  device.dma.rw(iova(PAGE - 1n), new Uint8Array([1, 2]), true);
  expect([ram.view.slice(0x3fff, 1)[0], ram.view.slice(0x1000, 1)[0]]).toEqual([1, 2]);
});

test('a copy that fails on the way leaves nothing behind', () => {
  const [from, to] = [iommufd.ioasAlloc(), iommufd.ioasAlloc()];
  for (const page of [0n, 1n, 2n]) map(from, page * PAGE);
  const copy = { from, to, source: iova(0n), size: 3n * PAGE, flags, iova: iova(0x10000n) };
  faults.failAt(2, 'ENOMEM');
  expect(() => iommufd.ioasCopy(copy)).toThrow(/ENOMEM/);
  expect(world.core.live.get('vfio_dma')).toBe(3);
  expect(iommufd.ioasCopy(copy)).toBe(0x10000n);
  expect(unmap(to, 0n, MAX)).toBe(3n * PAGE);
});

test('a copy of a source that is empty, wraps, or is in part not mapped fails, and so does one for writing what is read', () => {
  const [from, to] = [iommufd.ioasAlloc(), iommufd.ioasAlloc()];
  map(from, 0x10000n);
  iommufd.ioasMap(from, {
    flags: VFIO_DMA_MAP_FLAG_READ,
    vaddr: ram.hva,
    iova: iova(0x11000n),
    size: PAGE,
  });
  const copy = (start: bigint, size: bigint, rights = flags) =>
    iommufd.ioasCopy({ from, to, source: start as Iova, size, flags: rights, iova: iova(0n) });
  expect(() => copy(0x10000n, 0n)).toThrow(/EINVAL\n.*the range is empty/);
  expect(() => copy(MAX - 1n, 3n)).toThrow(/EOVERFLOW\n.*the source wraps/);
  expect(() => copy(MAX - 1n, 2n)).toThrow(/ENOENT\n.*not mapped at 0xfffffffffffffffe/);
  expect(() => copy(0x11800n, PAGE)).toThrow(/ENOENT\n.*not mapped at 0x12000/);
  expect(() => copy(0x10000n, 2n * PAGE)).toThrow(/EPERM/);
  expect(copy(0x10000n, 2n * PAGE, VFIO_DMA_MAP_FLAG_READ)).toBe(0n);
  expect(() => iommufd.ioasCopy({ from, to: 99, source: iova(0x10000n), size: 1n, flags })).toThrow(/ENOENT/);
});

test('what a copy may not write, its device may not write either', () => {
  const [from, to] = [iommufd.ioasAlloc(), iommufd.ioasAlloc()];
  map(from, 0n);
  iommufd.ioasCopy({
    ...{ from, to, source: iova(0n), size: PAGE },
    ...{ flags: VFIO_DMA_MAP_FLAG_READ, iova: iova(0n) },
  });
  const { file, device } = bound();
  file.attachIoas(to);
  device.dma.rw(iova(0n), new Uint8Array(1), false);
  expect(() => device.dma.rw(iova(0n), new Uint8Array(1), true)).toThrow(/EPERM/);
});

test('an IOAS takes 65,535 maps, and a copy of several counts each', () => {
  const [full, other] = [iommufd.ioasAlloc(), iommufd.ioasAlloc()];
  map(other, 0n);
  map(other, PAGE);
  for (let i = 1; i < DMA_ENTRY_LIMIT; i++) map(full, BigInt(i) * PAGE);
  const copy = (size: bigint) =>
    iommufd.ioasCopy({ from: other, to: full, source: iova(0n), size, flags, iova: iova(1n << 40n) });
  expect(() => copy(2n * PAGE)).toThrow(/ENOSPC\n.*65535 maps/);
  expect(copy(PAGE)).toBe(1n << 40n);
  expect(() => map(full, 1n << 41n)).toThrow(/ENOSPC/);
});

test('a device has a table of the IOAS it is attached to, from whenever it first asks for it', () => {
  const ioas = iommufd.ioasAlloc();
  map(ioas, 0x10000n);
  const { file, device } = bound();
  expect([device.dma.isAttached, device.dma.name]).toEqual([false, device.name]);
  expect(() => device.dma.pinPages(iova(0x10000n), 1, PROT_READ)).toThrow(/EFAULT\n.*no address space/);
  file.attachIoas(ioas);
  expect(device.dma.isAttached).toBe(true);
  const { table } = device.dma;
  expect(device.dma.table).toBe(table);
  file.detachIoas();
  expect([device.dma.isAttached, device.dma.table]).toEqual([false, table]);
  file[Symbol.dispose]();
  expect(device.dma.table).not.toBe(table);
});

test('a device that is detached is told of no unmap, and its table stays empty whatever is mapped', () => {
  const ioas = iommufd.ioasAlloc();
  const [stays, leaves] = [bound(), bound()];
  for (const { file } of [stays, leaves]) file.attachIoas(ioas);
  const readers = [stays, leaves].map(({ device }) => new DmaTableReader(device.dma.table));
  const seen = (start: bigint) =>
    readers.map((reader) => {
      reader.enter();
      const isThere = reader.slice(Number(start), 1, PROT_READ) !== undefined;
      reader.leave();
      return isThere;
    });
  map(ioas, 0x10000n);
  expect(seen(0x10000n)).toEqual([true, true]);
  leaves.file.detachIoas();
  expect(seen(0x10000n)).toEqual([true, false]);
  map(ioas, 0x20000n);
  map(ioas, 0x8000n);
  expect([seen(0x20000n), seen(0x8000n)]).toEqual([
    [true, false],
    [true, false],
  ]);
  for (const { ops } of [stays, leaves]) ops.calls.length = 0;
  unmap(ioas, 0x8000n, PAGE);
  expect([stays.ops.calls, leaves.ops.calls]).toEqual([['dmaUnmap 0x8000 0x1000'], []]);
  leaves.file.attachIoas(ioas);
  expect([seen(0x10000n), seen(0x8000n), seen(0x20000n)]).toEqual([
    [true, true],
    [false, false],
    [true, true],
  ]);
});

test('a device can be pinned from and written to by whatever its map allows, each page by its own', () => {
  const ioas = iommufd.ioasAlloc();
  const { file, device } = bound();
  file.attachIoas(ioas);
  map(ioas, 0x10000n, 2n * PAGE, at(2n * PAGE));
  map(ioas, 0x12000n, PAGE, at(8n * PAGE));
  const pages = device.dma.pinPages(iova(0x11000n), 2, PROT_READ);
  for (const [i, page] of pages.entries()) page[0] = 70 + i;
  expect([ram.view.slice(0x3000, 1)[0], ram.view.slice(0x8000, 1)[0]]).toEqual([70, 71]);
  expect(device.dma.unpinPages(iova(0x10000n), 3)).toBe(2);
  unmap(ioas, 0x10000n, 3n * PAGE);
  expect(world.takeWarnings()).toEqual([]);
});
