import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createSharedMemory, type SharedMemory } from '../../sys/mapping.js';
import { VfioCore } from '../../vfio/core/core.js';
import { DRM_FORMAT_BGRX8888, DRM_FORMAT_RGB565, DRM_FORMAT_XRGB8888 } from '../../vfio/drm.js';
import { vfioConformance } from '../../vfio/testing/conformance.js';
import {
  VFIO_GFX_PLANE_TYPE_DMABUF,
  VFIO_GFX_PLANE_TYPE_PROBE,
  VFIO_GFX_PLANE_TYPE_REGION,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_PCI_NUM_REGIONS,
} from '../../vfio/uapi.js';
import { PCI_BASE_ADDRESS_0 } from '../pci/pci-regs.js';
import { hasLspci, lspci } from '../pci/testing/lspci.js';
import { VgpuDevice } from './device.js';
import { Dispi } from './dispi.js';
import { createVgpuDriver } from './driver.js';
import { createEdid } from './edid.js';
import {
  DISPI_AT,
  EDID_AT,
  QEXT_AT,
  QEXT_BIG_ENDIAN,
  QEXT_ENDIAN,
  REGISTER_BAR,
  VBE_DISPI_GETCAPS,
  VBE_DISPI_INDEX_BPP,
  VBE_DISPI_INDEX_ENABLE,
  VBE_DISPI_INDEX_ID,
  VBE_DISPI_INDEX_VIDEO_MEMORY_64K,
  VBE_DISPI_INDEX_VIRT_HEIGHT,
  VBE_DISPI_INDEX_VIRT_WIDTH,
  VBE_DISPI_INDEX_X_OFFSET,
  VBE_DISPI_INDEX_XRES,
  VBE_DISPI_INDEX_Y_OFFSET,
  VBE_DISPI_INDEX_YRES,
  VRAM_BAR,
} from './spec.js';

const VRAM = 4 << 20;

function dispi(mode: Readonly<Record<number, number>>): Dispi {
  const registers = new Dispi(VRAM, { xres: 1024, yres: 768 });
  for (const [index, value] of Object.entries(mode)) registers.write(Number(index), value);
  return registers;
}

const MODE = {
  [VBE_DISPI_INDEX_BPP]: 32,
  [VBE_DISPI_INDEX_XRES]: 640,
  [VBE_DISPI_INDEX_YRES]: 480,
  [VBE_DISPI_INDEX_ENABLE]: 0x41,
};

test('a mode is a plane, panned within a wider one if asked', () => {
  expect(dispi(MODE).plane).toEqual({
    width: 640,
    height: 480,
    drmFormat: DRM_FORMAT_XRGB8888,
    offset: 0,
    stride: 2560,
  });
  const panned = { ...MODE, [VBE_DISPI_INDEX_BPP]: 16, [VBE_DISPI_INDEX_VIRT_WIDTH]: 1000 };
  expect(dispi({ ...panned, [VBE_DISPI_INDEX_X_OFFSET]: 10, [VBE_DISPI_INDEX_Y_OFFSET]: 2 }).plane).toEqual({
    width: 640,
    height: 480,
    drmFormat: DRM_FORMAT_RGB565,
    offset: 2 * 2000 + 20,
    stride: 2000,
  });
});

test.each([
  ['off', { [VBE_DISPI_INDEX_ENABLE]: 0x40 }],
  ['of 24 bits', { [VBE_DISPI_INDEX_BPP]: 24 }],
  ['of no width', { [VBE_DISPI_INDEX_XRES]: 0 }],
  ['of no height', { [VBE_DISPI_INDEX_YRES]: 0 }],
  ['larger than the memory', { [VBE_DISPI_INDEX_XRES]: 4096, [VBE_DISPI_INDEX_YRES]: 4096 }],
  ['panned out of it', { [VBE_DISPI_INDEX_Y_OFFSET]: 0xffff }],
])('a card that is %s shows nothing', (_what, change) => {
  expect(dispi({ ...MODE, ...change }).plane).toBeUndefined();
});

test('whatever is written, what is shown lies in video memory', () => {
  const writes = fc.array(fc.tuple(fc.nat(15), fc.nat(0xffff)), { maxLength: 20 });
  fc.assert(
    fc.property(writes, (all) => {
      const registers = dispi(MODE);
      for (const [index, value] of all) registers.write(index, value);
      const { plane } = registers;
      if (plane === undefined) return;
      const bytes = plane.drmFormat === DRM_FORMAT_RGB565 ? 2 : 4;
      expect(plane.offset + (plane.height - 1) * plane.stride + plane.width * bytes).toBeLessThanOrEqual(
        VRAM,
      );
      expect(plane.stride).toBeGreaterThanOrEqual(plane.width * bytes);
    }),
  );
});

