import { expect, test } from 'vitest';
import { bindToDriver } from './binding.js';
import { FakeHost, type FakePciFunction } from './testing/index.js';
import { blockingMembers, checkViable } from './viability.js';

const NIC = '0000:01:00.0';
const AUDIO = '0000:01:00.1';

const driverOf = (host: FakeHost, address = NIC): string | undefined => host.sysfs.pciDevice(address).driver;

test('a function goes to vfio-pci by driver_override, and back to its driver when that is undone', () => {
  using host = FakeHost.create();
  host.addPci({ address: NIC, driver: 'e1000e', group: 26 });
  const binding = bindToDriver(host, NIC);
  expect(driverOf(host)).toBe('vfio-pci');
  const device = `devices/pci0000:00/${NIC}`;
  expect(host.writes).toEqual([
    `${device}/driver_override=vfio-pci`,
    `${device}/driver/unbind=${NIC}`,
    `bus/pci/drivers_probe=${NIC}`,
  ]);
  host.writes.length = 0;
  binding[Symbol.dispose]();
  binding[Symbol.dispose]();
  expect(host.writes).toEqual([
    `${device}/driver/unbind=${NIC}`,
    `${device}/driver_override=`,
    `bus/pci/drivers/e1000e/bind=${NIC}`,
  ]);
  expect(driverOf(host)).toBe('e1000e');
});

test('a function that had no driver has none again', () => {
  using host = FakeHost.create();
  host.addPci({ address: NIC, naturalDriver: 'e1000e', group: 26 });
  bindToDriver(host, NIC)[Symbol.dispose]();
  expect(driverOf(host)).toBeUndefined();
});

test('an override that was there before is there again', () => {
  using host = FakeHost.create();
  host.addPci({ address: NIC, driver: 'pci-stub', group: 26 });
  host.file(`sys/devices/pci0000:00/${NIC}/driver_override`, 'pci-stub\n');
  bindToDriver(host, NIC)[Symbol.dispose]();
  expect(host.writes).toContain(`devices/pci0000:00/${NIC}/driver_override=pci-stub`);
  expect(driverOf(host)).toBe('pci-stub');
});

test('a function that is pulled out while it is bound is nothing to undo', () => {
  using host = FakeHost.create();
  host.addPci({ address: NIC, driver: 'e1000e', group: 26 });
  const binding = bindToDriver(host, NIC);
  host.remove(`sys/bus/pci/devices/${NIC}`);
  host.writes.length = 0;
  binding[Symbol.dispose]();
  expect(host.writes).toEqual([]);
});

test('a function that is with the driver already is left alone', () => {
  using host = FakeHost.create();
  host.addPci({ address: NIC, driver: 'vfio-pci', group: 26 });
  bindToDriver(host, NIC)[Symbol.dispose]();
  expect(host.writes).toEqual([]);
});

test('a driver that refuses the function leaves it with the one it had', () => {
  using host = FakeHost.create();
  host.addPci({ address: NIC, driver: 'e1000e', group: 26 });
  host.refusing.add('vfio-pci');
  expect(() => bindToDriver(host, NIC)).toThrowError(
    /^bind on 0000:01:00\.0 to vfio-pci: ENODEV\n.*the driver refused it \(its driver is now none\): see dmesg/,
  );
  expect(driverOf(host)).toBe('e1000e');
});

test('a driver that is not loaded is named, and nothing is written', () => {
  using host = FakeHost.create();
  host.addPci({ address: NIC, driver: 'e1000e', group: 26 });
  expect(() => bindToDriver(host, NIC, 'mlx5_vfio_pci')).toThrowError(/ENODEV\n.*modprobe mlx5_vfio_pci/);
  expect(host.writes).toEqual([]);
});

test('a driver that the kernel was built without is not said to be missing a modprobe', () => {
  using host = FakeHost.create();
  host.addPci({ address: NIC, driver: 'e1000e', group: 26 });
  host.file('proc/sys/kernel/osrelease', '6.12.95-amd64\n');
  host.file('modules/6.12.95-amd64/modules.dep', 'kernel/virt/kvm.ko.xz:');
  expect(() => bindToDriver(host, NIC, 'mlx5_vfio_pci')).toThrowError(
    /ENODEV\n {2}hint: this kernel was built without the driver \(CONFIG_MLX5_VFIO_PCI\)/,
  );
});

test.each<[string, Partial<FakePciFunction>, boolean]>([
  ['a device of the host', { driver: 'snd_hda_intel' }, false],
  ['a device with vfio-pci', { driver: 'vfio-pci' }, true],
  ['a device with a variant of it', { driver: 'mlx5_vfio_pci' }, true],
  ['a device without a driver', {}, true],
  ['a device with pci-stub', { driver: 'pci-stub' }, true],
  ['a port with pcieport', { driver: 'pcieport' }, true],
  ['a bridge with another driver', { driver: 'shpchp', headerType: 1 }, true],
])('a group with %s in it: viable is %s', (_what, member, isViable) => {
  using host = FakeHost.create();
  host.addPci({ address: NIC, driver: 'vfio-pci', group: 26 });
  host.addPci({ address: AUDIO, group: 26, ...member });
  expect(blockingMembers(host.sysfs.group(26)).length === 0).toBe(isViable);
});

test('every blocking member is named with its driver, and with the commands that fix and undo it', () => {
  using host = FakeHost.create();
  host.addPci({ address: NIC, driver: 'vfio-pci', group: 26 });
  host.addPci({ address: AUDIO, driver: 'snd_hda_intel', group: 26 });
  host.addPci({ address: '0000:01:00.2', driver: 'xhci_hcd', group: 26 });
  let message = '';
  try {
    checkViable(host.sysfs, host.sysfs.group(26));
  } catch (error) {
    message = (error as Error).message.replaceAll(host.sysfs.root, '/sys');
  }
  expect(message).toBe(`VFIO_GROUP_GET_STATUS on /dev/vfio/26: EPERM
  hint: group 26 is not viable while the host uses 0000:01:00.1 (snd_hda_intel), 0000:01:00.2 (xhci_hcd): \
all its devices have to be with a vfio driver or with none
  0000:01:00.1 (snd_hda_intel)
    fix:
      modprobe vfio-pci
      echo vfio-pci > /sys/bus/pci/devices/0000:01:00.1/driver_override
      echo 0000:01:00.1 > /sys/bus/pci/devices/0000:01:00.1/driver/unbind
      echo 0000:01:00.1 > /sys/bus/pci/drivers_probe
    undo:
      echo > /sys/bus/pci/devices/0000:01:00.1/driver_override
      echo 0000:01:00.1 > /sys/bus/pci/devices/0000:01:00.1/driver/unbind
      echo 0000:01:00.1 > /sys/bus/pci/drivers_probe
  0000:01:00.2 (xhci_hcd)
    fix:
      modprobe vfio-pci
      echo vfio-pci > /sys/bus/pci/devices/0000:01:00.2/driver_override
      echo 0000:01:00.2 > /sys/bus/pci/devices/0000:01:00.2/driver/unbind
      echo 0000:01:00.2 > /sys/bus/pci/drivers_probe
    undo:
      echo > /sys/bus/pci/devices/0000:01:00.2/driver_override
      echo 0000:01:00.2 > /sys/bus/pci/devices/0000:01:00.2/driver/unbind
      echo 0000:01:00.2 > /sys/bus/pci/drivers_probe`);
});
