import { afterEach, beforeEach, expect, test } from 'vitest';
import { type Iova, iova } from '../../sys/address.js';
import { Mapping, PROT_READ } from '../../sys/mapping.js';
import { DmaTableReader } from '../dma-table.js';
import { World } from '../testing/world.js';
import { type IommuInfo, VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE } from '../uapi.js';
import { CoreIommufdFile } from './iommufd.js';

const flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
const PAGE = 4096n;

type Range = IommuInfo['iovaRanges'][number];

let world: World;
let ram: Mapping;
let iommufd: CoreIommufdFile;
beforeEach(() => {
  world = new World();
  ram = Mapping.anonymous(0x10000);
  iommufd = CoreIommufdFile.open(world.core.environment);
});
afterEach(() => {
  iommufd[Symbol.dispose]();
  ram[Symbol.dispose]();
  world.end();
});

test('a range of one IOAS can be copied to another, and outlives the first', () => {
  const [from, to] = [iommufd.ioasAlloc(), iommufd.ioasAlloc()];
  iommufd.ioasMap(from, { flags, vaddr: ram.hva, iova: iova(0x10000n), size: 8n * PAGE });
  const copy = { from, to, source: iova(0x12000n), size: 2n * PAGE, flags, iova: iova(0x80000n) };
  expect(iommufd.ioasCopy(copy)).toBe(0x80000n);
  expect(() => iommufd.ioasCopy(copy)).toThrowError(/EEXIST/);
  expect(() => iommufd.ioasCopy({ ...copy, source: iova(0x17000n) })).toThrowError(/ENOENT/);
  iommufd.destroy(from);
  const made = world.device();
  const file = world.openCdev(made.device.cdev);
  file.bindIommufd(iommufd);
  file.attachIoas(to);
  made.device.dma.rw(iova(0x80000n), new Uint8Array([7]), true);
  expect(ram.view.slice(0x2000, 1)[0]).toBe(7);
  file[Symbol.dispose]();
  world.remove(made);
});

test('remote memory of an IOAS is accessed through its owner, who knows a copy by the IOVA of its source', () => {
  const [from, to] = [iommufd.ioasAlloc(), iommufd.ioasAlloc()];
  const asked: [bigint, boolean][] = [];
  const remote = {
    rw(at: Iova, data: Uint8Array, isWrite: boolean) {
      asked.push([at, isWrite]);
      if (!isWrite) data.fill(5);
    },
  };
  iommufd.ioasMap(from, { flags, remote, iova: iova(0x10000n), size: 4n * PAGE });
  iommufd.ioasCopy({ from, to, source: iova(0x12000n), size: PAGE, flags, iova: iova(0x80000n) });
  const made = world.device();
  const file = world.openCdev(made.device.cdev);
  file.bindIommufd(iommufd);
  const data = new Uint8Array(2);
  file.attachIoas(from);
  made.device.dma.rw(iova(0x10001n), data, false);
  expect([...data]).toEqual([5, 5]);
  file.attachIoas(to);
  made.device.dma.rw(iova(0x80004n), data, true);
  expect(asked).toEqual([
    [0x10001n, false],
    [0x12004n, true],
  ]);
  file[Symbol.dispose]();
  world.remove(made);
});

test('IOMMU_DESTROY of an unknown id is ENOENT, of a bound device or an attached IOAS EBUSY', () => {
  const ioas = iommufd.ioasAlloc();
  {
    using device = bound();
    const id = ioas + 1;
    expect(() => iommufd.destroy(id)).toThrowError(/^IOMMU_DESTROY on .*EBUSY\n.*to unbind it/);
    expect(() => iommufd.ioasIovaRanges(id)).toThrowError(/ENOENT/);
    device.file.attachIoas(ioas);
    expect(() => iommufd.destroy(ioas)).toThrowError(/EBUSY\n.*1 devices are attached/);
    expect(() => iommufd.destroy(id + 1)).toThrowError(/^IOMMU_DESTROY on .*ENOENT/);
  }
  expect(() => iommufd.destroy(ioas + 1)).toThrowError(/ENOENT/); // the device's, which is closed
  iommufd.destroy(ioas);
  expect(() => iommufd.destroy(ioas)).toThrowError(/ENOENT/);
  expect(iommufd.ioasAlloc()).toBe(ioas);
});

