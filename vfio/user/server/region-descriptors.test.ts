/** Which descriptor a served region comes with, and which ranges of it there are. */
import { writeSync } from 'node:fs';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Fd } from '../../../sys/fd.js';
import { createSharedMemory, Mapping, type SharedMemory } from '../../../sys/mapping.js';
import { Scope } from '../../../sys/scope.js';
import type { DeviceFile, RegionInfo } from '../../uapi.js';
import { bytes } from '../testing/peers/session.js';
import { setIrqs } from './irqs.js';
import { ServedRegions } from './regions.js';

const PAGE = 4096;
const [R, W, MMAP, CAPS] = [1, 2, 4, 8];

let scope: Scope;
let memory: SharedMemory;
let other: SharedMemory;
beforeEach(() => {
  scope = new Scope();
  memory = scope.own(createSharedMemory('region', 4 * PAGE));
  other = scope.own(createSharedMemory('other', 4 * PAGE));
});
afterEach(() => scope[Symbol.dispose]());

type Area = readonly [number, number];

/** A device with one region, at 1000 pages, whose maps come from `file`. */
function served(
  region: Partial<RegionInfo>,
  file: (at: number, size: number) => Mapping = (at, size) => Mapping.file(memory.fd, size, { offset: at }),
  more: Partial<DeviceFile> = {},
) {
  const info: RegionInfo = {
    ...{ index: 0, flags: R | W | MMAP | CAPS, size: 4 * PAGE, offset: 1000 * PAGE, capabilities: [] },
    ...region,
  };
  let asked = 0;
  const device = {
    target: 'device',
    getInfo: () => ({ flags: 0, numRegions: 1, numIrqs: 1 }),
    getRegionInfo: () => {
      asked++;
      return info;
    },
    mmap: (offset: number, size: number) => file(offset - info.offset, size),
    ...more,
  } as unknown as DeviceFile;
  return { regions: scope.own(new ServedRegions(device)), asked: () => asked };
}

const areas = (...list: readonly Area[]) => [
  { id: 1 as const, areas: list.map(([offset, size]) => ({ offset, size })) },
];

function canWrite(fd: number): boolean {
  try {
    return writeSync(fd, Uint8Array.of(0), 0, 1, 0) === 1;
  } catch {
    return false;
  }
}

test('a region is looked at once, and comes with its file', () => {
  const capabilities = areas([0, PAGE], [2 * PAGE, PAGE]);
  const { regions, asked } = served({ capabilities });
  const found = regions.region(0);
  expect(regions.region(0)).toBe(found);
  expect(asked()).toBe(1);
  expect(found).toEqual({
    info: { index: 0, size: 4 * PAGE, flags: R | W | MMAP, capabilities, fdOffset: 0 },
    offset: 1000 * PAGE,
    fd: expect.any(Number),
  });
  expect(canWrite(found.fd as number)).toBe(true);
});

test('a region for reading only comes with a descriptor that cannot write', () => {
  const { regions } = served({ flags: R | MMAP });
  expect(canWrite(regions.region(0).fd as number)).toBe(false);
});

test('a region that starts later in its file comes with that offset', () => {
  const { regions } = served({ size: PAGE }, (at, size) =>
    Mapping.file(memory.fd, size, { offset: at + 3 * PAGE }),
  );
  expect(regions.region(0).info).toMatchObject({ fdOffset: 3 * PAGE, flags: R | W | MMAP });
});

test.each<[string, (at: number, size: number) => Mapping]>([
  ['no file', (_at, size) => Mapping.anonymous(size)],
  ['two files', (at, size) => Mapping.file(at === 0 ? memory.fd : other.fd, size, { offset: at })],
  [
    'a second area without a file',
    (at, size) => (at === 0 ? Mapping.file(memory.fd, size, {}) : Mapping.anonymous(size)),
  ],
  ['two places of one file', (_at, size) => Mapping.file(memory.fd, size, {})],
])('a region of %s is reached by message', (_what, file) => {
  const { regions } = served({ capabilities: areas([0, PAGE], [2 * PAGE, PAGE]) }, file);
  expect(regions.region(0)).toMatchObject({ info: { flags: R | W, capabilities: [] }, fd: undefined });
});

