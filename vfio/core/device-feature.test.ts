import { expect, test } from 'vitest';
import { iova } from '../../sys/address.js';
import { Fd } from '../../sys/fd.js';
import type { DmaLoggingOps, MigrationOps } from '../driver.js';
import {
  type FeatureInput,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_MIGRATION,
  VFIO_DEVICE_FEATURE_PCI_VF_TOKEN,
  VFIO_DEVICE_FEATURE_PROBE,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_DEVICE_STATE_PRE_COPY,
  VFIO_DEVICE_STATE_PRE_COPY_P2P,
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_RUNNING_P2P,
  VFIO_DEVICE_STATE_STOP,
  VFIO_DEVICE_STATE_STOP_COPY,
  VFIO_MIGRATION_P2P,
  VFIO_MIGRATION_PRE_COPY,
  VFIO_MIGRATION_STOP_COPY,
} from '../feature.js';
import { RecordingDevice } from '../testing/recording-device.js';
import { deviceFeature } from './device-feature.js';
import { migGetNextState, setDeviceState } from './migration.js';
import { VfToken } from './vf-token.js';

const [GET, SET, PROBE] = [VFIO_DEVICE_FEATURE_GET, VFIO_DEVICE_FEATURE_SET, VFIO_DEVICE_FEATURE_PROBE];
const PAGE = 4096n;
const END = 1n << 64n;

const migration: MigrationOps = {
  flags: VFIO_MIGRATION_STOP_COPY,
  getState: () => VFIO_DEVICE_STATE_RUNNING,
  arc: () => undefined,
  getDataSize: () => 77n,
};

/** A log that records its calls, and answers with half of the page size. */
class Log implements DmaLoggingOps {
  readonly calls: unknown[] = [];

  start(ranges: readonly object[], pageSize: bigint): bigint {
    this.calls.push(['start', ranges, pageSize]);
    return pageSize / 2n;
  }

  stop(): void {
    this.calls.push(['stop']);
  }

  readAndClear(range: object, pageSize: bigint, bitmap: Uint8Array): void {
    this.calls.push(['report', range, pageSize]);
    bitmap[0] = 0xaa;
  }
}

const withOps = (ops: object) => Object.assign(new RecordingDevice('device'), ops);
const code = (body: () => unknown): string => {
  try {
    body();
    return 'ok';
  } catch (error) {
    return /: (E\w+)/.exec(String(error))?.[1] ?? String(error);
  }
};

const features = [
  { number: VFIO_DEVICE_FEATURE_MIGRATION, of: 'migration', get: 'ok', set: 'EINVAL' },
  { number: VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, of: 'migration', get: 'ok', set: 'ok' },
  { number: VFIO_DEVICE_FEATURE_MIG_DATA_SIZE, of: 'migration', get: 'ok', set: 'EINVAL' },
  { number: VFIO_DEVICE_FEATURE_DMA_LOGGING_START, of: 'log', get: 'EINVAL', set: 'ok' },
  { number: VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP, of: 'log', get: 'EINVAL', set: 'ok' },
  { number: VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, of: 'log', get: 'ok', set: 'EINVAL' },
  { number: VFIO_DEVICE_FEATURE_PCI_VF_TOKEN, of: 'token', get: 'EINVAL', set: 'ok' },
];

test.each(features)('feature $number is of a device with a $of: GET $get, SET $set', (row) => {
  const { number, of, get, set } = row;
  const dmaLogging = new Log();
  const kinds = [
    { kind: 'migration', ops: { migration }, token: undefined },
    { kind: 'log', ops: { dmaLogging }, token: undefined },
    { kind: 'token', ops: {}, token: new VfToken() },
  ];
  for (const { kind, ops, token } of kinds) {
    const answer = (flags: number): string =>
      code(() => expect(deviceFeature(withOps(ops), flags | number, {}, token)).toEqual({}));
    const expected = kind === of ? ['ok', get, set] : ['ENOTTY', 'ENOTTY', 'ENOTTY'];
    expect([PROBE, PROBE | GET, PROBE | SET].map(answer), kind).toEqual(expected);
    expect(
      code(() => deviceFeature(withOps(ops), number, {}, token)),
      kind,
    ).toBe(kind === of ? 'EINVAL' : 'ENOTTY');
  }
  expect(dmaLogging.calls).toEqual([]);
});

