import { afterAll, beforeAll, expect, test } from 'vitest';
import { CoreCards } from '../../devices/testcard/testing/core-cards.js';
import { Scope } from '../../sys/scope.js';
import {
  deviceStateBytes,
  loadDeviceState,
  migrationFlags,
  saveDeviceState,
  startDevice,
} from '../../vfio/assign/index.js';
import {
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_STOP,
  VFIO_MIGRATION_STOP_COPY,
} from '../../vfio/feature.js';
import { World } from '../../vfio/testing/world.js';
import { type DeviceFile, VFIO_TYPE1v2_IOMMU } from '../../vfio/uapi.js';
import { userProvider } from '../../vfio/user/client/provider.js';
import { REGISTERS } from '../../vfio/user/testing/card.js';
import { noEvents, type Peer, startPeer } from '../../vfio/user/testing/peer.js';

const stateOf = (file: DeviceFile) =>
  file.deviceFeature(VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | VFIO_DEVICE_FEATURE_GET).deviceState;

let peers: readonly [Peer, Peer];
beforeAll(async () => {
  peers = [await startPeer(), await startPeer()];
});
afterAll(async () => {
  for (const peer of peers) await peer[Symbol.asyncDispose]();
});

test("a card's state goes to another card, both stopped, and goes on there", () => {
  using cards = new CoreCards();
  const [from, to] = [cards.open({ reset: 'flr' }), cards.open({ reset: 'flr' })];
  from.scratch = 7;
  expect(migrationFlags(from.file)).toBe(VFIO_MIGRATION_STOP_COPY);
  const state = saveDeviceState(from.file, 'a card');
  expect(BigInt(state.length)).toBe(deviceStateBytes(from.file));
  expect(stateOf(from.file)).toBe(VFIO_DEVICE_STATE_STOP);
  loadDeviceState(to.file, 'a card', state);
  expect([stateOf(to.file), to.scratch]).toEqual([VFIO_DEVICE_STATE_STOP, 7]);
  for (const { file } of [from, to]) startDevice(file);
  expect(stateOf(to.file)).toBe(VFIO_DEVICE_STATE_RUNNING);
});

test('the same by vfio-user, from one server to another', () => {
  using scope = new Scope();
  const [from, to] = peers.map(({ path }) => {
    const provider = userProvider(noEvents);
    const device = scope.own(provider.resolve(`vfio-user:${path}`, {}));
    const container = scope.own(provider.groups.openContainer());
    const group = scope.own(provider.groups.openGroup(device.group));
    group.setContainer(container);
    container.setIommu(VFIO_TYPE1v2_IOMMU);
    return scope.own(group.getDeviceFd(device.name));
  }) as [DeviceFile, DeviceFile];
  const { offset } = from.getRegionInfo(REGISTERS);
  from.write(offset + 40, Uint8Array.of(7, 8, 9));
  loadDeviceState(to, 'a card', saveDeviceState(from, 'a card'));
  const registers = new Uint8Array(3);
  to.read(offset + 40, registers);
  expect([...registers]).toEqual([7, 8, 9]);
});

test('a state that is too long is EFBIG, and the device runs on', () => {
  using cards = new CoreCards();
  const { file } = cards.open({ reset: 'flr' });
  expect(() => saveDeviceState(file, 'a card', 1000)).toThrowError(
    /save on a card: EFBIG\n.*its state has more than 1000 bytes/,
  );
  expect(stateOf(file)).toBe(VFIO_DEVICE_STATE_RUNNING);
});

test('a state of something else is EINVAL, and the device is reset and runs', () => {
  using cards = new CoreCards();
  const card = cards.open({ reset: 'flr' });
  card.scratch = 7;
  for (const state of [
    new Uint8Array(0),
    new Uint8Array(100),
    saveDeviceState(card.file, 'a card').fill(0),
  ]) {
    startDevice(card.file);
    expect(() => loadDeviceState(card.file, 'a card', state)).toThrowError(/EINVAL/);
    expect([stateOf(card.file), card.scratch]).toEqual([VFIO_DEVICE_STATE_RUNNING, 0]);
  }
});

test('a device without migration is ENOTSUP for both, and is left alone', () => {
  const world = new World();
  {
    using scope = new Scope();
    const made = world.device({ name: '0000:01:00.0' });
    scope.defer(() => world.remove(made));
    const group = world.contain(made);
    scope.defer(() => group.close());
    const file = scope.own(group.group.getDeviceFd('0000:01:00.0'));
    expect([migrationFlags(file), deviceStateBytes(file)]).toEqual([0, undefined]);
    expect(() => saveDeviceState(file, 'a card')).toThrowError(/save on a card: ENOTSUP/);
    expect(() => loadDeviceState(file, 'a card', new Uint8Array(8))).toThrowError(/load on a card: ENOTSUP/);
  }
  world.end();
});