test('a region that would start in front of its file is reached by message', () => {
  const { regions } = served({ capabilities: areas([2 * PAGE, PAGE]) }, (_at, size) =>
    Mapping.file(memory.fd, size, { offset: PAGE }),
  );
  expect(regions.region(0)).toMatchObject({ info: { flags: R | W }, fd: undefined });
});

test('a region that cannot be mapped has no descriptor, and one without areas neither', () => {
  const never = () => {
    throw new RangeError('mapped');
  };
  expect(served({ flags: R | W | CAPS }, never).regions.region(0)).toMatchObject({
    info: { flags: R | W },
    fd: undefined,
  });
  expect(served({ capabilities: areas() }, never).regions.region(0)).toMatchObject({
    info: { flags: R | W },
    fd: undefined,
  });
});

test('a region of another server is passed on as it came', () => {
  const fd = scope.own(Fd.eventfd('passed'));
  const given: RegionInfo = {
    ...{ index: 0, flags: R | MMAP | CAPS, size: 4 * PAGE, offset: 0 },
    capabilities: areas([PAGE, PAGE]),
  };
  const getRegionFile = () => ({ info: given, file: { fd, offset: 77 } });
  const { regions } = served({ flags: R }, undefined, { getRegionFile } as unknown as Partial<DeviceFile>);
  expect(regions.region(0)).toEqual({
    info: { index: 0, size: 4 * PAGE, flags: R | MMAP, capabilities: areas([PAGE, PAGE]), fdOffset: 77 },
    offset: 1000 * PAGE,
    fd: fd.number,
  });
});

test('a range of a region ends with it, and its info is asked for once', () => {
  const { regions, asked } = served({ size: 100 });
  expect(regions.place(0, 0, 100)).toBe(1000 * PAGE);
  expect(regions.place(0, 60, 40)).toBe(1000 * PAGE + 60);
  expect(regions.place(0, 100, 0)).toBe(1000 * PAGE + 100);
  for (const [index, offset, count] of [
    [0, 60, 41],
    [0, 101, 0],
    [1, 0, 0],
  ] as const)
    expect(() => regions.place(index, offset, count)).toThrowError(
      /^region access on device: EINVAL\n.*bytes \d+ to \d+ of region \d, which has (100|0)$/,
    );
  expect(asked()).toBe(1);
});

test.each<[string, Uint8Array, number, unknown]>([
  ['flags', bytes(20, 0x21, 2, 3, 4), 0, { flags: 0x21, index: 2, start: 3, count: 4 }],
  [
    'bytes, of which each but 0 is 1',
    bytes(24, 0x22, 2, 0, 4, [0, 1, 2, 0]),
    0,
    { flags: 0x22, index: 2, start: 0, count: 4, data: [0, 1, 1, 0] },
  ],
  [
    'no descriptors, which detach',
    bytes(20, 0x24, 2, 1, 2),
    0,
    { flags: 0x24, index: 2, start: 1, count: 2, data: [-1, -1] },
  ],
  ['2048 at once', bytes(20, 0x21, 2, 0, 2048), 0, { flags: 0x21, index: 2, start: 0, count: 2048 }],
  [
    'descriptors without the flag, which do not count',
    bytes(20, 0x21, 2, 0, 1),
    1,
    { flags: 0x21, index: 2, start: 0, count: 1 },
  ],
])('interrupts are set by %s', (_what, payload, count, expected) => {
  const sets: unknown[] = [];
  const device = { setIrqs: (set: unknown) => void sets.push(set) } as unknown as DeviceFile;
  setIrqs(device, payload, new Array<Fd>(count).fill(memory.fd));
  expect(sets).toEqual([expected]);
});

test.each<[string, Uint8Array, number]>([
  ['a short argsz', bytes(19, 0x21, 2, 0, 1), 0],
  ['2049 at once', bytes(20, 0x21, 2, 0, 2049), 0],
  ['fewer bytes than interrupts', bytes(22, 0x22, 2, 0, 3, [1, 1]), 0],
  ['fewer descriptors than interrupts', bytes(20, 0x24, 2, 0, 3), 2],
  ['more descriptors than interrupts', bytes(20, 0x24, 2, 0, 1), 2],
])('interrupts are not set by %s', (_what, payload, count) => {
  const device = {
    setIrqs: () => {
      throw new RangeError('set');
    },
  } as unknown as DeviceFile;
  expect(() => setIrqs(device, payload, new Array<Fd>(count).fill(memory.fd))).toThrowError(/EINVAL/);
});
