import { expect, test } from 'vitest';
import { createMdev } from '../mdev.js';
import { FakeHost } from '../testing/index.js';
import { readMdevs, removeUnusedMdev } from './mdev-record.js';

const UUID = '83b8f4f2-509f-382f-3c1e-e6bfe0fa1001';

function world(): FakeHost {
  const host = FakeHost.create();
  host.addMdevParent('mtty', [{ type: 'mtty-2', name: 'Dual port serial', instances: 12 }]);
  createMdev(host.sysfs, 'mtty-2', { uuid: UUID });
  return host;
}

test('a mediated device is told with its type, parent, driver, group and users', () => {
  using host = world();
  host.addProcess(411, 'qemu', ['dev/vfio/100']);
  expect(readMdevs(host)).toEqual([
    {
      uuid: UUID,
      type: 'mtty-2',
      parent: 'mtty',
      deviceApi: 'vfio-pci',
      driver: 'vfio_mdev',
      group: 100,
      cdev: undefined,
      users: [{ pid: 411, name: 'qemu' }],
    },
  ]);
});

test('one that is in use is not removed, and the process is named', () => {
  using host = world();
  host.addProcess(411, 'qemu', ['dev/vfio/100']);
  expect(() => removeUnusedMdev(UUID, host)).toThrowError(
    `remove mdev on ${UUID}: EBUSY\n  hint: held by process 411 (qemu)`,
  );
  expect(readMdevs(host)).toHaveLength(1);
});

test('one that nobody uses is removed, and is no instance of its type any more', () => {
  using host = world();
  removeUnusedMdev(UUID, host);
  expect(readMdevs(host)).toEqual([]);
  expect(() => removeUnusedMdev(UUID, host)).toThrowError(`find on mediated device ${UUID}: ENODEV`);
});

test('each is told with its own type', () => {
  using host = world();
  host.addMdevParent('gpu', [
    { type: 'gpu-1', name: 'Whole', instances: 1 },
    { type: 'gpu-2', name: 'Half', instances: 2 },
  ]);
  const second = createMdev(host.sysfs, 'gpu-2');
  expect(Object.fromEntries(readMdevs(host).map(({ uuid, type, parent }) => [uuid, [type, parent]]))).toEqual(
    {
      [UUID]: ['mtty-2', 'mtty'],
      [second]: ['gpu-2', 'gpu'],
    },
  );
});

test('one that goes while it is read is left out', () => {
  using host = world();
  host.remove(`sys/devices/virtual/mtty/${UUID}`);
  expect(host.sysfs.exists('bus/mdev/devices', UUID)).toBe(false); // a link to nothing
  expect(readMdevs(host)).toEqual([]);
});

test('a host without mediated devices has none', () => {
  using host = FakeHost.create();
  expect(readMdevs(host)).toEqual([]);
});
