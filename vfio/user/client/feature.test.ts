import { afterAll, beforeAll, expect, test } from 'vitest';
import { iova } from '../../../sys/address.js';
import { Scope } from '../../../sys/scope.js';
import {
  VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_MIGRATION,
  VFIO_DEVICE_FEATURE_PCI_VF_TOKEN,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_DEVICE_STATE_PRE_COPY,
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_STOP,
  VFIO_DEVICE_STATE_STOP_COPY,
} from '../../feature.js';
import { type DeviceFile, VFIO_PCI_CONFIG_REGION_INDEX, VFIO_TYPE1v2_IOMMU } from '../../uapi.js';
import { REGISTER_BYTES, REGISTERS } from '../testing/card.js';
import { noEvents, type Peer, startPeer } from '../testing/peer.js';
import * as gpio from '../testing/peers/libvfio-user.js';
import * as rust from '../testing/peers/rust-vmm.js';
import type { Line } from '../testing/peers/session.js';
import { playServer } from '../testing/scripted-server.js';
import { userProvider } from './provider.js';

const [GET, SET] = [VFIO_DEVICE_FEATURE_GET, VFIO_DEVICE_FEATURE_SET];

function open(scope: Scope, address: string): DeviceFile {
  const provider = userProvider(noEvents);
  const found = scope.own(provider.resolve(address, {}));
  const container = scope.own(provider.groups.openContainer());
  const group = scope.own(provider.groups.openGroup(found.group));
  group.setContainer(container);
  container.setIommu(VFIO_TYPE1v2_IOMMU);
  return scope.own(group.getDeviceFd(found.name));
}

const setState = (device: DeviceFile, deviceState: number) =>
  device.deviceFeature(SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, { deviceState }).data;

/** Uses a device of a server that plays the session after its device has been opened. */
const play = (session: readonly Line[], use: (device: DeviceFile) => void): Promise<void> =>
  playServer(session, {}, (address) => {
    using scope = new Scope();
    const device = open(scope, address);
    device.getRegionInfo(VFIO_PCI_CONFIG_REGION_INDEX); // with which each session’s opening ends
    use(device);
  });

let peers: readonly [Peer, Peer];
beforeAll(async () => {
  peers = [await startPeer(), await startPeer()];
});
afterAll(async () => {
  for (const peer of peers) await peer[Symbol.asyncDispose]();
});

test('the state of one server’s device goes to another server’s device', () => {
  using scope = new Scope();
  const [from, to] = peers.map(({ path }) => open(scope, `vfio-user:${path}`)) as [DeviceFile, DeviceFile];
  const { offset } = from.getRegionInfo(REGISTERS);
  from.write(offset + 40, Uint8Array.of(7, 8, 9));
  expect(from.deviceFeature(GET | VFIO_DEVICE_FEATURE_MIG_DATA_SIZE)).toEqual({
    stopCopyLength: BigInt(REGISTER_BYTES),
  });
  const out = setState(from, VFIO_DEVICE_STATE_STOP_COPY);
  const state = new Uint8Array(REGISTER_BYTES + 100);
  expect(out?.read(state)).toBe(REGISTER_BYTES);
  expect(out?.read(state.subarray(REGISTER_BYTES))).toBe(0);
  const into = setState(to, VFIO_DEVICE_STATE_RESUMING);
  into?.write(state.subarray(0, 1000));
  into?.write(state.subarray(1000, REGISTER_BYTES));
  setState(to, VFIO_DEVICE_STATE_RUNNING);
  const registers = new Uint8Array(5);
  to.read(offset + 39, registers);
  expect([...registers]).toEqual([0, 7, 8, 9, 0]);
  expect(() => into?.write(state)).toThrowError(
    /^VFIO_USER_MIG_DATA_WRITE on migration data of .*: ENODEV\n.*has left the state/,
  );
  out?.[Symbol.dispose]();
  expect(() => out?.read(state)).toThrowError(/EBADF/);
  // The server is a thread of this process: it closes its end of the stream now, not when it hears of our end.
  setState(from, VFIO_DEVICE_STATE_STOP);
});

