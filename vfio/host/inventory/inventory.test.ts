import { readdirSync } from 'node:fs';
import { expect, test } from 'vitest';
import { FakeHost, type FakePciFunction } from '../testing/index.js';
import { readPciFunction, readPciInventory } from './inventory.js';
import { PciNames } from './pci-names.js';

const NIC = '0000:01:00.0';
const AUDIO = '0000:01:00.1';
const NAMES = new PciNames(
  '8086  Intel Corporation\n\t10d3  82574L\n\t\t103c 1497  A card\nC 02  Network\n\t00  Ethernet\n',
);

const options = (host: FakeHost) => ({ sysfs: host.sysfs, roots: host.roots, names: NAMES });
const read = (host: FakeHost, address = NIC) => readPciFunction(address, options(host));

test('a NIC is told whole, and as JSON it is the same', () => {
  using host = FakeHost.create();
  host.addPci({
    address: NIC,
    driver: 'e1000e',
    group: 26,
    resetMethods: 'flr bus',
    numaNode: 1,
    attributes: {
      subsystem_vendor: '0x103c\n',
      subsystem_device: '0x1497\n',
      revision: '0x02\n',
      resource: '0x00000000febc0000 0x00000000febdffff 0x0000000000040200\n',
      power_state: 'D0\n',
      d3cold_allowed: '1\n',
      boot_vga: '0\n',
      'net/eth0/mtu': '1500\n',
    },
  });
  host.file(
    'sys/kernel/iommu_groups/26/reserved_regions',
    '0x00000000fee00000 0x00000000feefffff msi\n0xfffffffffffff000 0xffffffffffffffff reserved\n',
  );
  const nic = read(host);
  expect(nic).toEqual({
    address: NIC,
    vendor: { id: '8086', name: 'Intel Corporation' },
    device: { id: '10d3', name: '82574L' },
    subsystem: { vendor: '103c', device: '1497', name: 'A card' },
    class: { id: '020000', name: 'Ethernet' },
    revision: '02',
    isBridge: false,
    driver: 'e1000e',
    isVfio: false,
    driverOverride: undefined,
    hostNames: ['net/eth0'],
    mountPoints: [],
    group: {
      number: 26,
      isNoiommu: false,
      isViable: false,
      members: [
        {
          name: NIC,
          bus: 'pci',
          driver: 'e1000e',
          isBlocking: true,
          reason: 'e1000e of the host has it',
        },
      ],
      reservedRegions: [
        { start: '0xfee00000', last: '0xfeefffff', type: 'msi' },
        { start: '0xfffffffffffff000', last: '0xffffffffffffffff', type: 'reserved' },
      ],
    },
    assignability: { state: 'needs-bind', reason: 'e1000e of the host has it' },
    resetMethods: ['flr', 'bus'],
    bars: [
      {
        index: 0,
        kind: 'memory',
        size: 0x2_0000,
        start: '0xfebc0000',
        is64Bit: false,
        isPrefetchable: false,
      },
    ],
    interrupts: { intx: undefined, msi: 0, msix: 0 },
    sriov: undefined,
    mdevTypes: [],
    cdev: undefined,
    numaNode: 1,
    powerState: 'D0',
    isD3coldAllowed: true,
    isBootVga: false,
    users: [],
  });
  expect(JSON.parse(JSON.stringify(nic))).toEqual(nic);
});

test('a function that says nothing of itself has numbers for names', () => {
  using host = FakeHost.create();
  host.addPci({ address: NIC, id: '1234:5678', class: '0xff0000' });
  expect(read(host)).toMatchObject({
    vendor: { id: '1234', name: undefined },
    device: { id: '5678', name: undefined },
    class: { id: 'ff0000', name: undefined },
    subsystem: undefined,
    driver: undefined,
    group: undefined,
    resetMethods: [],
    bars: [],
    numaNode: undefined,
    powerState: undefined,
    isD3coldAllowed: undefined,
    assignability: { state: 'no-iommu', reason: 'no IOMMU translates its DMA' },
  });
});

test('a kernel that does not list the methods of reset leaves them unknown', () => {
  using host = FakeHost.create();
  host.addPci({ address: NIC, attributes: { reset: '' } });
  expect(read(host).resetMethods).toBe('unknown');
});

test('an override is told, and none is none', () => {
  using host = FakeHost.create();
  host.addPci({ address: NIC, driver: 'vfio-pci', attributes: { driver_override: 'vfio-pci\n' } });
  host.addPci({ address: AUDIO, attributes: { driver_override: '\n' } });
  expect(read(host).driverOverride).toBe('vfio-pci');
  expect(read(host, AUDIO).driverOverride).toBeUndefined();
});

type Members = Readonly<Record<string, Partial<FakePciFunction>>>;

