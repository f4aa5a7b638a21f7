import { expect, test } from 'vitest';
import { iova } from '../../sys/address.js';
import { Fd } from '../../sys/fd.js';
import type { ioctl } from '../../sys/ioctl.js';
import { Scope } from '../../sys/scope.js';
import {
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
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_STOP_COPY,
} from '../feature.js';
import { VFIO_TYPE1v2_IOMMU } from '../uapi.js';
import type { HostDeviceFile } from './device.js';
import { precopyInfo } from './device-feature.js';
import { hostProvider } from './provider.js';
import { PrecopyInfoStruct } from './structs-feature.js';
import {
  FakeDmaLogging,
  type FakeFeature,
  FakeHost,
  FakeKernel,
  FakeMigration,
  storedFeature,
} from './testing/index.js';

const ADDRESS = '0000:01:00.0';
const TOKEN = '83b8f4f2-509f-382f-3c1e-e6bfe0fa1001';

/** A device of the scripted kernel, opened through its group. */
function open(scope: Scope, features: ReadonlyMap<number, FakeFeature>): HostDeviceFile {
  const host = scope.own(FakeHost.create());
  host.addPci({ address: ADDRESS, driver: 'vfio-pci', group: 26 });
  const kernel = new FakeKernel(host.roots.dev);
  kernel.addDevice({ name: ADDRESS, group: 26, features });
  const { groups } = hostProvider({ system: kernel, sysfs: host.sysfs, roots: host.roots });
  const container = scope.own(groups.openContainer());
  const group = scope.own(groups.openGroup(26));
  group.setContainer(container);
  container.setIommu(VFIO_TYPE1v2_IOMMU);
  return scope.own(group.getDeviceFd(ADDRESS)) as HostDeviceFile;
}

/** A device that can be moved, with an odd feature that the seam has no name for. */
function movable(scope: Scope) {
  const migration = scope.own(new FakeMigration(Uint8Array.of(1, 2, 3, 4)));
  const logging = new FakeDmaLogging();
  const features = new Map([...migration.features, ...logging.features, [99, storedFeature(4)] as const]);
  return { migration, logging, file: open(scope, features) };
}

test('a device’s state is read from the descriptor that the kernel gives, and written to another one', () => {
  using scope = new Scope();
  const { migration, file } = movable(scope);
  const setState = (deviceState: number) =>
    file.deviceFeature(VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, { deviceState }).data;
  const get = VFIO_DEVICE_FEATURE_GET;
  expect(file.deviceFeature(get | VFIO_DEVICE_FEATURE_MIGRATION)).toEqual({ migrationFlags: 1 });
  expect(file.deviceFeature(get | VFIO_DEVICE_FEATURE_MIG_DATA_SIZE)).toEqual({ stopCopyLength: 4n });
  using out = setState(VFIO_DEVICE_STATE_STOP_COPY);
  const data = new Uint8Array(3);
  expect([out?.read(data), ...data]).toEqual([3, 1, 2, 3]);
  expect([out?.read(data), data[0], out?.read(data)]).toEqual([1, 4, 0]);
  expect(setState(VFIO_DEVICE_STATE_STOP_COPY)).toBeUndefined();
  const into = setState(VFIO_DEVICE_STATE_RESUMING);
  into?.write(Uint8Array.of(9, 8));
  into?.write(Uint8Array.of(7, 6));
  into?.[Symbol.dispose]();
  expect(() => into?.write(data)).toThrowError(/^fd on migration data of 0000:01:00\.0: EBADF/);
  setState(VFIO_DEVICE_STATE_RUNNING);
  expect([...migration.content]).toEqual([9, 8, 7, 6]);
});

test('a device of the kernel without all of its data stays in RESUMING, and takes the rest', () => {
  using scope = new Scope();
  const { migration, file } = movable(scope);
  const setState = (deviceState: number) =>
    file.deviceFeature(VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, { deviceState }).data;
  using into = setState(VFIO_DEVICE_STATE_RESUMING);
  into?.write(Uint8Array.of(9, 8));
  expect(() => setState(VFIO_DEVICE_STATE_RUNNING)).toThrowError(/EINVAL/);
  expect(
    file.deviceFeature(VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, {}).deviceState,
  ).toBe(VFIO_DEVICE_STATE_RESUMING);
  into?.write(Uint8Array.of(7, 6));
  setState(VFIO_DEVICE_STATE_RUNNING);
  expect([...migration.content]).toEqual([9, 8, 7, 6]);
});

