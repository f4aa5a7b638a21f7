/** The kernel's own migrating device: an mtty, whose state another mtty takes over. */
import { execFileSync } from 'node:child_process';
import { beforeAll, describe, expect, test } from 'vitest';
import { Scope } from '../sys/scope.js';
import {
  deviceStateBytes,
  loadDeviceState,
  migrationFlags,
  saveDeviceState,
  startDevice,
} from '../vfio/assign/index.js';
import { VFIO_MIGRATION_P2P, VFIO_MIGRATION_STOP_COPY } from '../vfio/feature.js';
import { hostProvider } from '../vfio/host/index.js';
import { type DeviceFile, VFIO_PCI_BAR0_REGION_INDEX, VFIO_TYPE1v2_IOMMU } from '../vfio/uapi.js';

/** Scratch register of a 16550, and its line control register. */
const [SCR, LCR] = [7, 3];

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

  test('does not take the state of an mtty with two ports, and works afterwards', () => {
    using scope = new Scope();
    const [from, to] = [open(scope, 'mtty-2'), open(scope)];
    const state = saveDeviceState(from, 'mtty');
    expect(() => loadDeviceState(to, 'mtty', state)).toThrowError(/EINVAL|ENOTTY|ENOMEM/);
    write(to, SCR, 0x33);
    expect(read(to, SCR)).toBe(0x33);
  });
});
