import fc from 'fast-check';
import { expect, test } from 'vitest';
import { createSharedMemory } from '../../sys/mapping.js';
import { trace } from '../../sys/trace.js';
import {
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_PCI_NUM_REGIONS,
  VFIO_PCI_ROM_REGION_INDEX,
} from '../../vfio/uapi.js';
import { ConfigSpace } from '../pci/config-space.js';
import { PCI_COMMAND, PCI_COMMAND_IO, PCI_COMMAND_MEMORY, PCI_ROM_ADDRESS } from '../pci/pci-regs.js';
import { recordTrace } from '../testing/fake-ports.js';
import { type BarRegion, PciRegions, type RegisterArea } from './pci-regions.js';
import { registerAccess } from './region-access.js';

const PAGE = 4096;
const CONFIG = VFIO_PCI_CONFIG_REGION_INDEX;
const ROM = VFIO_PCI_ROM_REGION_INDEX;
const [READ, WRITE, MMAP, CAPS] = [1, 2, 4, 8] as const;

const config = {
  create() {
    const space = new ConfigSpace();
    space.set(PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEMORY);
    space.allow(PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEMORY);
    return space;
  },
};

/** An area of bytes that records who was asked for what. */
function byteArea(offset: number, size: number, calls: string[] = []): RegisterArea & { bytes: Uint8Array } {
  const bytes = new Uint8Array(size);
  return {
    offset,
    size,
    bytes,
    read(at, data) {
      calls.push(`read ${offset}+${at} ${data.length}`);
      data.set(bytes.subarray(at, at + data.length));
    },
    write(at, data) {
      calls.push(`write ${offset}+${at} ${data.length}`);
      bytes.set(data, at);
    },
  };
}

const read = (regions: PciRegions, index: number, offset: number, bytes: number): number[] => {
  const data = new Uint8Array(bytes);
  expect(regions.read(index, offset, data)).toBe(bytes);
  return [...data];
};

const setCommand = (regions: PciRegions, command: number) =>
  regions.write(CONFIG, PCI_COMMAND, Uint8Array.of(command, 0));

test('an access across the border of two areas is split there, and each area counts from its own start', () => {
  const calls: string[] = [];
  const areas = [byteArea(8, 4, calls), byteArea(4, 4, calls)];
  const regions = new PciRegions('card', { config, bars: [{ index: 0, size: 16, areas }] });
  regions.write(0, 2, Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8));
  expect(read(regions, 0, 6, 8)).toEqual([5, 6, 7, 8, 0, 0, 0xff, 0xff]);
  expect(calls).toEqual(['write 4+0 4', 'write 8+0 2', 'read 4+2 2', 'read 8+0 4']);
});

test('of bytes outside of all areas, reads are all-ones, and writes are dropped and reported', () => {
  using misuse = recordTrace(trace.guestMisuse);
  const regions = new PciRegions('card', {
    config,
    bars: [{ index: 1, size: 16, areas: [byteArea(0, 4)] }],
  });
  regions.write(1, 8, Uint8Array.of(1, 2));
  expect(read(regions, 1, 8, 2)).toEqual([0xff, 0xff]);
  expect(read(regions, 1, 14, 4)).toEqual([0xff, 0xff, 0xff, 0xff]);
  expect(misuse.events).toEqual([
    { device: 'card', what: 'region', text: 'write of 2 bytes to 0x8 of BAR 1, which is read-only' },
  ]);
});

test('a BAR answers while its own kind of decoding is on, and not otherwise', () => {
  using misuse = recordTrace(trace.guestMisuse);
  const areas = [byteArea(0, 8), byteArea(0, 16)] as const;
  const regions = new PciRegions('card', {
    config,
    bars: [
      { index: 0, size: 8, kind: 'io', areas: [areas[0]] },
      { index: 1, size: 16, areas: [areas[1]] },
    ],
  });
  for (const [command, answers] of [
    [PCI_COMMAND_IO, [0, 0xff]],
    [PCI_COMMAND_MEMORY, [0xff, 0]],
    [0, [0xff, 0xff]],
  ] as const) {
    setCommand(regions, command);
    expect([0, 1].map((index) => read(regions, index, 0, 1)[0])).toEqual(answers);
  }
  for (const index of [0, 1]) regions.write(index, 0, Uint8Array.of(7));
  expect(areas.map(({ bytes }) => bytes[0])).toEqual([0, 0]);
  expect(misuse.events.slice(-2)).toEqual([
    { device: 'card', what: 'region', text: 'write of BAR 0 while I/O decoding is off' },
    { device: 'card', what: 'region', text: 'write of BAR 1 while memory decoding is off' },
  ]);
  regions.resetConfig();
  expect(read(regions, 0, 0, 1)).toEqual([0]);
});

test('the registers of the BARs are in configuration space and answer the sizing protocol', () => {
  const regions = new PciRegions('card', {
    config,
    bars: [
      { index: 0, size: 32, kind: 'io' },
      { index: 2, size: PAGE, kind: 'memory64', isPrefetchable: true },
    ],
  });
  regions.write(CONFIG, 0x10, new Uint8Array(24).fill(0xff));
  const words = new Uint32Array(6);
  regions.read(CONFIG, 0x10, new Uint8Array(words.buffer));
  expect([...words]).toEqual([0xffff_ffe1, 0, 0xffff_f00c, 0xffff_ffff, 0, 0]);
});

