import { afterEach, beforeEach, expect, test } from 'vitest';
import { iova } from '../../sys/address.js';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { Fd } from '../../sys/fd.js';
import { Mapping } from '../../sys/mapping.js';
import type { VfioDeviceOps } from '../driver.js';
import {
  type MigrationData,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_MIGRATION,
  VFIO_DEVICE_FEATURE_PROBE,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_DEVICE_STATE_ERROR,
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
import { World } from '../testing/world.js';
import { deviceFeature } from './device-feature.js';
import { migGetNextState, setDeviceState } from './migration.js';

const PAGE = 4096n;

let world: World;
let ram: Mapping;
beforeEach(() => {
  world = new World({ ports: { hasRawio: () => true }, enableUnsafeNoiommuMode: true });
  ram = Mapping.anonymous(0x100000);
});
afterEach(() => {
  ram[Symbol.dispose]();
  world.end();
});

const ALL = VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P | VFIO_MIGRATION_PRE_COPY;
const STATES = [
  VFIO_DEVICE_STATE_STOP,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_STOP_COPY,
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_RUNNING_P2P,
  VFIO_DEVICE_STATE_PRE_COPY,
  VFIO_DEVICE_STATE_PRE_COPY_P2P,
];

/** Arcs that linux/vfio.h says a driver has to have, with everything supported. */
const arcs: readonly (readonly [number, number])[] = [
  [VFIO_DEVICE_STATE_PRE_COPY, VFIO_DEVICE_STATE_PRE_COPY_P2P],
  [VFIO_DEVICE_STATE_PRE_COPY, VFIO_DEVICE_STATE_RUNNING],
  [VFIO_DEVICE_STATE_PRE_COPY_P2P, VFIO_DEVICE_STATE_PRE_COPY],
  [VFIO_DEVICE_STATE_PRE_COPY_P2P, VFIO_DEVICE_STATE_RUNNING_P2P],
  [VFIO_DEVICE_STATE_PRE_COPY_P2P, VFIO_DEVICE_STATE_STOP_COPY],
  [VFIO_DEVICE_STATE_RESUMING, VFIO_DEVICE_STATE_STOP],
  [VFIO_DEVICE_STATE_RUNNING, VFIO_DEVICE_STATE_PRE_COPY],
  [VFIO_DEVICE_STATE_RUNNING, VFIO_DEVICE_STATE_RUNNING_P2P],
  [VFIO_DEVICE_STATE_RUNNING_P2P, VFIO_DEVICE_STATE_PRE_COPY_P2P],
  [VFIO_DEVICE_STATE_RUNNING_P2P, VFIO_DEVICE_STATE_RUNNING],
  [VFIO_DEVICE_STATE_RUNNING_P2P, VFIO_DEVICE_STATE_STOP],
  [VFIO_DEVICE_STATE_STOP, VFIO_DEVICE_STATE_RESUMING],
  [VFIO_DEVICE_STATE_STOP, VFIO_DEVICE_STATE_RUNNING_P2P],
  [VFIO_DEVICE_STATE_STOP, VFIO_DEVICE_STATE_STOP_COPY],
  [VFIO_DEVICE_STATE_STOP_COPY, VFIO_DEVICE_STATE_STOP],
];
const isArc = (from: number, to: number) => arcs.some(([a, b]) => a === from && b === to);

/** States on the way, or undefined if there is none. */
function way(from: number, to: number, support: number): number[] | undefined {
  const states = [from];
  for (let at = from; at !== to; ) {
    try {
      at = migGetNextState(at, to, support);
    } catch {
      return undefined;
    }
    states.push(at);
    if (states.length > 8) throw new Error(`no end: ${states.join(' ')}`);
  }
  return states;
}

test('F9 the migration state machine reaches every state by allowed arcs, skips states that a device lacks, and never returns from STOP_COPY to PRE_COPY', () => {
  for (const from of STATES) {
    for (const to of STATES) {
      const states = way(from, to, ALL);
      const isBlocked = from === VFIO_DEVICE_STATE_STOP_COPY && to >= VFIO_DEVICE_STATE_PRE_COPY;
      expect(states === undefined, `${from} to ${to}`).toBe(isBlocked);
      for (const [i, next] of (states ?? []).slice(1).entries()) {
        expect(isArc((states as number[])[i] as number, next), `${from} to ${to}: ${states}`).toBe(true);
      }
    }
  }
  expect(() => migGetNextState(VFIO_DEVICE_STATE_STOP_COPY, VFIO_DEVICE_STATE_PRE_COPY, ALL)).toThrowError(
    /EINVAL/,
  );
  expect(way(VFIO_DEVICE_STATE_RUNNING, VFIO_DEVICE_STATE_STOP_COPY, VFIO_MIGRATION_STOP_COPY)).toEqual([
    VFIO_DEVICE_STATE_RUNNING,
    VFIO_DEVICE_STATE_STOP,
    VFIO_DEVICE_STATE_STOP_COPY,
  ]);
  for (const bad of [VFIO_DEVICE_STATE_RUNNING_P2P, VFIO_DEVICE_STATE_PRE_COPY, 8, -1]) {
    expect(() => migGetNextState(VFIO_DEVICE_STATE_RUNNING, bad, VFIO_MIGRATION_STOP_COPY)).toThrowError(
      /EINVAL/,
    );
  }
  expect(() => migGetNextState(VFIO_DEVICE_STATE_ERROR, VFIO_DEVICE_STATE_RUNNING, ALL)).toThrowError(
    /EINVAL/,
  );
});

interface Migratable extends VfioDeviceOps {
  readonly arcsDone: [number, number][];
  readonly logged: unknown[];
}

function migratable(flags = ALL): Migratable {
  let state: number = VFIO_DEVICE_STATE_RUNNING;
  const arcsDone: [number, number][] = [];
  const logged: unknown[] = [];
  const base = new RecordingDevice('migratable');
  return Object.assign(base, {
    arcsDone,
    logged,
    migration: {
      flags,
      getState: () => state,
      arc(from: number, to: number) {
        arcsDone.push([from, to]);
        state = to;
        return to === VFIO_DEVICE_STATE_STOP_COPY ? Fd.memfd('state').number : undefined;
      },
      getDataSize: () => 4096n,
    },
    dmaLogging: {
      start(ranges: unknown, pageSize: bigint) {
        logged.push(ranges);
        return pageSize * 2n;
      },
      stop: () => logged.push('stop'),
      readAndClear: (_range: unknown, _page: bigint, bitmap: Uint8Array) => bitmap.fill(1),
    },
  });
}

test('F10 DEVICE_FEATURE: unknown flags, GET with SET and neither are EINVAL, PROBE does nothing, an unsupported feature is ENOTTY', () => {
  const ops = migratable();
  const get = VFIO_DEVICE_FEATURE_GET;
  const set = VFIO_DEVICE_FEATURE_SET;
  expect(() => deviceFeature(ops, (1 << 20) | get | VFIO_DEVICE_FEATURE_MIGRATION)).toThrowError(/EINVAL/);
  expect(() => deviceFeature(ops, get | set | VFIO_DEVICE_FEATURE_MIGRATION)).toThrowError(/EINVAL/);
  expect(() => deviceFeature(ops, VFIO_DEVICE_FEATURE_MIGRATION)).toThrowError(/EINVAL/);
  expect(() => deviceFeature(ops, set | VFIO_DEVICE_FEATURE_MIGRATION)).toThrowError(/EINVAL/);
  expect(() => deviceFeature(ops, get | 99)).toThrowError(/ENOTTY/);
  expect(() => deviceFeature(new RecordingDevice('plain'), get | VFIO_DEVICE_FEATURE_MIGRATION)).toThrowError(
    /ENOTTY/,
  );
  expect(deviceFeature(ops, get | VFIO_DEVICE_FEATURE_MIGRATION)).toEqual({ migrationFlags: ALL });
  expect(deviceFeature(ops, get | VFIO_DEVICE_FEATURE_MIG_DATA_SIZE)).toEqual({ stopCopyLength: 4096n });
  const state = VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE;
  expect(deviceFeature(ops, VFIO_DEVICE_FEATURE_PROBE | get | set | state)).toEqual({});
  expect(ops.arcsDone).toEqual([]);
  const { data, deviceState } = deviceFeature(ops, set | state, { deviceState: VFIO_DEVICE_STATE_STOP_COPY });
  expect(deviceState).toBe(VFIO_DEVICE_STATE_STOP_COPY);
  expect(data?.read(new Uint8Array(8))).toBe(0);
  data?.[Symbol.dispose]();
  expect(() => data?.read(new Uint8Array(8))).toThrowError(/EBADF/);
  expect(ops.arcsDone).toEqual([
    [VFIO_DEVICE_STATE_RUNNING, VFIO_DEVICE_STATE_RUNNING_P2P],
    [VFIO_DEVICE_STATE_RUNNING_P2P, VFIO_DEVICE_STATE_STOP],
    [VFIO_DEVICE_STATE_STOP, VFIO_DEVICE_STATE_STOP_COPY],
  ]);
  expect(deviceFeature(ops, get | state)).toEqual({ deviceState: VFIO_DEVICE_STATE_STOP_COPY });
});

test('the stream of an arc is closed when another arc opens one, or fails', () => {
  let state: number = VFIO_DEVICE_STATE_RUNNING;
  let refused: number | undefined = VFIO_DEVICE_STATE_STOP_COPY;
  const opened: string[] = [];
  const migration = {
    flags: VFIO_MIGRATION_STOP_COPY,
    getDataSize: () => 0n,
    getState: () => state,
    arc(from: number, to: number) {
      if (to === refused) throw new RangeError(`from ${from} to ${to}`);
      state = to;
      opened.push(`to ${to}`);
      return Fd.memfd('state').number;
    },
  };
  const device = Object.assign(new RecordingDevice('streams'), { migration });
  // Whatever is not closed here fails the test: no test may leave a descriptor open.
  expect(() => setDeviceState(device, VFIO_DEVICE_STATE_STOP_COPY)).toThrowError('from 1 to 3');
  expect(opened).toEqual(['to 1']);
  state = VFIO_DEVICE_STATE_RUNNING;
  refused = undefined;
  setDeviceState(device, VFIO_DEVICE_STATE_STOP_COPY)?.[Symbol.dispose]();
  expect(opened).toEqual(['to 1', 'to 1', 'to 3']);
});

test('an object of the driver is the stream: it is disposed once, of no use then, and asked for its pre-copy info in PRE_COPY only', () => {
  const [R, Y, C] = [VFIO_DEVICE_STATE_RUNNING, VFIO_DEVICE_STATE_PRE_COPY, VFIO_DEVICE_STATE_STOP_COPY];
  let state: number = R;
  const told: string[] = [];
  const stream: MigrationData = {
    read: (data) => {
      if (state === Y) throw new SysError({ call: 'read', target: 'it', errno: errno.ENOMSG });
      data[0] = 7;
      return 1;
    },
    write: () => void told.push('write'),
    precopyInfo: () => {
      told.push(`info in ${state}`);
      return { initialBytes: 5n, dirtyBytes: 6n };
    },
    [Symbol.dispose]: () => void told.push('disposed'),
  };
  const device = Object.assign(new RecordingDevice('objects'), {
    migration: {
      flags: VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_PRE_COPY,
      getDataSize: () => 0n,
      getState: () => state,
      arc(_from: number, to: number) {
        state = to;
        return to === Y ? stream : undefined;
      },
    },
  });
  const data = setDeviceState(device, Y) as MigrationData;
  expect(data.precopyInfo()).toEqual({ initialBytes: 5n, dirtyBytes: 6n });
  expect(() => data.read(new Uint8Array(1))).toThrowError(/ENOMSG/);
  expect(setDeviceState(device, C)).toBeUndefined(); // the stream goes on
  expect(() => data.precopyInfo()).toThrowError(
    /VFIO_MIG_GET_PRECOPY_INFO on migration data of objects: EINVAL/,
  );
  expect(data.read(new Uint8Array(1))).toBe(1);
  data.write(new Uint8Array(1));
  data[Symbol.dispose]();
  data[Symbol.dispose]();
  expect(told).toEqual([`info in ${Y}`, 'write', 'disposed']);
  for (const use of [
    () => data.read(new Uint8Array(1)),
    () => data.write(new Uint8Array(1)),
    () => data.precopyInfo(),
  ])
    expect(use).toThrowError(/migration data of objects: EBADF/);
});

test('a file cannot tell its pre-copy info: ENOTTY in PRE_COPY', () => {
  let state: number = VFIO_DEVICE_STATE_RUNNING;
  const device = Object.assign(new RecordingDevice('files'), {
    migration: {
      flags: VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_PRE_COPY,
      getDataSize: () => 0n,
      getState: () => state,
      arc(_from: number, to: number) {
        state = to;
        return Fd.memfd('state').number;
      },
    },
  });
  using data = setDeviceState(device, VFIO_DEVICE_STATE_PRE_COPY);
  expect(() => data?.precopyInfo()).toThrowError(/ENOTTY\n.*object of the driver/);
});

test('F11 dirty logging: no ranges EINVAL, more than a page of them E2BIG, misaligned or overlapping EINVAL, wrapping EOVERFLOW', () => {
  const ops = migratable();
  const start = VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_START;
  const log = (...ranges: (readonly [bigint, bigint])[]) =>
    deviceFeature(ops, start, {
      logging: { pageSize: PAGE, ranges: ranges.map(([at, length]) => ({ iova: iova(at), length })) },
    });
  expect(() => log()).toThrowError(/EINVAL/);
  expect(() => log(...Array.from({ length: 257 }, (_, i) => [BigInt(i) * PAGE, PAGE] as const))).toThrowError(
    /E2BIG/,
  );
  expect(() => log([1n, PAGE])).toThrowError(/EINVAL/);
  expect(() => log([0n, PAGE + 1n])).toThrowError(/EINVAL/);
  expect(() => log([0n, 2n * PAGE], [PAGE, PAGE])).toThrowError(/EINVAL/);
  expect(() => log([(1n << 64n) - PAGE, PAGE])).toThrowError(/EOVERFLOW/);
  expect(ops.logged).toEqual([]);
  expect(log([0n, PAGE], [PAGE, PAGE])).toEqual({ pageSize: 2n * PAGE });
  const bitmap = new Uint8Array(1);
  const report = { iova: iova(0n), length: PAGE, bitmap };
  const ask = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT;
  for (const pageSize of [2048n, 5000n]) {
    expect(() => deviceFeature(ops, ask, { report: { ...report, pageSize } })).toThrowError(/EINVAL/);
  }
  const long = { ...report, length: 9n * PAGE, pageSize: PAGE };
  expect(() => deviceFeature(ops, ask, { report: long })).toThrowError(/EINVAL\n.*bitmap is too short/);
  expect(bitmap[0]).toBe(0);
  deviceFeature(ops, ask, { report: { ...report, pageSize: PAGE } });
  expect(bitmap[0]).toBe(1);
  deviceFeature(ops, VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP);
  expect(ops.logged.at(-1)).toBe('stop');
});
