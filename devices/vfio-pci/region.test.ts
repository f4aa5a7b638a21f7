import { expect, test } from 'vitest';
import { trace } from '../../sys/trace.js';
import {
  VFIO_REGION_INFO_CAP_SPARSE_MMAP,
  VFIO_REGION_INFO_FLAG_READ,
  VFIO_REGION_INFO_FLAG_WRITE,
} from '../../vfio/uapi.js';
import { recordTrace } from '../testing/fake-ports.js';
import { ScriptedDevice } from '../testing/scripted-device.js';
import { DeviceConfig } from './device-config.js';
import { Region } from './region.js';

const SIZE = 16;

function open(flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE) {
  const device = new ScriptedDevice({ config: new Uint8Array(256), regions: { 1: { size: SIZE, flags } } });
  const bytes = device.region(1);
  for (let i = 0; i < SIZE; i++) bytes[i] = i + 1;
  return { device, bytes, region: Region.open('card', device, 1) };
}

function readOf(region: Region, offset: number, bytes: number): number[] {
  const data = new Uint8Array(bytes);
  region.read(offset, data);
  return [...data];
}

test.each([
  { offset: 0, bytes: 2, is: [1, 2] },
  { offset: 14, bytes: 2, is: [15, 16] },
  { offset: 15, bytes: 4, is: [16, 0xff, 0xff, 0xff] },
  { offset: 16, bytes: 2, is: [0xff, 0xff] },
  { offset: 100, bytes: 1, is: [0xff] },
])(
  'a read of $bytes bytes at $offset ends with the region; the rest is all-ones',
  ({ offset, bytes, is }) => {
    const { region, device } = open();
    expect(readOf(region, offset, bytes)).toEqual(is);
    expect(device.calls.length).toBe(offset < SIZE ? 1 : 0);
  },
);

test.each([
  { offset: 0, writes: 2 },
  { offset: 15, writes: 1 },
  { offset: 16, writes: 0 },
  { offset: 100, writes: 0 },
])('a write of 2 bytes at $offset reaches the $writes bytes that exist', ({ offset, writes }) => {
  const { region, bytes, device } = open();
  const expected = bytes.slice();
  expected.fill(0xee, Math.min(offset, SIZE), Math.min(offset + writes, SIZE));
  region.write(offset, new Uint8Array(2).fill(0xee));
  expect(bytes).toEqual(expected);
  expect(device.calls.length).toBe(writes > 0 ? 1 : 0);
});

test.each([
  { flags: 0, reads: 0xff, writes: false },
  { flags: VFIO_REGION_INFO_FLAG_READ, reads: 1, writes: false },
  { flags: VFIO_REGION_INFO_FLAG_WRITE, reads: 0xff, writes: true },
])('flags $flags decide whether reads and writes reach the device', ({ flags, reads, writes }) => {
  const { region, bytes } = open(flags);
  expect(readOf(region, 0, 1)).toEqual([reads]);
  region.write(0, Uint8Array.of(0x77));
  expect(bytes[0]).toBe(writes ? 0x77 : 1);
});

test.each([-1, 0, 1, 2])(
  'after a read of which the device gives %i bytes, the others are all-ones',
  (got) => {
    const { region, device } = open();
    device.read = (_offset, data) => {
      data.fill(0);
      return got;
    };
    expect(readOf(region, 0, 2)).toEqual([0xff, 0xff].fill(0, 0, Math.max(got, 0)));
  },
);

test('trapped accesses are published with their value, reads after they are done', () => {
  const { region } = open();
  using accesses = recordTrace(trace.region);
  readOf(region, 2, 4);
  region.write(15, Uint8Array.of(0xaa, 0xbb));
  expect(accesses.events).toEqual([
    { device: 'card', region: 1, address: 2, bytes: 4, isWrite: false, value: 0x0605_0403n },
    { device: 'card', region: 1, address: 15, bytes: 2, isWrite: true, value: 0xbbaan },
  ]);
});

test('configuration space is little-endian, at each width up to 4', () => {
  const { bytes, region } = open();
  const config = new DeviceConfig(region);
  expect(config.size).toBe(SIZE);
  expect([1, 2, 3, 4].map((width) => config.read(1, width))).toEqual([2, 0x0302, 0x04_0302, 0x0504_0302]);
  bytes.fill(0xff);
  expect(config.read(0, 4)).toBe(0xffff_ffff);
  config.write(4, 4, 0x8765_4321);
  config.write(8, 2, 0xabcd);
  config.write(10, 1, 0x12);
  expect([...bytes.subarray(4, 12)]).toEqual([0x21, 0x43, 0x65, 0x87, 0xcd, 0xab, 0x12, 0xff]);
});

test('a region tells which areas of it can be mapped, if its device does', () => {
  const areas = [
    { offset: 0, size: 0x1000 },
    { offset: 0x3000, size: 0x2000 },
  ];
  const info = { index: 1, flags: 3, size: 0x8000, offset: 0 };
  const { device } = open();
  const sparse = { id: VFIO_REGION_INFO_CAP_SPARSE_MMAP, version: 1, areas } as const;
  expect(new Region('card', device, { ...info, capabilities: [sparse] }).sparseAreas).toEqual(areas);
  expect(new Region('card', device, { ...info, capabilities: [] }).sparseAreas).toBe(undefined);
});