test('what a driver says of its migration is what GET returns', () => {
  const device = withOps({ migration });
  const get = (feature: number) => deviceFeature(device, GET | feature);
  expect(get(VFIO_DEVICE_FEATURE_MIGRATION)).toEqual({ migrationFlags: VFIO_MIGRATION_STOP_COPY });
  expect(get(VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE)).toEqual({ deviceState: VFIO_DEVICE_STATE_RUNNING });
  expect(get(VFIO_DEVICE_FEATURE_MIG_DATA_SIZE)).toEqual({ stopCopyLength: 77n });
});

test('SET of a state without one is EINVAL; of the present one it performs no arc and opens no stream', () => {
  const device = withOps({ migration });
  const set = SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE;
  expect(() => deviceFeature(device, set)).toThrow(
    /^VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE on device: EINVAL\n.*no state is given/,
  );
  const output = deviceFeature(device, set, { deviceState: VFIO_DEVICE_STATE_RUNNING });
  expect(Object.entries(output)).toEqual([['deviceState', VFIO_DEVICE_STATE_RUNNING]]);
  expect(() => setDeviceState(withOps({}), VFIO_DEVICE_STATE_STOP)).toThrow(/ENOTTY/);
});

const start = (log: Log, pageSize: bigint, ...ranges: (readonly [bigint, bigint])[]) =>
  deviceFeature(withOps({ dmaLogging: log }), SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_START, {
    logging: { pageSize, ranges: ranges.map(([at, length]) => ({ iova: iova(at), length })) },
  });

test.each([
  { what: 'no page size', pageSize: 0n, ranges: [[0n, PAGE]], is: 'EINVAL' },
  { what: 'a negative page size', pageSize: -1n, ranges: [[0n, PAGE]], is: 'EINVAL' },
  { what: 'an empty range', pageSize: PAGE, ranges: [[0n, 0n]], is: 'EINVAL' },
  { what: 'an IOVA within a page', pageSize: 2n * PAGE, ranges: [[PAGE, 2n * PAGE]], is: 'EINVAL' },
  { what: 'a part of a page', pageSize: 2n * PAGE, ranges: [[0n, PAGE]], is: 'EINVAL' },
  { what: 'an end at 2^64', pageSize: PAGE, ranges: [[END - PAGE, PAGE]], is: 'EOVERFLOW' },
  { what: 'an end at 2^64-1', pageSize: 1n, ranges: [[END - 3n, 2n]], is: 'ok' },
  {
    what: 'an overlap, highest first',
    pageSize: 1n,
    ranges: [
      [9n, 5n],
      [5n, 5n],
    ],
    is: 'EINVAL',
  },
  {
    what: 'an overlap of the last two of three',
    pageSize: 1n,
    ranges: [
      [30n, 2n],
      [0n, 2n],
      [31n, 2n],
    ],
    is: 'EINVAL',
  },
  {
    what: 'neighbours, highest first',
    pageSize: 1n,
    ranges: [
      [10n, 5n],
      [5n, 5n],
      [0n, 5n],
    ],
    is: 'ok',
  },
] as const)('a log of $what is $is', ({ pageSize, ranges, is }) => {
  const log = new Log();
  expect(code(() => start(log, pageSize, ...ranges))).toBe(is);
  const asGiven = ranges.map(([at, length]) => ({ iova: at, length }));
  expect(log.calls).toEqual(is === 'ok' ? [['start', asGiven, pageSize]] : []);
});

test('a log takes 256 ranges, and one more is E2BIG; what it tracks by is the driver’s choice', () => {
  const log = new Log();
  const ranges = Array.from({ length: 257 }, (_, i) => [BigInt(i) * PAGE, PAGE] as const);
  expect(code(() => start(log, PAGE, ...ranges))).toBe('E2BIG');
  expect(start(log, PAGE, ...ranges.slice(1))).toEqual({ pageSize: PAGE / 2n });
  const none = SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_START;
  expect(() => deviceFeature(withOps({ dmaLogging: log }), none)).toThrow(/EINVAL\n.*no ranges/);
});