test('a driver finds the id, the memory’s size, and the limits when it asks for them', () => {
  const registers = dispi({ ...MODE, [VBE_DISPI_INDEX_ID]: 1 });
  expect(registers.read(VBE_DISPI_INDEX_ID)).toBe(0xb0c5);
  expect(registers.read(VBE_DISPI_INDEX_VIDEO_MEMORY_64K)).toBe(64);
  expect(registers.read(VBE_DISPI_INDEX_VIRT_HEIGHT)).toBe(Math.floor(VRAM / 2560));
  registers.write(VBE_DISPI_INDEX_ENABLE, VBE_DISPI_GETCAPS);
  expect(
    [VBE_DISPI_INDEX_XRES, VBE_DISPI_INDEX_YRES, VBE_DISPI_INDEX_BPP].map((i) => registers.read(i)),
  ).toEqual([1024, 768, 32]);
});

test.each([
  [1024, 768],
  [64, 64],
  [3840, 2160],
  [4095, 64],
  [64, 4095],
])('the EDID of %i x %i has a header, a sum of 0, and that mode first', (xres, yres) => {
  const edid = createEdid(xres, yres);
  expect(edid).toHaveLength(128);
  expect(edid.reduce((sum, byte) => sum + byte, 0) & 0xff).toBe(0);
  expect([...edid.subarray(0, 8)]).toEqual([0, 255, 255, 255, 255, 255, 255, 0]);
  const timing = edid.subarray(54, 72);
  const at = (i: number) => timing[i] as number;
  expect([at(2) | ((at(4) & 0xf0) << 4), at(5) | ((at(7) & 0xf0) << 4)]).toEqual([xres, yres]);
  const [hblank, vblank] = [at(3) | ((at(4) & 0xf) << 8), at(6) | ((at(7) & 0xf) << 8)];
  const hz = ((at(0) | (at(1) << 8)) * 10_000) / ((xres + hblank) * (yres + vblank));
  expect(hz).toBeGreaterThan(59);
  expect(hz).toBeLessThan(61);
});

test('a mode whose pixel clock has more than 16 bits at 60 Hz is told at a lower rate, within the range limits', () => {
  for (const [xres, yres] of [
    [4095, 2600],
    [4095, 4095],
  ] as const) {
    const edid = createEdid(xres, yres);
    const at = (i: number) => edid[54 + i] as number;
    const [htotal, vtotal] = [xres + at(3), yres + at(6)];
    const hz = ((at(0) | (at(1) << 8)) * 10_000) / (htotal * vtotal);
    expect(hz).toBeGreaterThan(35);
    expect(hz).toBeLessThan(60);
    const limits = edid.subarray(54 + 36, 54 + 54);
    expect(limits[5]).toBeLessThanOrEqual(hz);
    expect(limits[8]).toBeGreaterThanOrEqual((hz * vtotal) / 1000);
  }
  expect(() => createEdid(4096, 64)).toThrowError('cannot tell 4096 x 64 pixels');
  expect(() => createEdid(64, 0)).toThrowError(RangeError);
});

test('the byte-order register selects the format of the plane with pixels of 32 bits, until a reset', () => {
  using device = new VgpuDevice({ name: 'vgpu', vramBytes: VRAM, xres: 1024, yres: 768 });
  device.openDevice();
  const set = (mode: Readonly<Record<number, number>>) => {
    for (const [register, value] of Object.entries(mode))
      device.write(REGISTER_BAR, DISPI_AT + 2 * Number(register), Uint8Array.of(value & 0xff, value >> 8));
  };
  const order = (value: number) =>
    device.write(REGISTER_BAR, QEXT_AT + QEXT_ENDIAN, new Uint8Array(new Uint32Array([value]).buffer));
  set(MODE);
  order(QEXT_BIG_ENDIAN);
  expect(device.plane?.drmFormat).toBe(DRM_FORMAT_BGRX8888);
  set({ [VBE_DISPI_INDEX_BPP]: 16 });
  expect(device.plane?.drmFormat).toBe(DRM_FORMAT_RGB565);
  set({ [VBE_DISPI_INDEX_BPP]: 32 });
  order(0x1e1e_1e1e);
  expect(device.plane?.drmFormat).toBe(DRM_FORMAT_XRGB8888);
  order(QEXT_BIG_ENDIAN);
  device.reset();
  set(MODE);
  expect(device.plane?.drmFormat).toBe(DRM_FORMAT_XRGB8888);
  device.closeDevice();
});

