import { describe, expect, test } from 'vitest';
import { iova } from '../../sys/address.js';
import type { FeatureInput, FeatureOutput } from '../feature.js';
import {
  decodeFeatureReply,
  decodeFeatureRequest,
  encodeFeatureReply,
  encodeFeatureRequest,
  isUserFeature,
  MOST_BITMAP_BYTES,
} from './feature.js';
import { bytes } from './testing/peers/session.js';

const [GET, SET, PROBE] = [1 << 16, 1 << 17, 1 << 18];
const [MIGRATION, STATE, START, STOP, REPORT, DATA_SIZE] = [1, 2, 6, 7, 8, 9];
const NO_FD = 0xffff_ffff;

const bitmap = (...data: number[]) => Uint8Array.from(data);
const logging = {
  pageSize: 4096n,
  ranges: [
    { iova: iova(0x1000n), length: 0x2000n },
    { iova: iova(0x8000n), length: 0x4000n },
  ],
};
const rangeFields = [0x1000n, 0x2000n, 0x8000n, 0x4000n] as const;
const report = { iova: iova(0x10_0000n), length: 65n * 4096n, pageSize: 4096n, bitmap: new Uint8Array(16) };
const reportFields = [0x10_0000n, 65n * 4096n, 4096n] as const;

test('the features with a structure in vfio-user are those six, by GET, SET and PROBE', () => {
  for (const flags of [0, GET, SET, PROBE])
    expect(Array.from({ length: 12 }, (_, i) => i).filter((i) => isUserFeature(flags | i))).toEqual([
      1, 2, 6, 7, 8, 9,
    ]);
});

describe('a request is encoded', () => {
  test.each<[string, number, FeatureInput, Uint8Array]>([
    ['as its header for a probe', STATE | SET | PROBE, {}, bytes(8, STATE | SET | PROBE)],
    ['with room for a state', STATE | GET, { deviceState: 3 }, bytes(16, STATE | GET)],
    ['with a state and no descriptor', STATE | SET, { deviceState: 3 }, bytes(16, STATE | SET, 3, NO_FD)],
    ['with room for flags', MIGRATION | GET, {}, bytes(16, MIGRATION | GET)],
    ['with room for a size', DATA_SIZE | GET, {}, bytes(16, DATA_SIZE | GET)],
    ['as its header to stop', STOP | SET, {}, bytes(8, STOP | SET)],
    ['with all ranges to log', START | SET, { logging }, bytes(56, START | SET, 4096n, 2, 0, ...rangeFields)],
    [
      'with a range to report, and room for its bits',
      REPORT | GET,
      { report },
      bytes(8 + 24 + 16, REPORT | GET, ...reportFields),
    ],
  ])('%s', (_how, flags, input, expected) => {
    expect([...encodeFeatureRequest(flags, input)]).toEqual([...expected]);
  });

  test.each([
    [STATE | SET, 'state'],
    [START | SET, 'range'],
    [REPORT | GET, 'range'],
  ])('not without its input (%i)', (flags, what) => {
    expect(() => encodeFeatureRequest(flags, {})).toThrowError(
      new RegExp(`^VFIO_USER_DEVICE_FEATURE on vfio-user peer: EINVAL\n.*no ${what} is given`),
    );
  });
});

describe('a request is decoded', () => {
  test.each<[string, Uint8Array, FeatureInput]>([
    ['of a probe, whatever comes behind', bytes(8, START | SET | PROBE), {}],
    ['of a state that is asked for', bytes(16, STATE | GET, 7, 0), {}],
    ['of a state that is set', bytes(16, STATE | SET, 3, NO_FD), { deviceState: 3 }],
    ['of flags', bytes(16, MIGRATION | GET), {}],
    ['that stops', bytes(8, STOP | SET), {}],
    ['that logs ranges', bytes(56, START | SET, 4096n, 2, 0, ...rangeFields), { logging }],
    ['that logs all', bytes(24, START | SET, 4096n, 0, 0), { logging: { pageSize: 4096n, ranges: [] } }],
    ['of a report', bytes(48, REPORT | GET, ...reportFields), { report }],
    ['of a feature that nobody knows', bytes(8, 77 | GET), {}],
  ])('%s', (_what, payload, input) => {
    const flags = new DataView(payload.buffer).getUint32(4, true);
    expect(decodeFeatureRequest(payload)).toEqual({ flags, input });
  });

  const ranges = (count: number) =>
    bytes(24 + 16 * count, START | SET, 4096n, count, 0, ...new Array<bigint>(2 * count).fill(4096n));
  const mostPages = BigInt(MOST_BITMAP_BYTES) * 8n;
  const huge = (pages: bigint) => bytes(0x7fff_ffff, REPORT | GET, 0n, pages * 4096n, 4096n);

  test('with 256 ranges, or a bitmap of 128 KiB, and no more', () => {
    expect(decodeFeatureRequest(ranges(256)).input.logging?.ranges).toHaveLength(256);
    expect(() => decodeFeatureRequest(ranges(257))).toThrowError(/E2BIG\n.*at most 256 ranges/);
    expect(MOST_BITMAP_BYTES).toBe(128 * 1024);
    expect(decodeFeatureRequest(huge(mostPages)).input.report?.bitmap).toHaveLength(MOST_BITMAP_BYTES);
    expect(() => decodeFeatureRequest(huge(mostPages + 1n))).toThrowError(/E2BIG/);
  });

  test.each<[string, Uint8Array, RegExp]>([
    ['an argsz below its header', bytes(7, STOP | SET), /EINVAL/],
    ['no room for the state', bytes(15, STATE | GET), /EINVAL\n.*argsz 15 is less than 16/],
    ['no room for the flags', bytes(15, MIGRATION | GET), /EINVAL/],
    ['no room for the size', bytes(15, DATA_SIZE | GET), /EINVAL/],
    ['a state that is cut short', bytes(16, STATE | SET), /EINVAL/],
    ['fewer ranges than it says', bytes(56, START | SET, 4096n, 2, 0, 1n, 2n, 3n), /EINVAL/],
    ['pages of no bytes', bytes(64, REPORT | GET, 0n, 4096n, 0n), /EINVAL\n.*page size of 0/],
    ['no room for the last bits', bytes(47, REPORT | GET, ...reportFields), /E2BIG/],
  ])('not with %s', (_what, payload, error) => {
    expect(() => decodeFeatureRequest(payload)).toThrowError(error);
  });
});

