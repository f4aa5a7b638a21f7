/** The kernel's own migrating device: an mtty, whose state another mtty takes over. */
import { execFileSync } from 'node:child_process';
import { beforeAll, describe, expect, test } from 'vitest';
import { Scope } from '../sys/scope.js';
import {
  DeviceLoading,
  DevicePreCopy,
  deviceStateBytes,
  loadDeviceState,
  migrationFlags,
  quiesceDevice,
  saveDeviceState,
  startDevice,
  stopDevice,
} from '../vfio/assign/index.js';
import {
  type MigrationData,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_DEVICE_STATE_PRE_COPY,
  VFIO_DEVICE_STATE_PRE_COPY_P2P,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_RUNNING_P2P,
  VFIO_DEVICE_STATE_STOP_COPY,
  VFIO_MIGRATION_P2P,
  VFIO_MIGRATION_PRE_COPY,
  VFIO_MIGRATION_STOP_COPY,
} from '../vfio/feature.js';
import { hostProvider } from '../vfio/host/index.js';
import { type DeviceFile, VFIO_PCI_BAR0_REGION_INDEX, VFIO_TYPE1v2_IOMMU } from '../vfio/uapi.js';

/** Scratch register of a 16550, and its line control register. */
const [SCR, LCR] = [7, 3];

const stateOf = (file: DeviceFile): number | undefined =>
  file.deviceFeature(VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | VFIO_DEVICE_FEATURE_GET).deviceState;

