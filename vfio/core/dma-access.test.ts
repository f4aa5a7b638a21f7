import { afterEach, beforeEach, expect, test } from 'vitest';
import { iova } from '../../sys/address.js';
import type { SysError } from '../../sys/error.js';
import { Mapping, PROT_READ, PROT_WRITE } from '../../sys/mapping.js';
import { type Contained, World, type WorldDevice } from '../testing/world.js';
import { VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE } from '../uapi.js';

const RW = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
const PAGE = 4096n;
/** The map's first page. */
const BASE = 16n * PAGE;
const PAGES = 520;

let world: World;
let ram: Mapping;
let made: WorldDevice;
let contained: Contained;
let file: Disposable;
beforeEach(() => {
  world = new World();
  ram = Mapping.anonymous(PAGES * 4096);
  made = world.device();
  contained = world.contain(made);
  const size = BigInt(PAGES) * PAGE;
  contained.container.mapDma({ flags: RW, vaddr: ram.hva, iova: iova(BASE), size });
  file = world.open(contained, made);
});
afterEach(() => {
  file[Symbol.dispose]();
  contained.close();
  world.remove(made);
  ram[Symbol.dispose]();
  world.end();
});

const pin = (page: number, count = 1, prot = PROT_READ) =>
  made.device.dma.pinPages(iova(BASE + BigInt(page) * PAGE), count, prot);
const unpin = (page: number, count = 1) =>
  made.device.dma.unpinPages(iova(BASE + BigInt(page) * PAGE), count);

/** Numbers of the dirty pages since the last call, from `before` pages below the map. */
function dirtyPages(before = 0): number[] {
  const bitmap = new Uint8Array(128);
  const pages = BigInt(PAGES + before);
  contained.container.dirtyPages.getBitmap({
    iova: iova(BASE - BigInt(before) * PAGE),
    size: pages * PAGE,
    pageSize: PAGE,
    bitmap,
  });
  return [...bitmap].flatMap((byte, at) =>
    [0, 1, 2, 3, 4, 5, 6, 7].filter((bit) => (byte & (1 << bit)) !== 0).map((bit) => at * 8 + bit),
  );
}

test('pinned pages are the map’s memory, each where it lies', () => {
  for (const page of [0, 1, 9, PAGES - 1]) ram.view.slice(page * 4096, 1)[0] = page & 0xff;
  const pages = pin(0, 10);
  expect(pages.map(({ length }) => length)).toEqual(new Array(10).fill(4096));
  expect([pages[0]?.[0], pages[1]?.[0], pages[9]?.[0]]).toEqual([0, 1, 9]);
  expect(pin(PAGES - 1)[0]?.[0]).toBe((PAGES - 1) & 0xff);
  expect(unpin(0, 10) + unpin(PAGES - 1)).toBe(11);
});

test('one call pins 512 pages, one more is E2BIG, none or a part of one EINVAL', () => {
  expect(pin(0, 512)).toHaveLength(512);
  expect(unpin(0, 512)).toBe(512);
  expect(() => pin(0, 513)).toThrow(/^vfio_pin_pages on .*E2BIG/);
  for (const count of [0, -1]) expect(() => pin(0, count)).toThrow(/EINVAL/);
  expect(() => made.device.dma.pinPages(iova(BASE + 1n), 1, PROT_READ)).toThrow(/EINVAL/);
  for (const page of [-1, PAGES]) expect(() => pin(page)).toThrow(/EINVAL\n.*is not mapped/);
  expect(() => pin(PAGES - 1, 2)).toThrow(/EINVAL\n.*is not mapped/);
  expect(unpin(PAGES - 1)).toBe(0); // all of them or none
});

test('what is refused is an error of the call, with the device’s name', () => {
  const { dma, name } = made.device;
  const refused = [
    [BASE + 1n, 1],
    [BASE, 0],
    [BASE, 513],
    [0n, 1],
  ] as const;
  const errors = refused.map(([at, count]) => {
    try {
      return dma.pinPages(iova(at), count, PROT_READ);
    } catch (error) {
      return error;
    }
  });
  // `toThrow` would take `throw undefined` for any error.
  expect(errors.map((error) => (error as SysError).code)).toEqual(['EINVAL', 'EINVAL', 'E2BIG', 'EINVAL']);
  for (const error of errors) expect(error).toMatchObject({ call: 'vfio_pin_pages', target: name });
});

