import { describe, expect, test } from 'vitest';
import {
  VFIO_REGION_INFO_CAP_SPARSE_MMAP,
  VFIO_REGION_INFO_CAP_TYPE,
  VFIO_REGION_INFO_FLAG_CAPS,
  VFIO_REGION_INFO_FLAG_MMAP,
} from '../uapi.js';
import {
  decodeDeviceInfo,
  decodeInfoRequest,
  decodeIoFds,
  decodeIoFdsRequest,
  decodeIrqInfo,
  decodeRegionInfo,
  encodeCommand,
  encodeDeviceInfo,
  encodeError,
  encodeIoFds,
  encodeIrqInfo,
  encodeRegionInfo,
  encodeReply,
  ioFdsRequest,
  irqInfoRequest,
  Reader,
  regionInfoBytes,
  regionInfoRequest,
  type UserRegionInfo,
  Writer,
} from './message.js';

const COMMAND = 7;
const words = (bytes: Uint8Array): number[] => [...new Uint32Array(bytes.slice().buffer)];
/** A payload of 32-bit words. */
const of = (...values: number[]): Uint8Array => new Uint8Array(new Uint32Array(values).buffer);

test('a message has its id, command, whole size, flags and errno in front', () => {
  const payload = of(0x1122_3344);
  const head = 0x7_0102;
  expect(words(encodeCommand(0x0102, COMMAND, payload))).toEqual([head, 20, 0, 0, 0x1122_3344]);
  expect(words(encodeCommand(0x0102, COMMAND, payload, 0x10))).toEqual([head, 20, 0x10, 0, 0x1122_3344]);
  expect(words(encodeReply(0x0102, COMMAND))).toEqual([head, 16, 1, 0]);
  expect(words(encodeError(0x0102, COMMAND, 22))).toEqual([head, 16, 0x21, 22]);
});

describe('a reader', () => {
  test('reads fields in order to the last byte, and no further', () => {
    const reader = new Reader(COMMAND, of(0x0201, 0xffff_ffff, 1, 2).subarray(2));
    expect(reader.left).toBe(14);
    expect(reader.u16()).toBe(0);
    expect(reader.u32()).toBe(0xffff_ffff);
    expect(reader.u64()).toBe(0x2_0000_0001n);
    expect(reader.left).toBe(0);
    for (const read of [() => reader.u16(), () => reader.u32(), () => reader.u64(), () => reader.bytes(1)]) {
      expect(read).toThrow(/EINVAL\n.*ends after 14 bytes/);
    }
    expect(reader.bytes(0)).toHaveLength(0);
  });

  test('takes sizes up to 2^52, and an argsz of at least what is needed', () => {
    expect(new Reader(COMMAND, of(0, 0x10_0000)).size()).toBe(2 ** 52);
    expect(() => new Reader(COMMAND, of(1, 0x10_0000)).size()).toThrow(/EINVAL\n.*out of range/);
    expect(new Reader(COMMAND, of(16)).argsz(16)).toBe(16);
    expect(() => new Reader(COMMAND, of(15)).argsz(16)).toThrow(/EINVAL\n.*argsz 15/);
  });
});

describe('infos and their requests', () => {
  test('device and interrupt', () => {
    expect(words(encodeDeviceInfo({ flags: 3, numRegions: 9, numIrqs: 5 }))).toEqual([16, 3, 9, 5]);
    expect(decodeDeviceInfo(4, of(16, 3, 9, 5))).toEqual({ flags: 3, numRegions: 9, numIrqs: 5 });
    expect(words(encodeIrqInfo({ flags: 7, index: 2, count: 64 }))).toEqual([16, 7, 2, 64]);
    expect(decodeIrqInfo(7, of(16, 7, 2, 64))).toEqual({ flags: 7, index: 2, count: 64 });
    for (const decode of [decodeDeviceInfo, decodeIrqInfo]) {
      expect(() => decode(4, of(15, 3, 9, 5))).toThrow(/EINVAL/);
      expect(() => decode(4, of(16, 3, 9))).toThrow(/EINVAL/);
    }
  });

  test('requests', () => {
    expect(words(regionInfoRequest(100, 7))).toEqual([100, 0, 7, 0, 0, 0, 0, 0]);
    expect(words(irqInfoRequest(2))).toEqual([16, 0, 2, 0]);
    expect(words(ioFdsRequest(56, 3))).toEqual([56, 0, 3, 0]);
    expect(decodeInfoRequest(5, of(32, 9, 7), 32)).toEqual({ argsz: 32, index: 7 });
    expect(() => decodeInfoRequest(5, of(31, 0, 7), 32)).toThrow(/EINVAL/);
    expect(decodeIoFdsRequest(6, of(16, 0, 3, 0))).toEqual({ argsz: 16, index: 3 });
    for (const bad of [of(15, 0, 3, 0), of(16, 1, 3, 0), of(16, 0, 3, 1)]) {
      expect(() => decodeIoFdsRequest(6, bad)).toThrow(/EINVAL/);
    }
  });
});

