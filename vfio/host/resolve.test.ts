import { expect, test } from 'vitest';
import { VFIO_TYPE1v2_IOMMU } from '../uapi.js';
import { listMdevTypes } from './mdev.js';
import { type HostProvider, hostProvider } from './provider.js';
import { FakeHost, FakeKernel } from './testing/index.js';

const NIC = '0000:01:00.0';
const UUID = '83b8f4f2-509f-382f-3c1e-e6bfe0fa1001';

interface World extends Disposable {
  readonly host: FakeHost;
  readonly kernel: FakeKernel;
  readonly provider: HostProvider;
}

function world(): World {
  const host = FakeHost.create();
  const kernel = new FakeKernel(host.roots.dev);
  const provider = hostProvider({ system: kernel, sysfs: host.sysfs, roots: host.roots });
  return { host, kernel, provider, [Symbol.dispose]: () => host[Symbol.dispose]() };
}

function messageOf(body: () => unknown): string {
  try {
    body();
  } catch (error) {
    return (error as Error).message;
  }
  throw new Error('it did not fail');
}

test.each([
  ['0000:01:00.0', true],
  ['01:00.0', true],
  ['mdev:mtty-2', true],
  ['fd:7', true],
  ['fd:x', true], // and is refused: it is no number
  [UUID, false], // one of this process, for all the host knows
  ['virtio-net', false],
  ['unix:/run/peer.sock', false],
])('the address %s is the host’s: %s', (address, isOurs) => {
  using made = world();
  expect(made.provider.matches(address)).toBe(isOurs);
});

test('a device is told with what a person wants to know of it', () => {
  using made = world();
  made.host.addPci({
    address: NIC,
    driver: 'vfio-pci',
    group: 26,
    id: '8086:10d3',
    cdev: 'vfio3',
    resetMethods: 'flr bus',
    numaNode: 0,
    physfn: '0000:02:00.0',
  });
  expect(made.provider.resolve('01:00.0', {})).toMatchObject({
    name: NIC,
    group: 26,
    cdev: 'vfio3',
    description:
      'PCI device 8086:10d3 0000:01:00.0, driver vfio-pci, group 26, vfio3, reset by flr, bus, ' +
      'VF of 0000:02:00.0, NUMA node 0',
  });
});

test('what a device does not have is not in what is resolved', () => {
  using made = world();
  made.host.addPci({ address: NIC, driver: 'vfio-pci', group: 26 });
  const device = made.provider.resolve(NIC, {});
  expect(Object.keys(device).sort()).toEqual(['description', 'group', 'name', 'waitsForMastering']);
});

test('a device behind no IOMMU is refused with what to turn on', () => {
  using made = world();
  made.host.addPci({ address: NIC, driver: 'vfio-pci' });
  expect(messageOf(() => made.provider.resolve(NIC, {}))).toMatch(
    /^attach on 0000:01:00\.0: ENODEV\n {2}hint: no IOMMU translates its DMA .*iommu_group.*intel_iommu=on/,
  );
});

test('a device that the host drives is refused with the commands that change it', () => {
  using made = world();
  made.host.addPci({ address: NIC, driver: 'e1000e', group: 26 });
  const message = messageOf(() => made.provider.resolve(NIC, {}));
  expect(message).toMatch(
    /^attach on 0000:01:00\.0: EBUSY\n {2}hint: the host uses it \(driver e1000e\); .*bind=vfio-pci/,
  );
  expect(message).toMatch(/driver_override\n.*driver\/unbind\n.*drivers_probe\n {4}undo:/);
});

test('option bind gives it to vfio-pci as long as it is assigned', () => {
  using made = world();
  made.host.addPci({ address: NIC, driver: 'e1000e', group: 26 });
  const device = made.provider.resolve(NIC, { bind: 'vfio-pci' });
  expect(made.host.sysfs.pciDevice(NIC).driver).toBe('vfio-pci');
  device[Symbol.dispose]();
  expect(made.host.sysfs.pciDevice(NIC).driver).toBe('e1000e');
});

test('a device whose group is not viable is refused, and option bind is undone', () => {
  using made = world();
  made.host.addPci({ address: NIC, driver: 'e1000e', group: 26 });
  made.host.addPci({ address: '0000:01:00.1', driver: 'snd_hda_intel', group: 26 });
  expect(messageOf(() => made.provider.resolve(NIC, { bind: 'vfio-pci' }))).toMatch(
    /^VFIO_GROUP_GET_STATUS .*EPERM\n.*uses 0000:01:00\.1 \(snd_hda_intel\)/,
  );
  expect(made.host.sysfs.pciDevice(NIC).driver).toBe('e1000e');
});

test('a bridge is refused', () => {
  using made = world();
  made.host.addPci({ address: NIC, driver: 'pcieport', group: 26, headerType: 1 });
  expect(messageOf(() => made.provider.resolve(NIC, {}))).toMatch(
    /EINVAL\n.*assign the functions on its secondary bus/,
  );
});

