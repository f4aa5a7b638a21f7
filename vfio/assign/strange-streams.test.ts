/** Devices whose state never ends, or comes late, or byte by byte: what they make their user wait for, and keep. */
import { expect, test } from 'vitest';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import {
  type FeatureInput,
  type FeatureOutput,
  type MigrationData,
  type PrecopyInfo,
  VFIO_DEVICE_FEATURE_MASK,
  VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_STATE_RUNNING,
} from '../feature.js';
import type { DeviceFile } from '../uapi.js';
import { DevicePreCopy } from './device-pre-copy.js';
import { readToEnd } from './device-state.js';

const MIB = 1 << 20;
const refused = (code: keyof typeof errno) => new SysError({ call: 'ask', target: 'it', errno: errno[code] });

/** What a device tells of itself, and how many bytes each read of it has. */
interface Told {
  readonly info?: PrecopyInfo | SysError;
  readonly size?: bigint;
  readonly read?: (data: Uint8Array) => number;
}

/** A device that is always in PRE_COPY or RUNNING. */
function strange({ info, size, read = (data) => data.length }: Told) {
  const is = { state: VFIO_DEVICE_STATE_RUNNING, open: 0 };
  const stream = (): MigrationData => {
    is.open++;
    return {
      read,
      write() {},
      precopyInfo() {
        if (info === undefined || info instanceof SysError) throw info ?? refused('ENOTTY');
        return info;
      },
      [Symbol.dispose]: () => void is.open--,
    };
  };
  const deviceFeature = (flags: number, input: FeatureInput = {}): FeatureOutput => {
    const feature = flags & VFIO_DEVICE_FEATURE_MASK;
    if (feature === VFIO_DEVICE_FEATURE_MIG_DATA_SIZE && size !== undefined) return { stopCopyLength: size };
    if (feature !== VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE) throw refused('ENOTTY');
    is.state = input.deviceState ?? is.state;
    return { deviceState: is.state, ...(is.state !== VFIO_DEVICE_STATE_RUNNING && { data: stream() }) };
  };
  return { is, stream, file: { deviceFeature } as unknown as DeviceFile };
}

const endless = 2n ** 63n;
test.each<[string, Told]>([
  ['tells nothing', {}],
  ['tells that its state has 2^63 bytes', { size: endless }],
  ['tells that 2^63 bytes have changed', { info: { initialBytes: 0n, dirtyBytes: endless }, size: 1n }],
])('a round of an endless device that %s has 256 MiB, and another one follows', (_what, told) => {
  using preCopy = DevicePreCopy.begin(strange(told).file, 'it');
  for (const round of [1, 2]) {
    let pieces = 0;
    while (preCopy.read(16 * MIB) !== undefined && pieces < 20) pieces++;
    expect(pieces, `round ${round}`).toBe(16);
    const { bytes } = preCopy.beginRound();
    expect(bytes).toBe(told.size === undefined ? 256 * MIB : Math.max(256 * MIB, Number(endless)));
  }
});

test('a short piece has no more memory behind it than its own', () => {
  using preCopy = DevicePreCopy.begin(strange({ read: () => 5 }).file, 'it');
  expect(preCopy.read(MIB)?.buffer.byteLength).toBe(5);
});

test('a device whose info fails is left running, and its stream is closed', () => {
  const { file, is } = strange({ info: refused('EIO') });
  expect(() => DevicePreCopy.begin(file, 'it')).toThrowError(/EIO/);
  expect(is).toEqual({ state: VFIO_DEVICE_STATE_RUNNING, open: 0 });
});

test('a state of a million reads of a byte is kept in a block, and one that is late is ETIMEDOUT', () => {
  let left = 1_000_000;
  const bytes = strange({ read: () => Math.min(1, Math.max(0, left--)) });
  const state = readToEnd(bytes.stream(), 'it');
  expect([state.length, state.buffer.byteLength <= 2_000_000]).toEqual([1_000_000, true]);
  let clock = 0;
  const late = strange({
    read() {
      clock += 4000;
      return 1;
    },
  });
  expect(() => readToEnd(late.stream(), 'it', undefined, () => clock)).toThrowError(
    /save on it: ETIMEDOUT\n.*it has given 16 bytes of its state in 60 s/,
  );
});
