/** A bochs-display of the kernel's kind: its pictures are in dma-bufs that cannot be mapped, and in its BAR. */
import { constants } from 'node:fs';
import fc from 'fast-check';
import { afterEach, expect, test } from 'vitest';
import {
  DISPI_AT,
  PCI_DEVICE_ID_BOCHS_VBE,
  PCI_VENDOR_ID_BOCHS,
  VBE_DISPI_INDEX_BPP,
  VBE_DISPI_INDEX_ENABLE,
  VBE_DISPI_INDEX_VIRT_WIDTH,
  VBE_DISPI_INDEX_X_OFFSET,
  VBE_DISPI_INDEX_XRES,
  VBE_DISPI_INDEX_Y_OFFSET,
  VBE_DISPI_INDEX_YRES,
} from '../../devices/vgpu/spec.js';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { Fd } from '../../sys/fd.js';
import { createSharedMemory, Mapping } from '../../sys/mapping.js';
import { World } from '../../vfio/testing/world.js';
import {
  type GfxPlaneInfo,
  type GfxPlaneQuery,
  VFIO_GFX_PLANE_TYPE_DMABUF,
  VFIO_GFX_PLANE_TYPE_PROBE,
  VFIO_REGION_INFO_FLAG_MMAP,
} from '../../vfio/uapi.js';
import { BochsDisplay } from './bochs-display.js';
import { DeviceDisplay } from './device-display.js';

const VRAM = 16 * 4096;
const MMIO = 4096;
/** 20 x 3 pixels within lines of 24, from the fifth pixel of the second line on. */
const MODE: Readonly<Record<number, number>> = {
  [VBE_DISPI_INDEX_XRES]: 20,
  [VBE_DISPI_INDEX_YRES]: 3,
  [VBE_DISPI_INDEX_BPP]: 32,
  [VBE_DISPI_INDEX_ENABLE]: 0x41,
  [VBE_DISPI_INDEX_VIRT_WIDTH]: 24,
  [VBE_DISPI_INDEX_X_OFFSET]: 5,
  [VBE_DISPI_INDEX_Y_OFFSET]: 1,
};
const OFFSET = 4 * (24 + 5);
const BYTES = 4 * (2 * 24 + 20);
/** What the device says that it shows: where its dma-buf begins is no part of that. */
const PLANE: GfxPlaneInfo = {
  ...{ drmFormat: 0x3432_5258, drmFormatMod: 0n, width: 20, height: 3, stride: 96, size: 4096 },
  ...{ xPos: 0, yPos: 0, xHot: 0, yHot: 0, regionIndex: 0, dmabufId: 1, offset: 0 },
};

const ends: (() => void)[] = [];
afterEach(() => {
  for (const end of ends.splice(0).reverse()) end();
});

interface Kind {
  readonly vendor?: number;
  readonly mmio?: number;
  readonly regions?: number;
  /** What the dma-buf can be opened for; it is not exported if undefined. */
  readonly flags?: number | undefined;
}

const USUAL = { vendor: PCI_VENDOR_ID_BOCHS, mmio: MMIO, regions: 8, flags: constants.O_WRONLY };

function card(kind: Kind = {}) {
  const { vendor, mmio, regions, flags } = { ...USUAL, ...kind };
  const world = new World();
  const memory = createSharedMemory('card', VRAM);
  const opened: Fd[] = [];
  let queries = 0;
  let shown: Partial<GfxPlaneInfo> = {};
  const none = { flags: 3, size: 0, capabilities: [] };
  const all = [
    { ...none, flags: 3 | VFIO_REGION_INFO_FLAG_MMAP, size: VRAM },
    none,
    { ...none, size: mmio },
    ...[none, none, none, none],
    { ...none, size: 256 },
  ];
  const made = world.device({
    regions: all.slice(0, regions),
    onMmap: (_index, offset, bytes) => {
      // As mbochs_mmap. Another open of the file is not known as one that another thread could map.
      if (offset !== 0) throw new SysError({ call: 'mmap', target: 'card', errno: errno.EINVAL });
      using other = Fd.open(`/proc/self/fd/${memory.fd.number}`);
      return Mapping.file(other, bytes);
    },
  });
  Object.assign(made.ops, {
    queryGfxPlane({ flags }: GfxPlaneQuery) {
      if ((flags & VFIO_GFX_PLANE_TYPE_DMABUF) === 0)
        throw new SysError({ call: 'QUERY', target: 'card', errno: errno.EINVAL });
      if ((flags & VFIO_GFX_PLANE_TYPE_PROBE) === 0) queries++;
      return { ...PLANE, ...shown };
    },
    getGfxDmabuf() {
      if (flags === undefined) throw new SysError({ call: 'EXPORT', target: 'card', errno: errno.EINVAL });
      opened.push(Fd.open(`/proc/self/fd/${memory.fd.number}`, flags));
      return opened.at(-1);
    },
  });
  const [, , registers, , , , , config] = made.ops.memory;
  if (config !== undefined) {
    const ids = new DataView(config.buffer);
    ids.setUint16(0, vendor, true);
    ids.setUint16(2, PCI_DEVICE_ID_BOCHS_VBE, true);
  }
  const contained = world.contain(made);
  const file = world.open(contained, made);
  const display = DeviceDisplay.find(3, 'card', file) as DeviceDisplay;
  ends.push(() => {
    display[Symbol.dispose]();
    file[Symbol.dispose]();
    contained.close();
    world.remove(made);
    world.end();
    memory[Symbol.dispose]();
    expect(opened.filter((fd) => fd.isOpen)).toEqual([]);
  });
  return {
    file,
    display,
    vram: memory.mapping.view.slice(0, VRAM),
    opened,
    queries: () => queries,
    calls: made.ops.calls,
    show: (next: Partial<GfxPlaneInfo>) => {
      shown = next;
    },
    set: (mode: Readonly<Record<number, number>>) => {
      const words = new DataView((registers as Uint8Array).buffer);
      for (const [index, value] of Object.entries(mode))
        words.setUint16(DISPI_AT + 2 * Number(index), value, true);
    },
  };
}