test('a device moves from one IOAS to another, and its table moves with it', () => {
  const [one, two] = [iommufd.ioasAlloc(), iommufd.ioasAlloc()];
  const at = iova(0x4000n);
  iommufd.ioasMap(one, { flags, vaddr: ram.hva, iova: at, size: PAGE });
  iommufd.ioasMap(two, { flags, vaddr: (ram.hva + PAGE) as typeof ram.hva, iova: at, size: PAGE });
  ram.view.slice(0, 1)[0] = 1;
  ram.view.slice(4096, 1)[0] = 2;
  const made = world.device();
  const file = world.openCdev(made.device.cdev);
  file.bindIommufd(iommufd);
  const reader = new DmaTableReader(made.device.dma.table);
  const seen = () => {
    reader.enter();
    const byte = reader.slice(Number(at), 1, PROT_READ)?.[0];
    reader.leave();
    return byte;
  };
  expect(seen()).toBeUndefined();
  file.attachIoas(one);
  expect(seen()).toBe(1);
  file.attachIoas(two);
  expect(seen()).toBe(2);
  iommufd.destroy(one);
  file.detachIoas();
  expect(seen()).toBeUndefined();
  expect(() => made.device.dma.rw(at, new Uint8Array(1), false)).toThrowError(/EFAULT/);
  file[Symbol.dispose]();
  world.remove(made);
});

test('empty, wrapping or foreign memory is refused, and nothing is mapped', () => {
  const ioas = iommufd.ioasAlloc();
  const map = { flags, vaddr: ram.hva, iova: iova(0n), size: PAGE };
  for (const bad of [
    { ...map, flags: 0 },
    { ...map, size: 0n },
  ]) {
    expect(() => iommufd.ioasMap(ioas, bad)).toThrowError(/EINVAL/);
  }
  expect(() =>
    iommufd.ioasMap(ioas, { ...map, iova: iova((1n << 64n) - PAGE), size: 2n * PAGE }),
  ).toThrowError(/EOVERFLOW/);
  expect(() => iommufd.ioasMap(ioas, { ...map, size: 0x20000n })).toThrowError(/EFAULT/);
  expect(() => iommufd.ioasMap(99, map)).toThrowError(/ENOENT/);
  expect(iommufd.ioasUnmap(ioas, { iova: iova(0n), size: (1n << 64n) - 1n })).toBe(0n);
});

/** A device that is bound, and attached to an IOAS if one is given. */
function bound(ioas?: number, ranges: IommuInfo['iovaRanges'] = []) {
  const made = world.device({ group: world.iommuGroup({ isCoherent: true, iovaRanges: ranges }) });
  const file = world.openCdev(made.device.cdev);
  file.bindIommufd(iommufd);
  if (ioas !== undefined) file.attachIoas(ioas);
  return {
    made,
    file,
    [Symbol.dispose]() {
      file[Symbol.dispose]();
      world.remove(made);
    },
  };
}

test('IOAS_MAP and IOAS_COPY of an unknown flag are EOPNOTSUPP, of a size or an IOVA of 2^64-1 EOVERFLOW, without a direction EINVAL', () => {
  const ioas = iommufd.ioasAlloc();
  const map = { flags, vaddr: ram.hva, iova: iova(0n), size: PAGE };
  const end = iova((1n << 64n) - 1n);
  const copy = { from: ioas, to: ioas, source: iova(0n), size: PAGE, flags, iova: iova(0x10000n) };
  const refusals: [string, object, string][] = [
    ['unknown flag', { flags: flags | 0x80 }, 'ENOTSUP'],
    ['size', { size: end }, 'EOVERFLOW'],
    ['IOVA', { iova: end }, 'EOVERFLOW'],
    ['no direction', { flags: 0 }, 'EINVAL'],
    ['no direction, size', { flags: 0, size: end }, 'EOVERFLOW'],
    ['empty', { size: 0n }, 'EINVAL'],
  ];
  iommufd.ioasMap(ioas, map);
  for (const [what, change, code] of refusals) {
    expect(() => iommufd.ioasMap(ioas, { ...map, ...change }), what).toThrowError(new RegExp(code));
    expect(() => iommufd.ioasCopy({ ...copy, ...change }), `${what}, copy`).toThrowError(new RegExp(code));
  }
  expect(() => iommufd.ioasCopy({ ...copy, source: end })).toThrowError(/EOVERFLOW/);
});