test('a write of 4 or 8 bytes at the DISPI registers sets two or four of them', () => {
  using device = new VgpuDevice({ name: 'vgpu', vramBytes: VRAM, xres: 1024, yres: 768 });
  device.openDevice();
  const at = (register: number) => DISPI_AT + 2 * register;
  device.write(REGISTER_BAR, at(VBE_DISPI_INDEX_XRES), Uint8Array.of(0x80, 0x02, 0xe0, 0x01, 32, 0, 0x41, 0));
  expect(device.plane).toMatchObject({ width: 640, height: 480 });
  device.write(REGISTER_BAR, at(VBE_DISPI_INDEX_YRES), Uint8Array.of(0x90, 0x01, 16, 0));
  expect(device.plane).toMatchObject({ width: 640, height: 400, drmFormat: DRM_FORMAT_RGB565 });
  // Before the first register, and past the last one.
  device.write(REGISTER_BAR, DISPI_AT - 4, Uint8Array.of(1, 1, 1, 1, 1, 1, 0x20, 0x03));
  expect(device.plane?.width).toBe(800);
  device.closeDevice();
});

test('registers have their width, video memory is mapped, and the next user finds it empty', () => {
  using device = new VgpuDevice({ name: 'vgpu', vramBytes: VRAM, xres: 1024, yres: 768 });
  device.openDevice();
  const write16 = (register: number, value: number) =>
    device.write(REGISTER_BAR, DISPI_AT + 2 * register, Uint8Array.of(value & 0xff, value >> 8));
  for (const [register, value] of Object.entries(MODE)) write16(Number(register), value);
  expect(device.plane).toMatchObject({ width: 640, height: 480 });
  // A byte is no register: it changes nothing.
  device.write(REGISTER_BAR, DISPI_AT + 2 * VBE_DISPI_INDEX_XRES, Uint8Array.of(1));
  expect(device.plane?.width).toBe(640);
  device.write(
    REGISTER_BAR,
    QEXT_AT + QEXT_ENDIAN,
    new Uint8Array(new Uint32Array([QEXT_BIG_ENDIAN]).buffer),
  );
  const word = new Uint8Array(4);
  device.read(REGISTER_BAR, QEXT_AT + QEXT_ENDIAN, word);
  expect([...word]).toEqual([0xbe, 0xbe, 0xbe, 0xbe]);
  using mapped = device.mmap(VRAM_BAR, 4096, 4096);
  mapped.view.slice(0, 1).set([0x77]);
  expect(device.vram[4096]).toBe(0x77);
  device.read(VRAM_BAR, 4096, word);
  expect(word[0]).toBe(0x77);
  device.closeDevice();
  device.openDevice();
  expect(device.plane).toBeUndefined();
  expect(device.vram[4096]).toBe(0);
});

test.skipIf(!hasLspci)(
  `lspci decodes the function as the golden file says${hasLspci ? '' : ' (skipped: needs pciutils)'}`,
  () => {
    using device = new VgpuDevice({ name: 'vgpu', vramBytes: VRAM, xres: 1024, yres: 768 });
    device.openDevice();
    const config = VFIO_PCI_CONFIG_REGION_INDEX;
    const place = (register: number, address: number) =>
      device.write(config, register, new Uint8Array(new Uint32Array([address]).buffer));
    place(PCI_BASE_ADDRESS_0 + 4 * VRAM_BAR, 0xc000_0000);
    place(PCI_BASE_ADDRESS_0 + 4 * REGISTER_BAR, 0xc080_0000);
    const space = new Uint8Array(256);
    device.read(config, 0, space);
    expect(lspci(space)).toBe(readFileSync(new URL('./testing/lspci.golden', import.meta.url), 'utf8'));
    device.closeDevice();
  },
);

test('the host is told the plane in the kernel’s terms, and that nothing is shown while nothing is', () => {
  using device = new VgpuDevice({ name: 'vgpu', vramBytes: VRAM, xres: 1024, yres: 768 });
  device.openDevice();
  const query = (flags: number, drmPlaneType = 1) => device.queryGfxPlane({ flags, drmPlaneType });
  expect(query(VFIO_GFX_PLANE_TYPE_REGION)).toMatchObject({ drmFormat: 0, width: 0, size: 0 });
  for (const [register, value] of Object.entries({ ...MODE, [VBE_DISPI_INDEX_Y_OFFSET]: 1 }))
    device.write(
      REGISTER_BAR,
      DISPI_AT + 2 * Number(register),
      Uint8Array.of(Number(value) & 0xff, Number(value) >> 8),
    );
  const expected = {
    width: 640,
    height: 480,
    stride: 2560,
    size: 1_228_800,
    regionIndex: VRAM_BAR,
    offset: 2560,
  };
  expect(query(VFIO_GFX_PLANE_TYPE_REGION)).toMatchObject({ drmFormat: DRM_FORMAT_XRGB8888, ...expected });
  expect(query(VFIO_GFX_PLANE_TYPE_REGION, 2).drmFormat).toBe(0); // no cursor
  expect(query(VFIO_GFX_PLANE_TYPE_REGION | VFIO_GFX_PLANE_TYPE_PROBE).drmFormat).toBe(0);
  expect(() => query(VFIO_GFX_PLANE_TYPE_DMABUF)).toThrowError(/EINVAL\n.*there is no dma-buf/);
  device.closeDevice();
});

