import { expect, onTestFinished, test } from 'vitest';
import { hostProvider } from './provider.js';
import { FakeHost, FakeKernel } from './testing/index.js';

const [NIC, AUDIO, OTHER] = ['0000:01:00.0', '0000:01:00.1', '0000:02:00.0'] as const;
const bind = { bind: 'vfio-pci' };
const BOTH = [
  { address: NIC, options: bind },
  { address: AUDIO, options: bind },
] as const;

/** Two functions of one IOMMU group, and one of another, all with drivers of the host. */
function world() {
  const host = FakeHost.create();
  onTestFinished(() => host[Symbol.dispose]());
  host.addPci({ address: NIC, driver: 'e1000e', group: 26 });
  host.addPci({ address: AUDIO, driver: 'snd_hda_intel', group: 26 });
  host.addPci({ address: OTHER, driver: 'igb', group: 27 });
  const kernel = new FakeKernel(host.roots.dev);
  const provider = hostProvider({ system: kernel, sysfs: host.sysfs, roots: host.roots });
  const drivers = () => [NIC, AUDIO, OTHER].map((address) => host.sysfs.pciDevice(address).driver);
  return { host, provider, drivers };
}

const HOSTS = ['e1000e', 'snd_hda_intel', 'igb'];

test('functions of one group that option bind names are all bound before the first is resolved', () => {
  const { provider, drivers } = world();
  const preparation = provider.prepare?.(BOTH);
  expect(drivers()).toEqual(['vfio-pci', 'vfio-pci', 'igb']);
  const devices = BOTH.map(({ address, options }) => provider.resolve(address, options));
  preparation?.[Symbol.dispose]();
  expect(drivers()).toEqual(['vfio-pci', 'vfio-pci', 'igb']);
  expect(devices.map(({ group }) => group)).toEqual([26, 26]);
  for (const device of devices) device[Symbol.dispose]();
  expect(drivers()).toEqual(HOSTS);
});

test.each([
  ['first', 0],
  ['second', 1],
])('while one of two is left, the %s keeps its VFIO driver: the host’s would be refused', (_which, i) => {
  const { host, provider, drivers } = world();
  const preparation = provider.prepare?.(BOTH);
  const devices = BOTH.map(({ address, options }) => provider.resolve(address, options));
  preparation?.[Symbol.dispose]();
  devices[i]?.[Symbol.dispose]();
  expect(drivers()).toEqual(['vfio-pci', 'vfio-pci', 'igb']);
  devices[1 - i]?.[Symbol.dispose]();
  expect(drivers()).toEqual(HOSTS);
  // Last bound, first restored.
  expect(host.writes.filter((text) => /(e1000e|intel)\/bind=/.test(text))).toEqual([
    `bus/pci/drivers/snd_hda_intel/bind=${AUDIO}`,
    `bus/pci/drivers/e1000e/bind=${NIC}`,
  ]);
});

test('a function of another group is restored alone', () => {
  const { provider, drivers } = world();
  const preparation = provider.prepare?.([...BOTH, { address: OTHER, options: bind }]);
  const nic = provider.resolve(NIC, bind);
  const other = provider.resolve(OTHER, bind);
  preparation?.[Symbol.dispose]();
  expect(drivers()).toEqual(['vfio-pci', 'vfio-pci', 'vfio-pci']);
  other[Symbol.dispose]();
  expect(drivers()).toEqual(['vfio-pci', 'vfio-pci', 'igb']);
  nic[Symbol.dispose]();
  expect(drivers()).toEqual(HOSTS);
});

test('if one cannot be bound, those before it have their drivers again', () => {
  const { host, provider, drivers } = world();
  host.refuses.set(AUDIO, 'vfio-pci');
  expect(() => provider.prepare?.(BOTH)).toThrowError(/^bind on 0000:01:00\.1 to vfio-pci: ENODEV/);
  expect(drivers()).toEqual(HOSTS);
});

test('if nothing is resolved after the preparation, its end restores all', () => {
  const { provider, drivers } = world();
  const preparation = provider.prepare?.([...BOTH, { address: 'mdev:x', options: bind }, { address: OTHER }]);
  expect(drivers()).toEqual(['vfio-pci', 'vfio-pci', 'igb']);
  preparation?.[Symbol.dispose]();
  expect(drivers()).toEqual(HOSTS);
});

test('one that was with a VFIO driver before stays with it', () => {
  const { host, provider } = world();
  host.addPci({ address: '0000:03:00.0', driver: 'vfio-pci', group: 28 });
  provider.resolve('0000:03:00.0', bind)[Symbol.dispose]();
  expect(host.sysfs.pciDevice('0000:03:00.0').driver).toBe('vfio-pci');
  expect(host.writes).toEqual([]);
});