test('an unknown option is refused, and the known ones are told', () => {
  using made = world();
  expect(messageOf(() => made.provider.resolve(NIC, { vftoken: UUID }))).toMatch(
    /^resolve on 0000:01:00\.0: EINVAL\n.*no option vftoken; did you mean vf-token\? There are:\n {4}bind: .*\n {4}vf-token: /,
  );
});

const mtty = [
  { type: 'mtty-1', name: 'Single port serial', instances: 0 },
  { type: 'mtty-2', name: 'Dual port serial', instances: 1 },
];

test('mdev:TYPE makes a mediated device, which lives as long as it is assigned', () => {
  using made = world();
  made.host.addMdevParent('mtty', mtty);
  const device = made.provider.resolve('mdev:mtty-2', { uuid: UUID });
  expect(device).toMatchObject({ name: UUID, group: 100 });
  expect(device.description).toBe(`mediated device ${UUID}, driver vfio_mdev, group 100`);
  expect(device.waitsForMastering).toBeUndefined(); // its driver pins memory when it likes
  expect(made.provider.matches(UUID)).toBe(true);
  expect(made.provider.resolve(UUID.toUpperCase(), {}).name).toBe(UUID);
  expect(listMdevTypes(made.host.sysfs)[1]?.availableInstances).toBe(0);
  device[Symbol.dispose]();
  expect(made.provider.matches(UUID)).toBe(false);
  expect(listMdevTypes(made.host.sysfs)[1]?.availableInstances).toBe(1);
});

test('a type may be named as its driver does, and gets a UUID of its own', () => {
  using made = world();
  made.host.addMdevParent('mtty', mtty);
  const device = made.provider.resolve('mdev:Dual port serial', {});
  expect(device.name).toMatch(/^[0-9a-f-]{36}$/);
  device[Symbol.dispose]();
});

test.each([
  ['mdev:mtty-1', {}, /^create mdev on mtty-1: ENOSPC\n.*mtty.* has no instance left/],
  ['mdev:mtty-9', {}, /^create mdev on mtty-9: ENODEV\n.*mtty-1 of mtty, mtty-2 of mtty/],
  ['mdev:mtty-2', { parent: 'other' }, /^create mdev on mtty-2: ENODEV/],
  ['mdev:mtty-2', { uuid: '42' }, /^resolve on mdev:mtty-2: EINVAL\n.*'42' is not a UUID/],
])('%s with %o is refused', (address, options: Record<string, string>, message) => {
  using made = world();
  made.host.addMdevParent('mtty', mtty);
  expect(messageOf(() => made.provider.resolve(address, options))).toMatch(message);
});

/** Opens a file of each kind, as a parent process would. */
function descriptors({ host, kernel }: World) {
  const opened = (path: string, device: string, minor: number): string => {
    const { fd } = kernel.open(`${host.roots.dev}/${path}`);
    kernel.setDeviceNumber(fd, { major: 10, minor });
    host.link(`sys/dev/char/10:${minor}`, `${host.roots.sys}/devices/virtual/${device}`);
    host.file(`sys/devices/virtual/${device}/dev`, `10:${minor}`);
    return String(fd);
  };
  const containerFd = opened('vfio/vfio', 'misc/vfio', 196);
  const given = {
    'container-fd': containerFd,
    'group-fd': opened('vfio/26', 'vfio/26', 1),
    'cdev-fd': opened('vfio/devices/vfio3', 'x/vfio-dev/vfio3', 2),
    'iommufd-fd': opened('iommu', 'misc/iommu', 3),
  };
  return { containerFd, given };
}

test('a descriptor of another kind, or one that is in use, is refused and stays open', () => {
  using made = world();
  const { host, kernel, provider } = made;
  host.addPci({ address: NIC, driver: 'vfio-pci', group: 26 });
  host.addCdev(`sys/devices/pci0000:00/${NIC}`, 'vfio3', '511:3');
  kernel.addDevice({ name: NIC, group: 26, cdev: 'vfio3' });
  const { given } = descriptors(made);
  const wrong = (name: keyof typeof given, of: keyof typeof given) =>
    messageOf(() => provider.resolve(NIC, { [name]: given[of] }));
  expect(wrong('container-fd', 'group-fd')).toMatch(
    /^resolve on container .*EINVAL\n.*is 26: .*\/dev\/vfio\/vfio$/,
  );
  expect(wrong('group-fd', 'container-fd')).toMatch(
    /^resolve on group 26 .*EINVAL\n.*is vfio: .*\/dev\/vfio\/26$/,
  );
  expect(wrong('iommufd-fd', 'cdev-fd')).toMatch(/^resolve on iommufd .*EINVAL\n.*is vfio3: .*\/dev\/iommu$/);
  expect(wrong('cdev-fd', 'iommufd-fd')).toMatch(/EINVAL\n.*is iommu: .*\/dev\/vfio\/devices\/vfio3$/);
  expect(kernel.openFiles).toBe(4);
  using device = provider.resolve(NIC, { 'group-fd': given['group-fd'] });
  using group = provider.groups.openGroup(26);
  expect(messageOf(() => provider.resolve(NIC, { 'group-fd': given['group-fd'] }))).toMatch(
    /EBUSY\n.*has it/,
  );
  expect(messageOf(() => provider.resolve('fd:x', {}))).toMatch(/^resolve on fd:x: EINVAL/);
  group[Symbol.dispose]();
  device[Symbol.dispose]();
  expect(kernel.openFiles).toBe(3);
});