test('IOAS_MAP takes any alignment while nothing is attached, and then attaching is EADDRINUSE', () => {
  const ioas = iommufd.ioasAlloc();
  const odd = { flags, vaddr: (ram.hva + 3n) as typeof ram.hva, iova: iova(0x10007n), size: 5n };
  expect(iommufd.ioasMap(ioas, odd)).toBe(0x10007n);
  using device = bound();
  expect(() => device.file.attachIoas(ioas)).toThrowError(/EADDRINUSE/);
  expect(iommufd.ioasUnmap(ioas, { iova: iova(0x10000n), size: 0x100n })).toBe(5n);
  device.file.attachIoas(ioas);
  for (const change of [{ vaddr: odd.vaddr }, { iova: odd.iova }, { size: odd.size }]) {
    const map = { flags, vaddr: ram.hva, iova: iova(0x10000n), size: PAGE, ...change };
    expect(() => iommufd.ioasMap(ioas, map)).toThrowError(/EINVAL/);
  }
  device.file.detachIoas();
  expect(iommufd.ioasMap(ioas, odd)).toBe(0x10007n);
});

test('an IOVA that the IOAS chooses lies in its page as the memory does, never in the first page or the last', () => {
  const ioas = iommufd.ioasAlloc();
  const map = { flags, vaddr: (ram.hva + 3n) as typeof ram.hva, size: 10n };
  expect(iommufd.ioasMap(ioas, map)).toBe(0x1003n);
  expect(iommufd.ioasMap(ioas, map)).toBe(0x2003n);
  expect(() => iommufd.ioasMap(ioas, { ...map, size: 1n << 63n })).toThrowError(/EOVERFLOW/);
  const [first, last] = [0n, (1n << 64n) - PAGE].map((start) => ({
    start: iova(start),
    last: iova(start + PAGE - 1n),
  })) as [Range, Range];
  const narrow = iommufd.ioasAlloc();
  using _device = bound(narrow, [first, last]);
  expect(() => iommufd.ioasMap(narrow, { ...map, vaddr: ram.hva, size: PAGE })).toThrowError(/ENOSPC/);
});

test('IOAS_UNMAP of nothing is EINVAL, past the end EOVERFLOW, of everything fine in an empty IOAS', () => {
  const ioas = iommufd.ioasAlloc();
  const end = (1n << 64n) - 1n;
  const unmap = (at: bigint, size: bigint) => iommufd.ioasUnmap(ioas, { iova: iova(at), size });
  expect(() => unmap(0n, 0n)).toThrowError(/EINVAL/);
  for (const [at, size] of [
    [PAGE, end],
    [end, 1n],
    [end - 1n, 3n],
  ] as const)
    expect(() => unmap(at, size)).toThrowError(/EOVERFLOW/);
  expect(() => unmap(0n, PAGE)).toThrowError(/ENOENT/);
  expect(unmap(0n, end)).toBe(0n);
});

test('IOAS_UNMAP that would cut a map is ENOENT, and by then those below it are unmapped', () => {
  const ioas = iommufd.ioasAlloc();
  for (const page of [0n, 1n, 2n])
    iommufd.ioasMap(ioas, { flags, vaddr: ram.hva, iova: iova(page * 2n * PAGE), size: 2n * PAGE });
  expect(() => iommufd.ioasUnmap(ioas, { iova: iova(0n), size: 5n * PAGE })).toThrowError(/ENOENT/);
  expect(iommufd.ioasUnmap(ioas, { iova: iova(0n), size: (1n << 64n) - 1n })).toBe(2n * PAGE);
});

test('IOVA_RANGES are one for a fresh IOAS, what all attached devices reach, and as before when they go', () => {
  const ioas = iommufd.ioasAlloc();
  const all = [{ start: 0n, last: (1n << 64n) - 1n }];
  expect(iommufd.ioasIovaRanges(ioas)).toEqual(all);
  const low = { start: iova(0n), last: iova(0xffffn) };
  const high = { start: iova(0x1_0000n), last: iova(0xf_ffffn) };
  const map = { flags, vaddr: ram.hva, iova: iova(0x1_0000n), size: PAGE };
  {
    using wide = bound(ioas, [low, high]);
    using _narrow = bound(ioas, [low]);
    expect(iommufd.ioasIovaRanges(ioas)).toEqual([low]);
    expect(() => iommufd.ioasMap(ioas, map)).toThrowError(/EINVAL/);
    using _other = bound(ioas, [high]);
    expect(iommufd.ioasIovaRanges(ioas)).toEqual([]);
    expect(() => iommufd.ioasMap(ioas, { ...map, iova: iova(0n) })).toThrowError(/EINVAL/);
    wide.file.detachIoas();
  }
  expect(iommufd.ioasIovaRanges(ioas)).toEqual(all);
  iommufd.ioasMap(ioas, map);
  using late = bound(undefined, [low]);
  expect(() => late.file.attachIoas(ioas)).toThrowError(/EADDRINUSE/);
});