describe('a region', () => {
  const plain: UserRegionInfo = { index: 2, flags: 3, size: 0x5000, fdOffset: 0x1000, capabilities: [] };
  const sparse = {
    id: VFIO_REGION_INFO_CAP_SPARSE_MMAP,
    areas: [
      { offset: 0, size: 0x1000 },
      { offset: 0x4000, size: 0x1000 },
    ],
  } as const;
  const type = { id: VFIO_REGION_INFO_CAP_TYPE, type: 0x8000_8086, subtype: 1 } as const;
  const rich: UserRegionInfo = {
    ...plain,
    flags: 3 | VFIO_REGION_INFO_FLAG_MMAP | VFIO_REGION_INFO_FLAG_CAPS,
    capabilities: [sparse, type],
  };
  const RICH_BYTES = 32 + 16 + 32 + 16;

  test('without capabilities is 32 bytes, whatever its flags say', () => {
    const encoded = encodeRegionInfo({ ...plain, flags: 3 | VFIO_REGION_INFO_FLAG_CAPS }, 1000);
    expect(words(encoded)).toEqual([32, 3, 2, 0, 0x5000, 0, 0x1000, 0]);
    expect(decodeRegionInfo(5, encoded)).toEqual({ ...plain, argsz: 32, isWhole: true });
  });

  test('with capabilities is encoded as the kernel chains them, if they fit', () => {
    expect(regionInfoBytes(rich)).toBe(RICH_BYTES);
    const encoded = encodeRegionInfo(rich, RICH_BYTES);
    expect(words(encoded)).toEqual([
      ...[RICH_BYTES, rich.flags, 2, 32, 0x5000, 0, 0x1000, 0],
      ...[0x1_0001, 32 + 48, 2, 0, 0, 0, 0x1000, 0, 0x4000, 0, 0x1000, 0],
      ...[0x1_0002, 0, 0x8000_8086, 1],
    ]);
    expect(decodeRegionInfo(5, encoded)).toEqual({ ...rich, argsz: RICH_BYTES, isWhole: true });
    const short = encodeRegionInfo(rich, RICH_BYTES - 1);
    expect(words(short)).toEqual([RICH_BYTES, 3 | VFIO_REGION_INFO_FLAG_MMAP, 2, 0, 0x5000, 0, 0x1000, 0]);
    expect(decodeRegionInfo(5, short)).toMatchObject({ argsz: RICH_BYTES, isWhole: false, capabilities: [] });
  });

  /** The reply of a server, with capabilities from byte 32 on. */
  const reply = (first: number, ...chain: number[]): Uint8Array =>
    of(32 + chain.length * 4, VFIO_REGION_INFO_FLAG_CAPS, 0, first, 0x2000, 0, 0, 0, ...chain);
  const decoded = (bytes: Uint8Array) => decodeRegionInfo(5, bytes).capabilities;

  test('capabilities that are unknown, or of another version, are skipped', () => {
    const first = [0x1_0009, 40];
    const second = [0x2_0002, 56, 5, 6];
    expect(decoded(reply(32, ...first, ...second, 0x1_0002, 0, 7, 8))).toEqual([
      { id: VFIO_REGION_INFO_CAP_TYPE, type: 7, subtype: 8 },
    ]);
    expect(decoded(reply(32, 0x2_0001, 0, 0xffff_ffff, 0))).toEqual([]);
    expect(decoded(reply(0, 0x1_0002, 0, 7, 8))).toEqual([]);
  });

  test.each([
    { what: 'in the fixed part', bytes: reply(31, 0x1_0009, 0) },
    { what: 'past the end', bytes: reply(41, 0x1_0009, 0) },
    { what: 'at the end', bytes: reply(40, 0x1_0009, 0) },
    { what: 'that leads to itself', bytes: reply(32, 0x1_0009, 32) },
    { what: 'that leads back', bytes: reply(40, 0x1_0009, 0, 0x1_0009, 32) },
    { what: 'cut short', bytes: reply(32, 0x1_0002, 0, 7) },
    { what: 'with an area past its region', bytes: reply(32, 0x1_0001, 0, 1, 0, 0x1000, 0, 0x1001, 0) },
    { what: 'with too many areas', bytes: reply(32, 0x1_0001, 0, 1025, 0, ...new Array(4100).fill(0)) },
  ])('a capability $what is EINVAL', ({ bytes }) => {
    expect(() => decoded(bytes)).toThrow(/EINVAL/);
  });

  test('an area may end with its region, and there may be 1024', () => {
    expect(decoded(reply(32, 0x1_0001, 0, 1, 0, 0x1000, 0, 0x1000, 0))).toMatchObject([
      { areas: { length: 1 } },
    ]);
    const many = reply(32, 0x1_0001, 0, 1024, 0, ...new Array(4096).fill(0));
    expect(decoded(many)).toMatchObject([{ areas: { length: 1024 } }]);
  });

  test('an argsz below 32 is EINVAL', () => {
    expect(() => decodeRegionInfo(5, of(31, 0, 0, 0, 0, 0, 0, 0))).toThrow(/EINVAL/);
  });
});