test('dirty logging passes its ranges by address, and brings the bitmap back with the bits that were there', () => {
  using scope = new Scope();
  const { logging, file } = movable(scope);
  const ranges = [
    { iova: iova(0x10_0000n), length: 0x1_0000n },
    { iova: iova(0x80_0000n), length: 0x2000n },
  ];
  const start = VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_START;
  expect(file.deviceFeature(start, { logging: { pageSize: 4096n, ranges } })).toEqual({ pageSize: 8192n });
  expect(logging.ranges).toEqual(ranges);
  const bitmap = Uint8Array.of(0x02, 0, 0xff);
  file.deviceFeature(VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, {
    report: { iova: iova(0x10_0000n), length: 0x1_0000n, pageSize: 4096n, bitmap },
  });
  expect([...bitmap]).toEqual([0x57, 0x55, 0xff]);
  file.deviceFeature(VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP);
  expect(logging.ranges).toBeUndefined();
});

test('the VF token is a feature that is set; what a device does not have is ENOTTY before the input is looked at', () => {
  using scope = new Scope();
  const file = open(scope, new Map([[VFIO_DEVICE_FEATURE_PCI_VF_TOKEN, storedFeature(16)]]));
  const setToken = VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_PCI_VF_TOKEN;
  expect(file.deviceFeature(setToken, { vfToken: TOKEN })).toEqual({});
  const stored = file.getFeature(VFIO_DEVICE_FEATURE_PCI_VF_TOKEN, new Uint8Array(16));
  expect(Buffer.from(stored).toString('hex')).toBe(TOKEN.replaceAll('-', ''));
  expect(() => file.deviceFeature(setToken)).toThrowError(/feature 0: EINVAL\n.*no token is given/);
  const setState = VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE;
  expect(() => file.deviceFeature(setState)).toThrowError(/feature 2: ENOTTY/);
});

test('a feature whose structure the seam does not know is probed, and otherwise left to getFeature', () => {
  using scope = new Scope();
  const { file } = movable(scope);
  expect(file.deviceFeature(VFIO_DEVICE_FEATURE_PROBE | 99)).toEqual({});
  expect(() => file.deviceFeature(VFIO_DEVICE_FEATURE_GET | 99)).toThrowError(
    /feature 99: ENOTTY\n.*use getFeature or setFeature/,
  );
  expect(() => file.deviceFeature(VFIO_DEVICE_FEATURE_GET | 98)).toThrowError(
    /feature 98: ENOTTY\n.*the device, or this kernel/,
  );
  expect(file.setFeature(99, Uint8Array.of(1, 2, 3, 4))).toHaveLength(4);
  expect([...file.getFeature(99, new Uint8Array(4))]).toEqual([1, 2, 3, 4]);
});

test('the pre-copy info is asked of the descriptor by its ioctl; another file has none', () => {
  using fd = Fd.memfd('migration data of it');
  const asked: unknown[] = [];
  const call: typeof ioctl = (of, request, argument) => {
    const bytes = argument as Uint8Array;
    asked.push(of.target, request.name, PrecopyInfoStruct.decode(bytes).argsz);
    PrecopyInfoStruct.write(bytes, { initial_bytes: 0x1_0000_0001n, dirty_bytes: 3n });
    return 0;
  };
  expect(precopyInfo(fd, call)).toEqual({ initialBytes: 0x1_0000_0001n, dirtyBytes: 3n });
  expect(asked).toEqual(['memfd migration data of it', 'VFIO_MIG_GET_PRECOPY_INFO', 24]);
  expect(() => precopyInfo(fd)).toThrowError(
    /VFIO_MIG_GET_PRECOPY_INFO on memfd migration data of it: ENOTTY/,
  );
});