test('configuration space is updated before a read, and the device follows after a write', () => {
  const calls: string[] = [];
  const regions = new PciRegions('card', {
    config: {
      ...config,
      beforeRead: (space, offset, bytes) => {
        calls.push(`read ${offset} ${bytes}`);
        space.set(0, 2, 0x1234);
      },
      afterWrite: (space, offset, bytes) => {
        calls.push(`write ${offset} ${bytes} ${space.read(PCI_COMMAND, 2)}`);
      },
    },
    bars: [],
  });
  expect(read(regions, CONFIG, 0, 2)).toEqual([0x34, 0x12]);
  setCommand(regions, 2);
  expect(calls).toEqual(['read 0 2', 'write 4 2 2']);
});

test('memory can be mapped but for the pages that an area touches, and trapped accesses reach it', () => {
  using memory = createSharedMemory('card', 8 * PAGE);
  const areas = [byteArea(2 * PAGE - 4, 8), byteArea(5 * PAGE, 4)];
  const regions = new PciRegions('card', { config, bars: [{ index: 0, size: 8 * PAGE, memory, areas }] });
  expect(regions.getRegionInfo(0)).toEqual({
    index: 0,
    flags: READ | WRITE | MMAP | CAPS,
    size: 8 * PAGE,
    capabilities: [
      {
        id: 1,
        areas: [
          { offset: 0, size: PAGE },
          { offset: 3 * PAGE, size: 2 * PAGE },
          { offset: 6 * PAGE, size: 2 * PAGE },
        ],
      },
    ],
  });
  regions.write(0, 2 * PAGE - 6, Uint8Array.of(1, 2, 3, 4));
  expect([...memory.mapping.view.slice(2 * PAGE - 6, 4)]).toEqual([1, 2, 0, 0]);
  expect(read(regions, 0, 2 * PAGE - 6, 4)).toEqual([1, 2, 3, 4]);
  using mapped = regions.mmap(0, 3 * PAGE, PAGE);
  mapped.view.slice(0, 1)[0] = 0x77;
  expect(read(regions, 0, 3 * PAGE, 1)).toEqual([0x77]);
  expect(() => regions.mmap(1, 0, PAGE)).toThrowError(/card: region 1 has no memory/);
});

test('memory without areas is mapped as a whole; with an area in each page it is not mapped at all', () => {
  using memory = createSharedMemory('card', PAGE);
  const bar = { index: 0, size: PAGE, memory };
  const info = (areas: RegisterArea[]) =>
    new PciRegions('card', { config, bars: [{ ...bar, areas }] }).getRegionInfo(0);
  expect(info([])).toMatchObject({ flags: READ | WRITE | MMAP, capabilities: [] });
  expect(info([byteArea(0, 4)])).toMatchObject({ flags: READ | WRITE, capabilities: [] });
});

test('a device-specific region has its type, and the rights that it has functions for', () => {
  const typed = (access: object) => ({ type: 1, subtype: 2, size: 16, ...access });
  const regions = new PciRegions('card', {
    config,
    bars: [],
    typed: [typed({ read: () => {} }), typed({ areas: [byteArea(0, 4)] }), typed({})],
  });
  const infos = [0, 1, 2].map((i) => regions.getRegionInfo(VFIO_PCI_NUM_REGIONS + i));
  expect(infos.map(({ flags }) => flags)).toEqual([READ | CAPS, READ | WRITE | CAPS, CAPS]);
  expect(infos[0]?.capabilities).toEqual([{ id: 2, type: 1, subtype: 2 }]);
  expect(regions.getInfo()).toEqual({ flags: 3, numRegions: VFIO_PCI_NUM_REGIONS + 3, numIrqs: 5 });
  expect(regions.getInfo(false).flags).toBe(2);
  setCommand(regions, 0);
  expect(read(regions, VFIO_PCI_NUM_REGIONS + 1, 0, 1)).toEqual([0]);
});

test('doorbells of areas are listed with offsets in the region', () => {
  const ioFds = [{ offset: 4, size: 4, fd: 3 }];
  const areas = [{ offset: 8, size: 8, ioFds }];
  const regions = new PciRegions('card', { config, bars: [{ index: 0, size: 16, ioFds, areas }] });
  expect(regions.getRegionIoFds(0)).toEqual([
    { offset: 4, size: 4, fd: 3 },
    { offset: 12, size: 4, fd: 3 },
  ]);
  expect(regions.getRegionIoFds(1)).toEqual([]);
});