describe.skipIf(process.env.LAB_FILE === undefined)("the kernel's mtty", () => {
  beforeAll(() => void execFileSync('vfio-load'));

  function open(scope: Scope, type = 'mtty-1'): DeviceFile {
    const uuid = execFileSync('mdev-create', [type], { encoding: 'utf8' }).trim();
    const provider = hostProvider();
    const device = scope.own(provider.resolve(uuid, {}));
    const container = scope.own(provider.groups.openContainer());
    const group = scope.own(provider.groups.openGroup(device.group));
    group.setContainer(container);
    container.setIommu(VFIO_TYPE1v2_IOMMU);
    return scope.own(group.getDeviceFd(device.name));
  }
  const read = (file: DeviceFile, register: number): number => {
    const data = new Uint8Array(1);
    file.read(file.getRegionInfo(VFIO_PCI_BAR0_REGION_INDEX).offset + register, data);
    return data[0] as number;
  };
  const write = (file: DeviceFile, register: number, value: number): void => {
    file.write(file.getRegionInfo(VFIO_PCI_BAR0_REGION_INDEX).offset + register, Uint8Array.of(value));
  };

  test('goes on in another mtty where it was stopped', () => {
    using scope = new Scope();
    const [from, to] = [open(scope), open(scope)];
    expect(migrationFlags(from) & VFIO_MIGRATION_STOP_COPY).toBe(VFIO_MIGRATION_STOP_COPY);
    console.log(`P2P: ${(migrationFlags(from) & VFIO_MIGRATION_P2P) !== 0}, ${deviceStateBytes(from)} bytes`);
    write(from, LCR, 0x1b);
    write(from, SCR, 0x5a);
    const state = saveDeviceState(from, 'mtty');
    expect(state.length).toBeGreaterThan(0);
    loadDeviceState(to, 'mtty', state);
    startDevice(to);
    expect([read(to, LCR), read(to, SCR)]).toEqual([0x1b, 0x5a]);
  });

  test('is read while it runs, and the rest once it has stopped', () => {
    using scope = new Scope();
    const [from, to] = [open(scope), open(scope)];
    const flags = migrationFlags(from);
    console.log(`PRE_COPY: ${(flags & VFIO_MIGRATION_PRE_COPY) !== 0}`);
    expect(flags & VFIO_MIGRATION_PRE_COPY).toBe(VFIO_MIGRATION_PRE_COPY);
    write(from, SCR, 0x11);
    const preCopy = scope.own(DevicePreCopy.begin(from, 'mtty'));
    const loading = scope.own(DeviceLoading.begin(to, 'mtty'));
    const left = preCopy.beginRound();
    expect(left.initialBytes).toBeGreaterThan(0);
    let bytes = 0;
    for (let piece = preCopy.read(7); piece !== undefined; piece = preCopy.read(7)) {
      loading.write(piece);
      bytes += piece.length;
    }
    console.log(`pre-copied ${bytes} of ${left.initialBytes} and ${left.bytes} bytes`);
    expect(bytes).toBe(left.initialBytes);
    expect(preCopy.beginRound().initialBytes).toBe(0);
    write(from, SCR, 0x5a); // it runs
    expect(read(from, SCR)).toBe(0x5a);
    preCopy.quiesce();
    expect(stateOf(from)).toBe(
      (flags & VFIO_MIGRATION_P2P) === 0 ? VFIO_DEVICE_STATE_PRE_COPY : VFIO_DEVICE_STATE_PRE_COPY_P2P,
    );
    preCopy.stop();
    expect(stateOf(from)).toBe(VFIO_DEVICE_STATE_STOP_COPY);
    const rest = preCopy.rest();
    console.log(`the rest has ${rest.length} bytes`);
    loading.write(rest);
    loading.finish();
    quiesceDevice(to);
    startDevice(to);
    startDevice(from);
    expect([read(to, SCR), read(from, SCR), stateOf(to), stateOf(from)]).toEqual([
      ...[0x5a, 0x5a, VFIO_DEVICE_STATE_RUNNING, VFIO_DEVICE_STATE_RUNNING],
    ]);
  });

  test('has its pre-copy info in PRE_COPY only, no data of a state that it has left, and runs on from PRE_COPY', () => {
    using scope = new Scope();
    const file = open(scope);
    const set = (deviceState: number) =>
      file.deviceFeature(VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | VFIO_DEVICE_FEATURE_SET, { deviceState })
        .data;
    const told: string[] = [];
    const tell = (what: string, act: () => unknown) => {
      try {
        told.push(`${what}: ${act()}`);
      } catch (error) {
        told.push(`${what}: ${(error as { code?: string }).code}`);
      }
    };
    const data = scope.own(set(VFIO_DEVICE_STATE_PRE_COPY) as MigrationData);
    const all = new Uint8Array(1 << 16);
    tell('info', () => Number(data.precopyInfo().initialBytes) > 0);
    tell('read', () => data.read(all) > 0);
    tell('info', () => `${data.precopyInfo().initialBytes} ${data.precopyInfo().dirtyBytes}`);
    tell('read', () => data.read(all));
    set(VFIO_DEVICE_STATE_STOP_COPY);
    tell('info', () => data.precopyInfo());
    while (data.read(all) > 0);
    tell('read', () => data.read(all));
    set(VFIO_DEVICE_STATE_RUNNING);
    const second = scope.own(set(VFIO_DEVICE_STATE_PRE_COPY) as MigrationData);
    set(VFIO_DEVICE_STATE_RUNNING);
    tell('read', () => second.read(all));
    tell('info', () => second.precopyInfo());
    tell('state', () => stateOf(file));
    console.log(told.join(', '));
    // Its end for now is 0, and not the ENOMSG of linux/vfio.h.
    expect(told).toEqual([
      ...['info: true', 'read: true', 'info: 0 0', 'read: 0', 'info: EINVAL', 'read: 0'],
      ...['read: ENODEV', 'info: EINVAL', `state: ${VFIO_DEVICE_STATE_RUNNING}`],
    ]);
  });

  test('goes through P2P states to STOP and back', () => {
    using scope = new Scope();
    const file = open(scope);
    expect(migrationFlags(file) & VFIO_MIGRATION_P2P).toBe(VFIO_MIGRATION_P2P);
    quiesceDevice(file);
    expect(stateOf(file)).toBe(VFIO_DEVICE_STATE_RUNNING_P2P);
    stopDevice(file);
    quiesceDevice(file);
    expect(stateOf(file)).toBe(VFIO_DEVICE_STATE_RUNNING_P2P);
    startDevice(file);
    expect(stateOf(file)).toBe(VFIO_DEVICE_STATE_RUNNING);
  });

  test('does not take the state of an mtty with two ports, and works afterwards', () => {
    using scope = new Scope();
    const [from, to] = [open(scope, 'mtty-2'), open(scope)];
    const state = saveDeviceState(from, 'mtty');
    expect(() => loadDeviceState(to, 'mtty', state)).toThrowError(/EINVAL|ENOTTY|ENOMEM/);
    write(to, SCR, 0x33);
    expect(read(to, SCR)).toBe(0x33);
  });
});