test('files that a parent process opened are used, and closed if nobody wants them', () => {
  using made = world();
  const { host, kernel, provider } = made;
  host.addPci({ address: NIC, driver: 'vfio-pci', group: 26 });
  host.addCdev(`sys/devices/pci0000:00/${NIC}`, 'vfio3', '511:3');
  kernel.addDevice({ name: NIC, group: 26, cdev: 'vfio3' });
  const { containerFd, given } = descriptors(made);
  const device = provider.resolve(NIC, given);
  kernel.removeNode(`${host.roots.dev}/vfio/vfio`);
  {
    using container = provider.groups.openContainer();
    expect(String(container.fd)).toBe(containerFd);
    using group = provider.groups.openGroup(26);
    group.setContainer(container);
    container.setIommu(VFIO_TYPE1v2_IOMMU);
    group.getDeviceFd(NIC)[Symbol.dispose]();
  }
  expect(kernel.openFiles).toBe(2); // cdev and iommufd wait
  device[Symbol.dispose]();
  expect(kernel.openFiles).toBe(0);
});

test('fd:N of a cdev is the device behind it', () => {
  using made = world();
  const { host, kernel, provider } = made;
  host.addPci({ address: NIC, driver: 'vfio-pci', group: 26 });
  host.addCdev(`sys/devices/pci0000:00/${NIC}`, 'vfio3', '511:3');
  kernel.addDevice({ name: NIC, group: 26, cdev: 'vfio3' });
  const { fd } = kernel.open(`${host.roots.dev}/vfio/devices/vfio3`);
  kernel.setDeviceNumber(fd, { major: 511, minor: 3 });
  using device = provider.resolve(`fd:${fd}`, {});
  expect(device).toMatchObject({ name: NIC, group: 26, cdev: 'vfio3' });
  using file = provider.cdevs.openCdev('vfio3');
  expect(file.fd).toBe(fd);
});

test('fd:N of a group is the one device in it, or the one that is chosen', () => {
  using made = world();
  const { host, kernel, provider } = made;
  host.addPci({ address: NIC, driver: 'vfio-pci', group: 26 });
  kernel.addDevice({ name: NIC, group: 26 });
  const { fd } = kernel.open(`${host.roots.dev}/vfio/26`);
  kernel.setDeviceNumber(fd, { major: 240, minor: 0 });
  host.link('sys/dev/char/240:0', `${host.roots.sys}/devices/virtual/vfio/26`);
  host.file('sys/devices/virtual/vfio/26/dev', '240:0');
  expect(provider.resolve(`fd:${fd}`, {}).name).toBe(NIC);
  host.addPci({ address: '0000:01:00.1', driver: 'vfio-pci', group: 26 });
  const second = kernel.install({ ioctl: () => 0 });
  kernel.setDeviceNumber(second, { major: 240, minor: 0 });
  expect(messageOf(() => provider.resolve(`fd:${second}`, {}))).toMatch(
    /ENODEV\n.*option device; with a vfio driver in group 26: 0000:01:00\.0, 0000:01:00\.1/,
  );
  const third = kernel.install({ ioctl: () => 0 });
  kernel.setDeviceNumber(third, { major: 240, minor: 0 });
  expect(provider.resolve(`fd:${third}`, { device: '01:00.1' }).name).toBe('0000:01:00.1');
});

test('a descriptor of something else is refused with what it is', () => {
  using made = world();
  made.kernel.setDeviceNumber(5, { major: 1, minor: 3 });
  made.host.file('sys/devices/virtual/mem/null/dev', '1:3');
  made.host.link('sys/dev/char/1:3', `${made.host.roots.sys}/devices/virtual/mem/null`);
  expect(messageOf(() => made.provider.resolve('fd:5', {}))).toMatch(
    /^resolve on fd 5: EINVAL\n.*it is null: it must be a cdev/,
  );
  expect(messageOf(() => made.provider.resolve('fd:6', {}))).toMatch(/^fstat on fd 6: EBADF/);
});