test('IOAS_COPY may write only what the first map could, however many copies are between', () => {
  const [from, through, to] = [iommufd.ioasAlloc(), iommufd.ioasAlloc(), iommufd.ioasAlloc()];
  const read = VFIO_DMA_MAP_FLAG_READ;
  iommufd.ioasMap(from, { flags: read, vaddr: ram.hva, iova: iova(0n), size: PAGE });
  iommufd.ioasMap(from, { flags, vaddr: ram.hva, iova: iova(PAGE), size: PAGE });
  const copy = { from, to, source: iova(0n), size: PAGE, flags, iova: iova(0n) };
  expect(() => iommufd.ioasCopy(copy)).toThrowError(/EPERM/);
  iommufd.ioasCopy({ ...copy, flags: read });
  iommufd.ioasCopy({ ...copy, to: through, source: iova(PAGE), flags: read });
  expect(iommufd.ioasCopy({ ...copy, from: through, iova: iova(PAGE) })).toBe(PAGE);
});

test('IOAS_COPY crosses maps that lie side by side, and a gap is ENOENT', () => {
  const [from, to] = [iommufd.ioasAlloc(), iommufd.ioasAlloc()];
  for (const page of [0n, 1n, 3n])
    iommufd.ioasMap(from, { flags, vaddr: ram.hva, iova: iova(page * PAGE), size: PAGE });
  const copy = { from, to, source: iova(0x800n), size: PAGE, flags, iova: iova(0x10000n) };
  expect(iommufd.ioasCopy(copy)).toBe(0x10000n);
  expect(() => iommufd.ioasCopy({ ...copy, source: iova(0x1800n) })).toThrowError(/ENOENT/);
  expect(iommufd.ioasUnmap(to, { iova: iova(0x10000n), size: PAGE })).toBe(PAGE);
});

test('a device that changes its IOAS, or detaches, is told to unpin everything; attaching to the same is nothing', () => {
  const [one, two] = [iommufd.ioasAlloc(), iommufd.ioasAlloc()];
  iommufd.ioasMap(one, { flags, vaddr: ram.hva, iova: iova(0n), size: PAGE });
  using device = bound(one);
  const { dma } = device.made.device;
  const told: [bigint, bigint][] = [];
  device.made.ops.dmaUnmap = (at, size) => {
    told.push([at, size]);
    dma.unpinPages(iova(0n), 1);
  };
  dma.pinPages(iova(0n), 1, PROT_READ);
  device.file.attachIoas(one);
  expect(told).toEqual([]);
  device.file.attachIoas(two);
  device.file.detachIoas();
  device.file.detachIoas();
  const everything = [0n, (1n << 64n) - 1n];
  expect(told).toEqual([everything, everything]);
  expect(world.takeWarnings()).toEqual([]);
});

test('BIND with another kind of file is EBADFD, with an iommufd that is closed EBADF, and both EBUSY while the group is open', () => {
  const made = world.device();
  const file = world.openCdev(made.device.cdev);
  const closed = CoreIommufdFile.open(world.core.environment);
  closed[Symbol.dispose]();
  const other = world.openContainer();
  const group = world.openGroup(made.device.group.number);
  for (const each of [closed, other as unknown as CoreIommufdFile])
    expect(() => file.bindIommufd(each)).toThrowError(/EBUSY/);
  group[Symbol.dispose]();
  expect(() => file.bindIommufd(closed)).toThrowError(/EBADF\n/);
  expect(() => file.bindIommufd(other as unknown as CoreIommufdFile)).toThrowError(/EBADFD/);
  world.openGroup(made.device.group.number)[Symbol.dispose]();
  file.bindIommufd(iommufd);
  file[Symbol.dispose]();
  other[Symbol.dispose]();
  world.remove(made);
});
