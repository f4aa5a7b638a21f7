import { expect, test } from 'vitest';
import { bindToDriver } from './binding.js';
import { bindPciFunction } from './group-binding.js';
import { readPciFunction } from './inventory/inventory.js';
import { FakeHost } from './testing/index.js';

const NVME = '0000:01:00.0';
const OTHER = '0000:02:00.0';
const BLOCK = `sys/devices/pci0000:00/${NVME}/nvme/nvme0/nvme0n1`;

/** A disk with two partitions, with a logical volume on the second one. */
function world(mountinfo: string): FakeHost {
  const host = FakeHost.create();
  host.addPci({ address: NVME, driver: 'nvme', group: 1 });
  host.addPci({ address: OTHER, driver: 'e1000e', group: 1 });
  const at = (path: string) => `${host.roots.sys}/${path.slice('sys/'.length)}`;
  const LVM = 'sys/devices/virtual/block/dm-0';
  for (const [folder, number, name] of [
    [BLOCK, '259:0', 'nvme0n1'],
    [`${BLOCK}/nvme0n1p1`, '259:1', 'nvme0n1p1'],
    [`${BLOCK}/nvme0n1p2`, '259:2', 'nvme0n1p2'],
    [LVM, '254:0', 'dm-0'],
  ] as const) {
    host.file(`${folder}/dev`, `${number}\n`);
    host.link(`sys/dev/block/${number}`, at(folder));
    host.link(`sys/class/block/${name}`, at(folder));
  }
  host.link(`${LVM}/slaves/nvme0n1p2`, at(`${BLOCK}/nvme0n1p2`));
  host.file('proc/self/mountinfo', mountinfo);
  return host;
}

const points = (host: FakeHost, address = NVME) => readPciFunction(address, host).mountPoints;

test.each([
  ['a partition', '22 1 259:1 / /boot rw,relatime shared:1 - ext4 /dev/nvme0n1p1 rw\n', ['/boot']],
  ['a logical volume on it', '22 1 254:0 / / rw - ext4 /dev/mapper/vg-root rw\n', ['/']],
  ['btrfs, whose number is of no device', '22 1 0:35 /root / rw shared:1 - btrfs /dev/nvme0n1p2 rw\n', ['/']],
  ['the same twice', '22 1 259:1 / /a rw - ext4 /dev/x rw\n23 1 259:1 / /a rw - ext4 /dev/x rw\n', ['/a']],
  ['nothing of it', '22 1 0:5 / /dev rw - devtmpfs udev rw\n23 1 8:1 / /mnt rw - ext4 /dev/sda1 rw\n', []],
  ['nonsense', 'nonsense\n\n', []],
])('of a disk with %s mounted, that is told, and of no other function', (_what, mountinfo, expected) => {
  using host = world(mountinfo);
  expect(points(host)).toEqual(expected);
  expect(points(host, OTHER)).toEqual([]);
});

test('a disk that the host has mounted is not bound, for a run or its group either, and nothing is written', () => {
  using host = world('22 1 254:0 / / rw - ext4 /dev/mapper/vg-root rw\n');
  expect(() => bindPciFunction(OTHER, { ...host, isGroup: true })).toThrowError(
    `bind on ${NVME}: EBUSY\n  hint: the host has file systems of it mounted, at /: unmount them first`,
  );
  expect(() => bindToDriver(host, NVME)).toThrowError(`bind on ${NVME}: EBUSY`);
  expect(host.writes).toEqual([]);
  expect(bindPciFunction(OTHER, host)).toHaveLength(1);
});