test.each<[string, Members, string, string]>([
  ['a VFIO driver', { [NIC]: { driver: 'vfio-pci' } }, 'ready', 'vfio-pci has it, and group 26 is viable'],
  ['no driver', { [NIC]: {} }, 'needs-bind', 'no driver has it'],
  ['a driver of the host', { [NIC]: { driver: 'e1000e' } }, 'needs-bind', 'e1000e of the host has it'],
  [
    'a VFIO driver, and a neighbour with a driver of the host',
    { [NIC]: { driver: 'vfio-pci' }, [AUDIO]: { driver: 'snd_hda_intel' } },
    'needs-group-bind',
    'group 26 is not viable while the host uses 0000:01:00.1 (snd_hda_intel)',
  ],
  [
    'a VFIO driver, and neighbours that do no DMA',
    {
      [NIC]: { driver: 'vfio-pci' },
      [AUDIO]: {},
      '0000:01:00.2': { driver: 'pci-stub' },
      '0000:00:01.0': { driver: 'pcieport', headerType: 1, class: '0x060400' },
    },
    'ready',
    'vfio-pci has it, and group 26 is viable',
  ],
  [
    'the header of a bridge',
    { [NIC]: { driver: 'pcieport', headerType: 1, class: '0x060400' } },
    'bridge',
    'bridges stay with the host',
  ],
])('a function with %s: assignability', (_what, members, state, reason) => {
  using host = FakeHost.create();
  for (const [address, shape] of Object.entries(members)) host.addPci({ address, group: 26, ...shape });
  expect(read(host).assignability).toEqual({ state, reason });
});

test('each member of a group is told with what it is to the group’s viability', () => {
  using host = FakeHost.create();
  host.addPci({ address: '0000:00:01.0', driver: 'pcieport', headerType: 1, group: 26 });
  host.addPci({ address: '0000:00:01.1', driver: 'shpchp', headerType: 1, group: 26 });
  host.addPci({ address: NIC, driver: 'vfio-pci', group: 26 });
  host.addPci({ address: AUDIO, driver: 'snd_hda_intel', group: 26 });
  host.addPci({ address: '0000:01:00.2', group: 26 });
  host.addPci({ address: '0000:01:00.3', driver: 'pci-stub', group: 26 });
  const { group } = read(host);
  expect(group?.isViable).toBe(false);
  expect(group?.members.map(({ isBlocking, reason }) => [isBlocking, reason])).toEqual([
    [false, 'a bridge does no DMA of its own'],
    [false, 'a bridge does no DMA of its own'],
    [false, 'vfio-pci is a VFIO driver'],
    [true, 'snd_hda_intel of the host has it'],
    [false, 'no driver has it'],
    [false, 'pci-stub does no DMA'],
  ]);
});

test('a device without an IOMMU that VFIO took all the same is for no guest', () => {
  using host = FakeHost.create();
  host.addPci({ address: NIC, driver: 'vfio-pci', group: 0 });
  host.file('sys/class/vfio/noiommu-0/dev', '511:0');
  expect(read(host)).toMatchObject({
    group: { isNoiommu: true },
    assignability: {
      state: 'no-iommu',
      reason: 'VFIO has it without an IOMMU: its DMA reaches all memory',
    },
  });
});

test.each([
  ['its group', 'dev/vfio/26'],
  ['its cdev', 'dev/vfio/devices/vfio3'],
])('a process that has %s open uses the device', (_what, file) => {
  using host = FakeHost.create();
  host.addPci({ address: NIC, driver: 'vfio-pci', group: 26, cdev: 'vfio3' });
  host.addProcess(411, 'qemu', ['dev/null', file]);
  host.addProcess(412, 'bash', ['dev/null']);
  expect(read(host)).toMatchObject({
    cdev: 'vfio3',
    users: [{ pid: 411, name: 'qemu' }],
    assignability: { state: 'in-use', reason: 'held by process 411 (qemu)' },
  });
});

test('a process that has both open is one user, and two processes are two in order', () => {
  using host = FakeHost.create();
  host.addPci({ address: NIC, driver: 'vfio-pci', group: 26, cdev: 'vfio3' });
  host.addProcess(1000, 'b', ['dev/vfio/26']);
  host.addProcess(99, 'a', ['dev/vfio/26', 'dev/vfio/devices/vfio3']);
  expect(read(host).users.map(({ pid }) => pid)).toEqual([99, 1000]);
});

test('a process whose descriptors this user may not see makes the list of users incomplete', () => {
  using host = FakeHost.create();
  host.addPci({ address: NIC, driver: 'vfio-pci', group: 26 });
  host.addProcess(7, 'visible', []);
  expect(readPciInventory(options(host)).areUsersComplete).toBe(true);
  host.file('proc/8/fd', ''); // cannot be listed, as a folder of another user
  expect(readPciInventory(options(host)).areUsersComplete).toBe(false);
});