test('a map that is only read can be pinned for reading only', () => {
  const at = iova(0n);
  contained.container.mapDma({ flags: VFIO_DMA_MAP_FLAG_READ, vaddr: ram.hva, iova: at, size: PAGE });
  const { dma } = made.device;
  expect(() => dma.pinPages(at, 1, PROT_WRITE)).toThrow(/EPERM/);
  expect(() => dma.pinPages(at, 1, PROT_READ | PROT_WRITE)).toThrow(/EPERM/);
  dma.pinPages(at, 1, PROT_READ);
  expect(dma.unpinPages(at, 1)).toBe(1);
});

test('pins are counted for each page, and unpinning skips what is not pinned', () => {
  pin(3, 2);
  pin(4);
  expect(unpin(2, 4)).toBe(2);
  expect(unpin(2, 4)).toBe(1);
  expect(unpin(2, 4)).toBe(0);
});

test('a device that is closed with pages pinned unpins them, with a warning', () => {
  const { container } = contained;
  pin(3, 2);
  pin(4);
  file[Symbol.dispose]();
  expect(world.takeWarnings()).toEqual([expect.stringMatching(/is detached with 2 pages pinned/)]);
  container.unmapDma({ flags: 0, iova: iova(BASE), size: BigInt(PAGES) * PAGE });
  expect(world.takeWarnings()).toEqual([]);
  expect(() => pin(0)).toThrow(/EFAULT/);
});

test('writes make dirty each page that they touch, once; reads make none', () => {
  contained.container.dirtyPages.start();
  const { dma } = made.device;
  const write = (at: bigint, bytes: number) => dma.rw(iova(BASE + at), new Uint8Array(bytes), true);
  write(5n * PAGE, 4096);
  expect(dirtyPages()).toEqual([5]);
  write(5n * PAGE, 4097);
  expect(dirtyPages()).toEqual([5, 6]);
  write(7n * PAGE - 1n, 1);
  write(8n * PAGE - 1n, 2);
  write(17n * PAGE, 1);
  write(BigInt(PAGES) * PAGE - 1n, 1);
  expect(dirtyPages(9)).toEqual([6, 7, 8, 17, PAGES - 1].map((page) => page + 9));
  expect(dirtyPages()).toEqual([]);
  dma.rw(iova(BASE), new Uint8Array(8), false);
  expect(dirtyPages()).toEqual([]);
});

test('pages pinned for writing are dirty as long as they are pinned', () => {
  pin(2, 2, PROT_READ | PROT_WRITE);
  contained.container.dirtyPages.start();
  expect(dirtyPages()).toEqual([2, 3]);
  expect(dirtyPages()).toEqual([2, 3]);
  pin(11, 1, PROT_WRITE);
  pin(12, 1, PROT_READ);
  unpin(3);
  expect(dirtyPages()).toEqual([2, 3, 11]);
  contained.container.dirtyPages.stop();
  expect(() => dirtyPages()).toThrow(/EINVAL\n.*tracking is off/);
  for (const page of [2, 11, 12]) expect(unpin(page)).toBe(1);
});

test('a report neither begins nor ends inside a map', () => {
  contained.container.dirtyPages.start();
  const report = (first: bigint, pages: bigint) => () =>
    contained.container.dirtyPages.getBitmap({
      iova: iova(first * PAGE),
      size: pages * PAGE,
      pageSize: PAGE,
      bitmap: new Uint8Array(128),
    });
  const [first, all] = [BASE / PAGE, BigInt(PAGES)];
  report(first, all)();
  report(first - 1n, all + 2n)();
  report(first + all, 4n)();
  report(0n, first)();
  expect(report(first + 1n, all - 1n)).toThrow(/EINVAL\n.*starts inside a map/);
  expect(report(first, all - 1n)).toThrow(/EINVAL\n.*ends inside a map/);
  expect(report(0n, first + 1n)).toThrow(/EINVAL\n.*ends inside a map/);
});

test('whom a device may ask for what is not mapped is its container’s to say, and it is not asked by rw', () => {
  const asked: bigint[] = [];
  expect(made.device.dma.unmapped).toBe(undefined);
  contained.container.setUnmapped({ access: (at) => asked.push(at) });
  const data = new Uint8Array(8);
  expect(() => made.device.dma.rw(iova(0n), data, true)).toThrow(/^vfio_dma_rw on .*: EFAULT/);
  made.device.dma.unmapped?.access(iova(0n), data, true, () => {});
  expect(asked).toEqual([0n]);
  made.device.dma.rw(iova(BASE), data, true);
  expect(asked).toEqual([0n]);
});