test('a report names its range, up to 2^64-1, and stop is passed on', () => {
  const log = new Log();
  const device = withOps({ dmaLogging: log });
  const ask = (report?: FeatureInput['report']) =>
    deviceFeature(
      device,
      GET | VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
      report === undefined ? {} : { report },
    );
  const bitmap = new Uint8Array(8);
  expect(() => ask()).toThrow(/EINVAL\n.*no range is given/);
  const high = { iova: iova(END - PAGE), pageSize: PAGE, bitmap };
  expect(() => ask({ ...high, length: PAGE })).toThrow(/EOVERFLOW/);
  expect(log.calls).toEqual([]);
  expect(ask({ ...high, length: PAGE - 1n })).toEqual({});
  expect(bitmap[0]).toBe(0xaa);
  expect(deviceFeature(device, SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP)).toEqual({});
  expect(log.calls).toEqual([['report', { iova: END - PAGE, length: PAGE - 1n }, PAGE], ['stop']]);
});

test('the token of a physical function is the UUID that was set last', () => {
  const token = new VfToken();
  const uuid = '83b8f4f2-509f-382f-3c1e-e6bfe0fa1001';
  const set = (vfToken: string) =>
    deviceFeature(withOps({}), SET | VFIO_DEVICE_FEATURE_PCI_VF_TOKEN, { vfToken }, token);
  expect(token.uuid).not.toBe(new VfToken().uuid);
  expect(set(uuid)).toEqual({});
  expect(() => set('no uuid')).toThrow(/^VFIO_DEVICE_FEATURE_PCI_VF_TOKEN on device: EINVAL/);
  expect(token.uuid).toBe(uuid);
});

const NEEDS = new Map([
  [VFIO_DEVICE_STATE_STOP, VFIO_MIGRATION_STOP_COPY],
  [VFIO_DEVICE_STATE_RUNNING, VFIO_MIGRATION_STOP_COPY],
  [VFIO_DEVICE_STATE_STOP_COPY, VFIO_MIGRATION_STOP_COPY],
  [VFIO_DEVICE_STATE_RESUMING, VFIO_MIGRATION_STOP_COPY],
  [VFIO_DEVICE_STATE_RUNNING_P2P, VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P],
  [VFIO_DEVICE_STATE_PRE_COPY, VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_PRE_COPY],
  [VFIO_DEVICE_STATE_PRE_COPY_P2P, VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P | VFIO_MIGRATION_PRE_COPY],
]);

test('with any support, no path begins, ends or leads through a state that the device lacks', () => {
  for (let support = 0; support < 8; support++) {
    const has = (state: number): boolean => {
      const needs = NEEDS.get(state) as number;
      return (needs & support) === needs;
    };
    for (const from of NEEDS.keys()) {
      for (const to of NEEDS.keys()) {
        const what = `${from} to ${to} with ${support}`;
        const isBlocked = from === VFIO_DEVICE_STATE_STOP_COPY && to >= VFIO_DEVICE_STATE_PRE_COPY;
        if (!has(from) || !has(to) || isBlocked) {
          expect(() => migGetNextState(from, to, support, 'nic'), what).toThrow(/on nic: EINVAL/);
          continue;
        }
        let at = from;
        for (let steps = 0; at !== to; steps++) {
          at = migGetNextState(at, to, support);
          expect([has(at), steps < 7], what).toEqual([true, true]);
        }
      }
    }
  }
});

test('the stream of RESUMING takes what the driver allows, other streams have no such limit', () => {
  let state: number = VFIO_DEVICE_STATE_STOP;
  const device = withOps({
    migration: {
      ...migration,
      mostResumeBytes: 4,
      getState: () => state,
      arc: (_from: number, to: number) => {
        state = to;
        return to === VFIO_DEVICE_STATE_STOP ? undefined : Fd.memfd('state').number;
      },
    },
  });
  {
    using stream = setDeviceState(device, VFIO_DEVICE_STATE_RESUMING);
    stream?.write(new Uint8Array(4));
    expect(() => stream?.write(new Uint8Array(1))).toThrow(/ENOMEM/);
  }
  expect(setDeviceState(device, VFIO_DEVICE_STATE_STOP)).toBeUndefined();
  using stream = setDeviceState(device, VFIO_DEVICE_STATE_STOP_COPY);
  expect(() => stream?.write(new Uint8Array(5))).not.toThrow();
});