test('the picture of one whose dma-buf cannot be mapped is read from its BAR, where its registers say', () => {
  const { display, set, vram, opened, queries } = card();
  set(MODE);
  for (const [i] of vram.entries()) vram[i] = i * 7;
  for (const look of [() => display.look(), () => display.look(), () => display.still()]) {
    const { plane, pixels } = look();
    expect(plane).toMatchObject({ width: 20, height: 3, stride: 96, drmFormat: 0x3432_5258, offset: OFFSET });
    expect(plane.dmabufId).toBeUndefined();
    expect(Buffer.compare(pixels as Uint8Array, vram.subarray(OFFSET, OFFSET + BYTES))).toBe(0);
  }
  expect(
    opened.map((fd) => fd.isOpen),
    'one dma-buf was tried',
  ).toEqual([false]);
  set({ [VBE_DISPI_INDEX_Y_OFFSET]: 500 });
  vram[4 * (500 * 24 + 5)] = 99;
  expect(display.look().pixels?.[0]).toBe(99);
  expect(queries(), 'it makes a dma-buf for each place that it is asked about').toBe(1);
});

test('so is one that does not begin at a page, of which no dma-buf is exported', () => {
  const { display, set, vram } = card({ flags: undefined });
  set(MODE);
  vram[OFFSET] = 77;
  expect(display.look().pixels?.[0]).toBe(77);
});

test('registers that define no picture within the BAR show nothing, and the next mode is shown', () => {
  const { display, set } = card();
  set(MODE);
  display.look();
  for (const wrong of [
    { [VBE_DISPI_INDEX_ENABLE]: 0x40 },
    { [VBE_DISPI_INDEX_YRES]: 0 },
    { [VBE_DISPI_INDEX_BPP]: 24 },
    { [VBE_DISPI_INDEX_Y_OFFSET]: 0xffff },
    { [VBE_DISPI_INDEX_XRES]: 0xffff, [VBE_DISPI_INDEX_YRES]: 0xffff },
    { [VBE_DISPI_INDEX_VIRT_WIDTH]: 0xffff },
  ]) {
    set({ ...MODE, ...wrong });
    expect(() => display.look()).toThrowError(/ENODATA\n.*does not fit the video memory/);
    expect(() => display.still()).toThrowError(/ENODATA/);
  }
  set(MODE);
  expect(display.look().pixels).toHaveLength(BYTES);
});

test('whatever a guest writes to the registers, a picture is copied from within the BAR or there is none', () => {
  const { display, set, vram } = card();
  set(MODE);
  display.look();
  for (const [i] of vram.entries()) vram[i] = i % 251;
  const value = fc.oneof(fc.nat(0xffff), fc.nat(200), fc.constantFrom(0, 16, 32, 0x41, 0x43, 0xffff));
  fc.assert(
    fc.property(fc.array(value, { minLength: 11, maxLength: 11 }), (values) => {
      set(Object.fromEntries(values.entries()));
      try {
        const { plane, pixels = new Uint8Array(0) } = display.look();
        expect(plane.offset + pixels.length).toBeLessThanOrEqual(VRAM);
        expect(Buffer.compare(pixels, vram.subarray(plane.offset, plane.offset + pixels.length))).toBe(0);
      } catch (error) {
        expect((error as SysError).code).toBe('ENODATA');
      }
    }),
    { numRuns: 500, examples: [[[0, 100, 100, 32, 0x41, 0, 100, 100, 3, 3, 0]]] },
  );
});

test.each<[string, Kind]>([
  ['of another vendor', { vendor: 0x8086 }],
  ['without its registers', { mmio: DISPI_AT }],
  ['without configuration space', { regions: 7 }],
])('a device %s keeps the error of its dma-buf, which says why', (_, kind) => {
  const { display, opened, file } = card(kind);
  for (let i = 0; i < 2; i++)
    expect(() => display.look()).toThrowError(
      /^mmap on .*: EACCES\n.*exported for reading only.*bochs-display/,
    );
  expect(opened.map((fd) => fd.isOpen)).toEqual([false, false]);
  expect(BochsDisplay.find(file, 'card')).toBeUndefined();
});

test('one whose dma-buf can be mapped is read there, whatever its registers say', () => {
  const { display, set, vram, calls } = card({ flags: constants.O_RDONLY });
  set({ ...MODE, [VBE_DISPI_INDEX_Y_OFFSET]: 7 });
  vram.fill(5, 0, 4096);
  expect(display.look().pixels).toEqual(new Uint8Array(BYTES).fill(5));
  expect(calls.filter((call) => /^(mmap|read 2)/.test(call))).toEqual([]);
});

test('one that shows nothing is not asked for a dma-buf', () => {
  const { display, show, opened } = card();
  show({ drmFormat: 0, width: 0, height: 0, dmabufId: 0 });
  expect(() => display.look()).toThrowError(/ENODATA/);
  expect(opened).toEqual([]);
});