test('a report of more pages than a message has room for comes in pieces, as one bitmap', () => {
  using scope = new Scope();
  const device = open(scope, `vfio-user:${peers[0].path}`);
  const range = { iova: iova(0n), length: 9n << 30n };
  device.deviceFeature(SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_START, {
    logging: { pageSize: 4096n, ranges: [range] },
  });
  const bitmap = new Uint8Array(Number(range.length / 4096n / 8n));
  bitmap[0] = 0x02;
  device.deviceFeature(GET | VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, {
    report: { ...range, pageSize: 4096n, bitmap },
  });
  expect(bitmap[0]).toBe(0x57);
  expect(bitmap.subarray(1).every((byte) => byte === 0x55)).toBe(true);
});

test('a feature that vfio-user has no structure for is ENOTTY, and a missing input EINVAL', () => {
  using scope = new Scope();
  const device = open(scope, `vfio-user:${peers[0].path}`);
  expect(() => device.deviceFeature(SET | VFIO_DEVICE_FEATURE_PCI_VF_TOKEN)).toThrowError(/ENOTTY/);
  expect(() => device.deviceFeature(SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE)).toThrowError(
    /EINVAL\n.*no state/,
  );
  for (const action of [
    SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
    GET | VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
  ])
    expect(() => device.deviceFeature(action)).toThrowError(/EINVAL\n.*no range/);
});

test('a reset ends the stream of the state that the device was in', () => {
  using scope = new Scope();
  const device = open(scope, `vfio-user:${peers[0].path}`);
  const out = setState(device, VFIO_DEVICE_STATE_STOP_COPY);
  device.reset();
  expect(() => out?.read(new Uint8Array(1))).toThrowError(/ENODEV/);
});

test('libvfio-user: what it refuses to be probed for it does not have, and its EINVAL stays one for what it has', async () => {
  await play([...gpio.attach, ...gpio.migration], (device) => {
    expect(device.deviceFeature(GET | VFIO_DEVICE_FEATURE_MIGRATION)).toEqual({ migrationFlags: 5 });
    expect(() => device.deviceFeature(GET | VFIO_DEVICE_FEATURE_MIG_DATA_SIZE)).toThrowError(/ENOTTY/);
  });
  await play([...gpio.attach, ...gpio.refusedState], (device) => {
    expect(() => setState(device, VFIO_DEVICE_STATE_PRE_COPY)).toThrowError(/EINVAL/);
  });
});

test('libvfio-user: one stream goes from PRE_COPY on to STOP_COPY, and another one into RESUMING', async () => {
  await play([...gpio.attach, ...gpio.save, ...gpio.resume], (device) => {
    const out = setState(device, VFIO_DEVICE_STATE_PRE_COPY);
    const data = new Uint8Array(100);
    expect(out?.read(data)).toBe(4);
    expect(setState(device, VFIO_DEVICE_STATE_STOP_COPY)).toBeUndefined();
    expect(out?.read(data)).toBe(2);
    expect([...data.subarray(0, 4)]).toEqual([5, 6, 3, 4]);
    expect(out?.read(data)).toBe(0);
    expect(setState(device, VFIO_DEVICE_STATE_STOP)).toBeUndefined();
    expect(() => out?.read(data)).toThrowError(/ENODEV/);
    const into = setState(device, VFIO_DEVICE_STATE_RESUMING);
    into?.write(Uint8Array.of(1, 2, 3, 4, 5, 6));
    expect(setState(device, VFIO_DEVICE_STATE_RUNNING)).toBeUndefined();
  });
});

test('a server that gives more data than was asked for is refused', async () => {
  await play([...gpio.attach, ...gpio.tooMuchData], (device) => {
    const out = setState(device, VFIO_DEVICE_STATE_STOP_COPY);
    expect(() => out?.read(new Uint8Array(2))).toThrowError(/EINVAL\n.*4 bytes for 2/);
  });
});

test('rust-vmm’s server is not asked for features: it would lose its place in the stream', async () => {
  await play(rust.attach, (device) => {
    expect(() => device.deviceFeature(GET | VFIO_DEVICE_FEATURE_MIGRATION)).toThrowError(
      /ENOTTY\n.*version 0\.0/,
    );
  });
});