test('a physical function has its VFs, and a VF its physical function', () => {
  using host = FakeHost.create();
  const virtfns = ['0000:01:10.0', '0000:01:10.2'];
  const attributes = { sriov_totalvfs: '7\n', sriov_numvfs: '2\n', sriov_drivers_autoprobe: '0\n' };
  host.addPci({ address: NIC, driver: 'igb', group: 26, virtfns, attributes });
  host.addPci({ address: virtfns[0] as string, driver: 'igbvf', group: 27, physfn: NIC });
  expect(read(host).sriov).toEqual({
    role: 'physfn',
    totalVfs: 7,
    numVfs: 2,
    isAutoprobed: false,
    virtfns,
  });
  expect(read(host, virtfns[0]).sriov).toEqual({ role: 'virtfn', physfn: NIC });
  host.remove(`sys/devices/pci0000:00/${NIC}/sriov_numvfs`);
  expect(read(host).sriov).toMatchObject({ totalVfs: 7, numVfs: 0 });
});

test('a parent of mediated devices has its types with their instances', () => {
  using host = FakeHost.create();
  host.addPci({ address: NIC, driver: 'i915', group: 1 });
  host.addMdevParent(NIC, [{ type: 'i915-GVTg_V5_4', name: 'GVT 4', instances: 2 }]);
  host.addMdevParent('mtty', [{ type: 'mtty-1', name: 'single port', instances: 24 }]);
  const folder = host.sysfs.path('class/mdev_bus', NIC, 'mdev_supported_types/i915-GVTg_V5_4');
  const uuid = '83b8f4f2-509f-382f-3c1e-e6bfe0fa1001';
  host.sysfs.write(`${folder}/create`, uuid);
  expect(read(host).mdevTypes).toEqual([
    {
      type: 'i915-GVTg_V5_4',
      name: 'GVT 4',
      parent: NIC,
      availableInstances: 1,
      deviceApi: 'vfio-pci',
      description: '',
      instances: [uuid],
      path: folder,
    },
  ]);
});

test('what a virtio card became on its own bus is a name of the card', () => {
  using host = FakeHost.create();
  host.addPci({ address: NIC, driver: 'virtio-pci', attributes: { 'virtio3/block/vda/size': '8\n' } });
  expect(read(host).hostNames).toEqual(['block/vda']);
});

test('the inventory has all functions in order, the IOMMUs, and skips what is no device any more', () => {
  using host = FakeHost.create();
  host.addPci({ address: AUDIO, group: 26 });
  host.addPci({ address: NIC, group: 26 });
  host.file('sys/class/iommu/dmar0/x', '');
  host.link('sys/bus/pci/devices/0000:02:00.0', '/nowhere');
  const { functions, iommus } = readPciInventory(options(host));
  expect(functions.map(({ address }) => address)).toEqual([NIC, AUDIO]);
  expect(iommus).toEqual(['dmar0']);
});

test('a group that disappears while it is read is none', () => {
  using host = FakeHost.create();
  host.addPci({ address: NIC, driver: 'vfio-pci' });
  host.link(`sys/devices/pci0000:00/${NIC}/iommu_group`, '../../../kernel/iommu_groups/31');
  expect(read(host)).toMatchObject({ group: undefined, assignability: { state: 'no-iommu' } });
});

test('an address without a device is ENODEV', () => {
  using host = FakeHost.create();
  expect(() => read(host, '0000:09:00.0')).toThrowError('find on PCI device 0000:09:00.0: ENODEV');
});

test('a host without PCI has an empty inventory', () => {
  using host = FakeHost.create();
  host.remove('sys/bus');
  expect(readPciInventory(options(host))).toEqual({ functions: [], iommus: [], areUsersComplete: true });
});

test('this machine’s inventory has each of its PCI functions, and survives JSON', () => {
  const inventory = readPciInventory();
  const addresses = (() => {
    try {
      return readdirSync('/sys/bus/pci/devices').sort();
    } catch {
      return [];
    }
  })();
  expect(inventory.functions.map(({ address }) => address)).toEqual(addresses);
  for (const { vendor, device, class: kind, bars } of inventory.functions) {
    expect([vendor.id, device.id]).toEqual([
      expect.stringMatching(/^[0-9a-f]{4}$/),
      expect.stringMatching(/^[0-9a-f]{4}$/),
    ]);
    expect(kind.id).toMatch(/^[0-9a-f]{6}$/);
    // PCI Local Bus 3.0 section 6.2.5.1: the size of a BAR is a power of two.
    for (const { size } of bars) expect(Math.log2(size) % 1).toBe(0);
  }
  expect(JSON.parse(JSON.stringify(inventory))).toEqual(inventory);
});