test('the host gives the card another screen by the EDID region, and the next user has the old one', () => {
  using device = new VgpuDevice({ name: 'vgpu', vramBytes: VRAM, xres: 1024, yres: 768 });
  device.openDevice();
  const region = VFIO_PCI_NUM_REGIONS;
  const { flags, size, capabilities } = device.getRegionInfo(region);
  expect({ flags, capabilities }).toEqual({ flags: 3 | 8, capabilities: [{ id: 2, type: 1, subtype: 1 }] });
  expect(device.getInfo().numRegions).toBe(region + 1);
  const header = () => {
    const words = new Uint32Array(6);
    device.read(region, 0, new Uint8Array(words.buffer));
    return [...words];
  };
  expect(header()).toEqual([64, 1024, 128, 1024, 768, 1]);
  expect(size).toBe(64 + 1024);
  const seen = (bytes = 128) => {
    const data = new Uint8Array(bytes);
    device.read(REGISTER_BAR, EDID_AT, data);
    return data;
  };
  const set = (at: number, value: number) =>
    device.write(region, at, new Uint8Array(new Uint32Array([value]).buffer));
  const other = new Uint8Array(256);
  other.set(createEdid(640, 480));
  expect(seen()).toEqual(createEdid(1024, 768));
  set(20, 2);
  expect(seen()).toEqual(new Uint8Array(128));
  device.write(region, 64, other);
  set(8, 256);
  expect(seen()).toEqual(new Uint8Array(128));
  set(20, 1);
  expect(seen(256)).toEqual(other);
  for (const [at, value] of [
    [0, 1],
    [4, 1],
    [8, 1025],
    [12, 1],
    [20, 3],
    [9, 1],
    [40, 1],
  ] as const)
    expect(() => set(at, value)).toThrowError(/EDID region: EINVAL/);
  expect(() => device.write(region, 8, Uint8Array.of(1))).toThrowError(/EINVAL/);
  expect(header()).toEqual([64, 1024, 256, 1024, 768, 1]);
  device.closeDevice();
  device.openDevice();
  expect(seen()).toEqual(createEdid(1024, 768));
  device.closeDevice();
});

test('cards share a pool of memory, and wrong options are all told at once', () => {
  const driver = createVgpuDriver();
  const [small, , large] = driver.types;
  if (small === undefined || large === undefined) throw new RangeError('types');
  const environment = {} as never;
  const cards = [0, 1, 2].map((i) => driver.create(large, `uuid ${i}`, {}, environment));
  expect(driver.availableInstances?.(small)).toBe(8);
  const last = driver.create(large, 'uuid 3', {}, environment);
  expect(driver.availableInstances?.(small)).toBe(0);
  expect(() => driver.create(small, 'uuid 4', {}, environment)).toThrowError(
    /ENOSPC\n.*0 MiB of 256 are left, and 28 engines of 32.* the rest is held by vgpu-large uuid 0 \(64 MiB\)/,
  );
  for (const card of [...cards, last]) card[Symbol.dispose]();
  expect(driver.availableInstances?.(small)).toBe(32);
  const wrong = { xres: 'wide', yres: '4095', colours: '2' };
  expect(() => driver.create(small, 'uuid', wrong, environment)).toThrowError(
    /EINVAL\n.*unknown option colours.*xres: 'wide' is not a number/,
  );
  expect(() => driver.create(small, 'uuid', { xres: '2000', yres: '2000' }, environment)).toThrowError(
    /2000x2000 needs more than the 8 MiB of vgpu-small/,
  );
});

describe('conformance, as of every device', () => {
  const core = new VfioCore();
  let memory: SharedMemory;
  let registered: Disposable;
  beforeAll(() => {
    memory = createSharedMemory('conformance', 16 * 4096);
    registered = core.registerVendorDriver(createVgpuDriver(), {
      eventThread: {
        run: () => {
          throw new RangeError('a display has no task');
        },
      },
    });
  });
  afterAll(() => {
    registered[Symbol.dispose]();
    core[Symbol.dispose]();
    memory[Symbol.dispose]();
  });
  const target = {
    provider: core.provider,
    address: 'vgpu-small',
    unusedGroup: 9999,
    get memory() {
      return memory.mapping;
    },
  };
  for (const { name, run } of vfioConformance(target)) test(name, run);
});