describe('doorbells', () => {
  const bells = [
    { offset: 0x800, size: 4, fdIndex: 0, type: 0, datamatch: 5n },
    { offset: 0x804, size: 2, fdIndex: 1, type: 0, datamatch: undefined },
  ];
  const BYTES = 16 + 2 * 40;

  test('are decoded as they were encoded, if they fit; else only counted', () => {
    const encoded = encodeIoFds(3, bells, BYTES);
    expect(words(encoded)).toEqual([
      ...[BYTES, 0, 3, 2],
      ...[0x800, 0, 4, 0, 0, 0, 1, 0, 5, 0],
      ...[0x804, 0, 2, 0, 1, 0, 0, 0, 0, 0],
    ]);
    expect(decodeIoFds(6, encoded)).toEqual({ argsz: BYTES, count: 2, ioFds: bells });
    const short = encodeIoFds(3, bells, BYTES - 1);
    expect(words(short)).toEqual([BYTES, 0, 3, 2]);
    expect(decodeIoFds(6, short)).toEqual({ argsz: BYTES, count: 2, ioFds: [] });
  });

  test('may have entries of libvfio-user’s later size, with a shadow offset before the value', () => {
    const entry = (at: number) => [at, 0, 4, 0, 0, 0, 1, 0, 0xdead, 0, 9, 0];
    const bytes = of(16 + 96, 0, 3, 2, ...entry(0x10), ...entry(0x20));
    expect(decodeIoFds(6, bytes).ioFds.map(({ offset, datamatch }) => [offset, datamatch])).toEqual([
      [0x10, 9n],
      [0x20, 9n],
    ]);
  });

  test('of another type match no value', () => {
    const [first] = decodeIoFds(6, of(56, 0, 3, 1, 0, 0, 4, 0, 0, 1, 1, 0, 5, 0)).ioFds;
    expect(first).toMatchObject({ type: 1, datamatch: undefined });
  });

  test('are 1024 at most', () => {
    expect(decodeIoFds(6, of(16, 0, 3, 1024))).toMatchObject({ count: 1024, ioFds: [] });
    expect(() => decodeIoFds(6, of(16, 0, 3, 1025))).toThrow(/EINVAL/);
    expect(() => decodeIoFds(6, of(56, 0, 3, 1, 0, 0, 4, 0, 0, 1, 1, 0, 5))).toThrow(/EINVAL/);
  });
});

test('a writer puts each field behind the one before', () => {
  const { bytes } = new Writer(17)
    .u16(1)
    .u16(0xffff)
    .u32(0xffff_ffff)
    .u64(2n ** 63n)
    .data(Uint8Array.of(9));
  expect([...bytes]).toEqual([1, 0, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 128, 9]);
});