describe('a reply', () => {
  const { bitmap: _, ...range } = report;
  const filled = { ...range, bitmap: bitmap(...Array.from({ length: 16 }, (_value, i) => i + 1)) };

  test.each<[string, number, FeatureInput, FeatureOutput, Uint8Array]>([
    [
      'to a probe is its header',
      MIGRATION | GET | PROBE,
      {},
      { migrationFlags: 3 },
      bytes(8, MIGRATION | GET | PROBE),
    ],
    ['has flags', MIGRATION | GET, {}, { migrationFlags: 3 }, bytes(16, MIGRATION | GET, 3n)],
    ['has flags of 0 without output', MIGRATION | GET, {}, {}, bytes(16, MIGRATION | GET, 0n)],
    ['has a state, and no descriptor', STATE | GET, {}, { deviceState: 4 }, bytes(16, STATE | GET, 4, NO_FD)],
    ['has state 0 without output', STATE | GET, {}, {}, bytes(16, STATE | GET, 0, NO_FD)],
    ['has a size', DATA_SIZE | GET, {}, { stopCopyLength: 1n << 40n }, bytes(16, DATA_SIZE | GET, 1n << 40n)],
    ['has a size of 0 without output', DATA_SIZE | GET, {}, {}, bytes(16, DATA_SIZE | GET, 0n)],
    [
      'repeats the page size',
      START | SET,
      { logging },
      {},
      bytes(56, START | SET, 4096n, 2, 0, ...rangeFields),
    ],
    [
      'has the page size of the device',
      START | SET,
      { logging },
      { pageSize: 8192n },
      bytes(56, START | SET, 8192n, 2, 0, ...rangeFields),
    ],
    [
      'has a report and its bits',
      REPORT | GET,
      { report: filled },
      {},
      bytes(48, REPORT | GET, ...reportFields, [...filled.bitmap]),
    ],
    ['to a stop is its header', STOP | SET, {}, {}, bytes(8, STOP | SET)],
  ])('%s', (_what, flags, input, output, expected) => {
    expect([...encodeFeatureReply({ flags, input }, output)]).toEqual([...expected]);
  });

  test.each<[string, number, FeatureInput, Uint8Array, FeatureOutput]>([
    ['to a probe may be empty', MIGRATION | GET | PROBE, {}, bytes(), {}],
    [
      'has flags in the lower half',
      MIGRATION | GET,
      {},
      bytes(16, MIGRATION | GET, 7, 1),
      { migrationFlags: 7 },
    ],
    ['has the state', STATE | GET, { deviceState: 9 }, bytes(16, STATE | GET, 4, 0), { deviceState: 4 }],
    [
      'to a state that is set may be short',
      STATE | SET,
      { deviceState: 3 },
      bytes(8, STATE | SET),
      { deviceState: 3 },
    ],
    ['has the size', DATA_SIZE | GET, {}, bytes(16, DATA_SIZE | GET, 5n), { stopCopyLength: 5n }],
    ['has the page size', START | SET, { logging }, bytes(24, START | SET, 8192n, 0, 0), { pageSize: 8192n }],
    ['without one repeats it', START | SET, { logging }, bytes(16, START | SET, 8192n), { pageSize: 4096n }],
    ['to a stop says nothing', STOP | SET, {}, bytes(8, STOP | SET), {}],
  ])('that %s is decoded', (_what, flags, input, payload, output) => {
    expect(decodeFeatureReply({ flags, input }, payload)).toEqual(output);
  });

  test('adds its bits to those that are set', () => {
    const into = bitmap(1, 0, ...new Array<number>(7).fill(0), 0x80);
    const input = { report: { ...range, bitmap: into } };
    const payload = bytes(
      48,
      REPORT | GET,
      ...reportFields,
      [2, 4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0],
    );
    expect(decodeFeatureReply({ flags: REPORT | GET, input }, payload)).toEqual({});
    expect([...into]).toEqual([3, 4, 0, 0, 0, 0, 0, 0, 0, 0x81]);
    expect(() => decodeFeatureReply({ flags: REPORT | GET, input }, payload.subarray(0, -1))).toThrowError(
      /EINVAL/,
    );
  });

  test.each([
    ['no header', MIGRATION | GET, bytes(8)],
    ['an argsz below it', MIGRATION | GET, bytes(7, MIGRATION | GET, 0n)],
    ['no flags', MIGRATION | GET, bytes(16, MIGRATION | GET, 1)],
    ['no state', STATE | GET, bytes(16, STATE | GET)],
    ['no size', DATA_SIZE | GET, bytes(16, DATA_SIZE | GET, 1)],
  ])('with %s is EINVAL', (_what, flags, payload) => {
    expect(() => decodeFeatureReply({ flags, input: {} }, payload)).toThrowError(/EINVAL/);
  });
});
