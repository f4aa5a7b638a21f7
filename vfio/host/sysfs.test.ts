import { expect, test } from 'vitest';
import { pciAddress } from '../addresses.js';
import { FakeHost } from './testing/index.js';

test.each([
  ['0000:01:00.0', '0000:01:00.0'],
  ['01:00.0', '0000:01:00.0'],
  ['10000:E1:1F.7', '10000:e1:1f.7'],
  ['0000:01:00.8', undefined],
  ['01:00', undefined],
  ['vfio3', undefined],
  ['83b8f4f2-509f-382f-3c1e-e6bfe0fa1001', undefined],
])('%s is the PCI address %s', (text, address) => {
  expect(pciAddress(text)).toBe(address);
});

test('a PCI function is told with driver, group, cdev, resets, NUMA node and its virtual functions', () => {
  using host = FakeHost.create();
  const virtfns = Array.from({ length: 11 }, (_, i) => `0000:01:10.${i % 8}`);
  host.addPci({
    address: '0000:01:00.0',
    driver: 'vfio-pci',
    group: 26,
    id: '8086:10c9',
    cdev: 'vfio3',
    resetMethods: 'flr bus',
    numaNode: 1,
    virtfns,
  });
  expect(host.sysfs.pciDevice('0000:01:00.0')).toMatchObject({
    name: '0000:01:00.0',
    bus: 'pci',
    driver: 'vfio-pci',
    isVfio: true,
    isBridge: false,
    group: 26,
    id: '8086:10c9',
    class: '0x020000',
    cdev: 'vfio3',
    resetMethods: ['flr', 'bus'],
    numaNode: 1,
    physfn: undefined,
    virtfns, // virtfn10 after virtfn9
  });
  expect(host.sysfs.cdevDevice('vfio3').name).toBe('0000:01:00.0');
});

test('what a device lacks is undefined: driver, group, cdev, resets, NUMA node', () => {
  using host = FakeHost.create();
  host.addPci({ address: '0000:01:10.0', physfn: '0000:01:00.0' });
  expect(host.sysfs.pciDevice('0000:01:10.0')).toMatchObject({
    driver: undefined,
    isVfio: false,
    group: undefined,
    cdev: undefined,
    resetMethods: undefined,
    numaNode: undefined,
    physfn: '0000:01:00.0',
    virtfns: [],
  });
});

test('a vfio-dev folder without a device number is no cdev: kernels without cdevs have it too', () => {
  using host = FakeHost.create();
  host.addPci({ address: '0000:01:00.0', driver: 'mlx5-variant', group: 1 });
  host.file('sys/devices/pci0000:00/0000:01:00.0/vfio-dev/vfio0/uevent', '');
  expect(host.sysfs.pciDevice('0000:01:00.0')).toMatchObject({ cdev: undefined, isVfio: true });
});

test.each([
  ['a PCI bridge', { headerType: 0x81, class: '0x060400' }, true],
  ['a CardBus bridge', { headerType: 2, class: '0x060700' }, true],
  ['a host bridge, which is an ordinary function', { headerType: 0, class: '0x060000' }, false],
  ['a bridge that does not answer', { headerType: 0xff, class: '0x060400' }, true],
])('%s is told by its header', (_what, shape, isBridge) => {
  using host = FakeHost.create();
  host.addPci({ address: '0000:00:01.0', ...shape });
  expect(host.sysfs.pciDevice('0000:00:01.0').isBridge).toBe(isBridge);
});

test('a group has all its members, and the ranges its devices keep', () => {
  using host = FakeHost.create();
  host.addPci({ address: '0000:01:00.1', driver: 'snd_hda_intel', group: 26 });
  host.addPci({ address: '0000:01:00.0', driver: 'vfio-pci', group: 26 });
  host.file(
    'sys/kernel/iommu_groups/26/reserved_regions',
    '0x00000000fee00000 0x00000000feefffff msi\nnonsense\n0x0000000000000000 0x0000000000ffffff direct-relaxable\n',
  );
  const group = host.sysfs.group(26);
  expect(group.members.map(({ name, driver }) => [name, driver])).toEqual([
    ['0000:01:00.0', 'vfio-pci'],
    ['0000:01:00.1', 'snd_hda_intel'],
  ]);
  expect(group.isNoiommu).toBe(false);
  expect(group.reservedRegions).toEqual([
    { start: 0xfee0_0000n, last: 0xfeef_ffffn, type: 'msi' },
    { start: 0n, last: 0xff_ffffn, type: 'direct-relaxable' },
  ]);
});

test('a group that VFIO made for want of an IOMMU is told by its node', () => {
  using host = FakeHost.create();
  host.addPci({ address: '0000:01:00.0', driver: 'vfio-pci', group: 0 });
  host.file('sys/class/vfio/noiommu-0/dev', '511:0');
  expect(host.sysfs.group(0).isNoiommu).toBe(true);
});

test.each([
  ['find on PCI device 0000:09:00.0: ENODEV', (host: FakeHost) => host.sysfs.pciDevice('0000:09:00.0')],
  ['find on mediated device x: ENODEV', (host: FakeHost) => host.sysfs.mdev('x')],
  ['find on IOMMU group 9: ENODEV', (host: FakeHost) => host.sysfs.group(9)],
  ['find on /dev/vfio/devices/vfio9: ENODEV', (host: FakeHost) => host.sysfs.cdevDevice('vfio9')],
  ['find on character device 1:2: ENODEV', (host: FakeHost) => host.sysfs.characterDevice(1, 2)],
])('%s', (message, find) => {
  using host = FakeHost.create();
  expect(() => find(host)).toThrowError(message);
});

test('an attribute that cannot be written says which, what, and why', () => {
  using host = FakeHost.create();
  expect(() => host.sysfs.write(host.sysfs.path('none/attribute'), '1\n', 'try another')).toThrowError(
    /^write on .*none\/attribute \('1'\): ENOENT\n {2}hint: try another/,
  );
});
