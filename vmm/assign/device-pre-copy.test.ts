/** A device that is read while it runs: in process, and through both ends of vfio-user, which cannot tell how much there is. */
import { expect, test } from 'vitest';
import { VgpuDevice } from '../../devices/vgpu/device.js';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { Scope } from '../../sys/scope.js';
import { DeviceLoading, DevicePreCopy, deviceStateBytes, startDevice } from '../../vfio/assign/index.js';
import { deviceFeature } from '../../vfio/core/device-feature.js';
import {
  type FeatureInput,
  VFIO_DEVICE_FEATURE_MASK,
  VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
  VFIO_DEVICE_STATE_PRE_COPY,
  VFIO_DEVICE_STATE_RUNNING,
} from '../../vfio/feature.js';
import type { DeviceFile } from '../../vfio/uapi.js';
import { UserFeatures } from '../../vfio/user/client/feature.js';
import { VFIO_USER_DEVICE_FEATURE, VFIO_USER_MIG_DATA_READ } from '../../vfio/user/protocol.js';
import { ServedFeatures } from '../../vfio/user/server/feature.js';
import { FakeConnection } from '../../vfio/user/testing/fake-connection.js';

const PAGE = 4096;
const BYTES = 128 << 10;

type Kind = 'in process' | 'by vfio-user' | 'by vfio-user, without MIG_DATA_SIZE';
const KINDS: readonly Kind[] = ['in process', 'by vfio-user', 'by vfio-user, without MIG_DATA_SIZE'];

/** A vgpu and the file of its user. */
function open(scope: Scope, kind: Kind) {
  const card = scope.own(new VgpuDevice({ name: 'vgpu', vramBytes: BYTES, xres: 64, yres: 64 }));
  card.openDevice();
  scope.defer(() => card.closeDevice());
  const local = {
    deviceFeature(flags: number, input?: FeatureInput) {
      const isHidden =
        kind.endsWith('SIZE') && (flags & VFIO_DEVICE_FEATURE_MASK) === VFIO_DEVICE_FEATURE_MIG_DATA_SIZE;
      if (isHidden) throw new SysError({ call: 'feature', target: 'vgpu', errno: errno.ENOTTY });
      return deviceFeature(card, flags, input);
    },
  };
  const reset = () => card.reset();
  if (kind === 'in process') return { card, file: { ...local, reset } as unknown as DeviceFile };
  const served = scope.own(new ServedFeatures(local));
  const connection = new FakeConnection(({ command, payload }) => {
    const bytes = Uint8Array.from(payload);
    if (command === VFIO_USER_DEVICE_FEATURE) return served.feature(bytes);
    if (command === VFIO_USER_MIG_DATA_READ) return served.readData(bytes);
    served.writeData(bytes);
    return undefined;
  });
  const features = new UserFeatures(connection.it);
  const file = { deviceFeature: (flags: number, input = {}) => features.feature(flags, input), reset };
  return { card, file: file as unknown as DeviceFile };
}

/** Reads a round to its end into another device. Returns the bytes. */
function readRound(preCopy: DevicePreCopy, into: DeviceLoading): number {
  let bytes = 0;
  for (let piece = preCopy.read(10_000); piece !== undefined; piece = preCopy.read(10_000)) {
    into.write(piece);
    bytes += piece.length;
  }
  return bytes;
}

test.each(KINDS)('a device %s is read in rounds, and its rest is small', (kind) => {
  using scope = new Scope();
  const [from, to] = [open(scope, kind), open(scope, 'in process')];
  from.card.vram.fill(1);
  using preCopy = DevicePreCopy.begin(from.file, 'vgpu');
  using loading = DeviceLoading.begin(to.file, 'vgpu');
  expect(readRound(preCopy, loading)).toBeGreaterThan(BYTES);
  from.card.vram.fill(2, 3 * PAGE, 5 * PAGE);
  const left = preCopy.beginRound();
  expect(left.initialBytes).toBe(0);
  if (!kind.endsWith('SIZE')) {
    expect(left.bytes).toBeGreaterThan(2 * PAGE);
    expect(left.bytes).toBeLessThan(4 * PAGE);
  } else expect(left.bytes).toBeGreaterThan(BYTES); // as much as the round before had
  const again = readRound(preCopy, loading);
  expect([again > 2 * PAGE, again < 4 * PAGE]).toEqual([true, true]);
  expect(preCopy.beginRound().bytes).toBeLessThan(4 * PAGE);
  expect(readRound(preCopy, loading)).toBe(0);
  from.card.vram.fill(3, 30 * PAGE);
  preCopy.quiesce(); // it has no P2P, and stays
  expect(from.card.migration.getState()).toBe(VFIO_DEVICE_STATE_PRE_COPY);
  preCopy.stop();
  const rest = preCopy.rest();
  expect([rest.length > 2 * PAGE, rest.length < 5 * PAGE]).toEqual([true, true]);
  loading.write(rest);
  loading.finish();
  for (const { file, card } of [from, to]) {
    startDevice(file);
    expect(card.migration.getState()).toBe(VFIO_DEVICE_STATE_RUNNING);
  }
  expect(Buffer.compare(from.card.vram, to.card.vram)).toBe(0);
});

test.each(KINDS)('a round of a device %s has an end, however fast its guest writes', (kind) => {
  using scope = new Scope();
  const { card, file } = open(scope, kind);
  card.vram.fill(1);
  using preCopy = DevicePreCopy.begin(file, 'vgpu');
  let reads = 0;
  const most = 300;
  while (preCopy.read(64 << 10) !== undefined && reads < most) card.vram.fill(++reads & 0xff);
  // Without any size, only what a state may have is a limit, which is far.
  if (kind.endsWith('SIZE')) expect(reads).toBe(most);
  else expect(reads).toBeLessThan(10);
  startDevice(file);
});

test.each(KINDS)('a device %s that is reset has no rest: its stop is an error, and it runs', (kind) => {
  using scope = new Scope();
  const { card, file } = open(scope, kind);
  using preCopy = DevicePreCopy.begin(file, 'vgpu');
  card.reset();
  if (kind === 'in process') expect(() => preCopy.read(10)).toThrowError(/ENODEV/);
  expect(() => preCopy.stop()).toThrowError(/PRE_COPY on vgpu: ENODEV\n.*was reset while it was copied/);
  startDevice(file);
  expect(card.migration.getState()).toBe(VFIO_DEVICE_STATE_RUNNING);
  expect(deviceStateBytes(file) === undefined).toBe(kind.endsWith('SIZE'));
});
