import { afterEach, beforeEach, expect, test } from 'vitest';
import { type Iova, iova } from '../../sys/address.js';
import { Mapping, PROT_READ } from '../../sys/mapping.js';
import { DmaTableReader } from '../dma-table.js';
import { World } from '../testing/world.js';
import { VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE } from '../uapi.js';
import { CoreIommufdFile } from './iommufd.js';

const flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
const PAGE = 4096n;

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

test('misaligned, empty, wrapping or foreign memory is refused, and nothing is mapped', () => {
  const ioas = iommufd.ioasAlloc();
  const map = { flags, vaddr: ram.hva, iova: iova(0n), size: PAGE };
  for (const bad of [
    { ...map, flags: 0 },
    { ...map, size: 0n },
    { ...map, size: 7n },
    { ...map, iova: 7n as Iova },
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