test('an expansion ROM has the next power of two, is read-only, and answers while memory is decoded', () => {
  const rom = Uint8Array.from({ length: 2500 }, (_, i) => i & 0xff);
  const regions = new PciRegions('card', { config, bars: [], rom });
  expect(regions.getRegionInfo(ROM)).toEqual({ index: ROM, flags: READ, size: 4096, capabilities: [] });
  expect(read(regions, ROM, 2498, 4)).toEqual([2498 & 0xff, 2499 & 0xff, 0xff, 0xff]);
  regions.write(ROM, 0, Uint8Array.of(7));
  expect(read(regions, ROM, 0, 2)).toEqual([0, 1]);
  regions.write(CONFIG, PCI_ROM_ADDRESS, Uint8Array.of(0xff, 0xff, 0xff, 0xff));
  expect(read(regions, CONFIG, PCI_ROM_ADDRESS, 4)).toEqual([1, 0xf0, 0xff, 0xff]);
  setCommand(regions, 0);
  expect(read(regions, ROM, 0, 1)).toEqual([0xff]);
});

test('a function without configuration space decodes always', () => {
  const regions = new PciRegions('card', { bars: [{ index: 0, size: 16, areas: [byteArea(0, 16)] }] });
  expect(read(regions, 0, 0, 1)).toEqual([0]);
  expect(regions.getRegionInfo(CONFIG).size).toBe(0);
  expect(read(regions, CONFIG, 0, 1)).toEqual([0xff]);
});

test.each<[string, BarRegion[], RegExp]>([
  ['areas that overlap', [{ index: 0, size: 16, areas: [byteArea(0, 8), byteArea(4, 8)] }], /0x4 overlaps/],
  ['an area past the end', [{ index: 0, size: 16, areas: [byteArea(12, 8)] }], /0xc overlaps/],
  ['an empty area', [{ index: 0, size: 16, areas: [byteArea(4, 0)] }], /0x4 overlaps/],
  ['a size that no BAR has', [{ index: 0, size: 24 }], /BAR 0 cannot have 24 bytes/],
  ['a number that no BAR has', [{ index: 6, size: 16 }], /registers of BAR 6/],
  ['a number twice', [1, 1].map((index) => ({ index, size: 16 })), /registers of BAR 1/],
  ['the upper half of another', [0, 1].map((index) => ({ index, size: 16, kind: 'memory64' })), /of BAR 1/],
  ['no register for the upper half', [{ index: 5, size: 16, kind: 'memory64' }], /registers of BAR 5/],
])('a table with %s is refused', (_what, bars, message) => {
  expect(() => new PciRegions('card', { config, bars })).toThrowError(message);
});

test('memory that is smaller than its region is refused', () => {
  using memory = createSharedMemory('card', PAGE);
  const bars = [{ index: 0, size: 2 * PAGE, memory }];
  expect(() => new PciRegions('card', { config, bars })).toThrowError(
    /BAR 0 has 8192 bytes, its memory 4096/,
  );
});

test('whatever the areas, a BAR of bytes behaves like an array of bytes', () => {
  const size = 64;
  const layout = fc
    .uniqueArray(fc.nat(size), { minLength: 2, maxLength: 12 })
    .map((edges) => edges.sort((a, b) => a - b));
  const access = fc.record({
    offset: fc.nat(size - 1),
    data: fc.uint8Array({ minLength: 1, maxLength: 16 }),
    isWrite: fc.boolean(),
  });
  fc.assert(
    fc.property(layout, fc.array(access), (edges, accesses) => {
      const model = new Uint8Array(size).fill(0xff);
      const isBacked = new Uint8Array(size);
      const areas = edges.slice(1).flatMap((end, i) => {
        const start = edges[i] as number;
        if (i % 3 === 2) return []; // a gap
        model.fill(0, start, end);
        isBacked.fill(1, start, end);
        return [byteArea(start, end - start)];
      });
      const regions = new PciRegions('card', { config, bars: [{ index: 0, size, areas }] });
      for (const { offset, data, isWrite } of accesses) {
        if (isWrite) {
          regions.write(0, offset, data);
          for (const [i, byte] of data.entries()) if (isBacked[offset + i] === 1) model[offset + i] = byte;
        } else {
          const expected = Array.from(data, (_, i) => model[offset + i] ?? 0xff);
          expect(read(regions, 0, offset, data.length)).toEqual(expected);
        }
      }
    }),
  );
});

test.each([
  [4, 1, 8, ['1/1', '2/2', '4/4', '8/1']],
  [2, 0, 4, ['0/2', '2/2']],
  [1, 0, 2, ['0/1', '1/1']],
  [4, 4, 8, ['4/4', '8/4']],
] as const)(
  'registers of up to %d bytes at %d, %d bytes long, are accessed one by one',
  (widest, offset, length, accesses) => {
    const seen: string[] = [];
    const written = new Map<number, number>();
    const access = registerAccess(
      {
        read: (at, bytes) => {
          seen.push(`${at}/${bytes}`);
          return written.get(at) ?? 0;
        },
        write: (at, bytes, value) => {
          seen.push(`${at}/${bytes}`);
          written.set(at, value);
        },
      },
      widest,
    );
    const data = Uint8Array.from({ length }, (_, i) => 0xf1 + i);
    access.write?.(offset, data);
    const back = new Uint8Array(length);
    access.read?.(offset, back);
    expect(back).toEqual(data);
    expect(seen).toEqual([...accesses, ...accesses]);
  },
);
