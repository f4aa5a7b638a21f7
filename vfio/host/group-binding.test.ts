import { expect, test } from 'vitest';
import { bindPciFunction, restorePciBinding, unbindPciFunction } from './group-binding.js';
import { FakeHost } from './testing/index.js';

const BRIDGE = '0000:00:01.0';
const NIC = '0000:01:00.0';
const AUDIO = '0000:01:00.1';
const USB = '0000:01:00.2';

/** A group of a bridge, two functions with drivers of the host, and one without. */
function world(): FakeHost {
  const host = FakeHost.create();
  host.addPci({ address: BRIDGE, driver: 'pcieport', headerType: 1, class: '0x060400', group: 26 });
  host.addPci({ address: NIC, driver: 'e1000e', group: 26 });
  host.addPci({ address: AUDIO, driver: 'snd_hda_intel', group: 26 });
  host.addPci({ address: USB, naturalDriver: 'xhci_hcd', group: 26 });
  return host;
}

const drivers = (host: FakeHost) =>
  [BRIDGE, NIC, AUDIO, USB].map((address) => host.sysfs.pciDevice(address).driver);
const overrides = (host: FakeHost) =>
  [NIC, AUDIO, USB].map((address) => host.read(`sys/devices/pci0000:00/${address}/driver_override`).trim());
const BEFORE = ['pcieport', 'e1000e', 'snd_hda_intel', undefined];
const NO_OVERRIDES = ['(null)', '(null)', '(null)'];

const NONE = { driver: undefined, driverOverride: undefined };
const VFIO = { driver: 'vfio-pci', driverOverride: 'vfio-pci' };

test('a function is bound alone, and what it had is returned', () => {
  using host = world();
  expect(bindPciFunction(NIC, host)).toEqual([
    { address: NIC, before: { driver: 'e1000e', driverOverride: undefined }, after: VFIO },
  ]);
  expect(drivers(host)).toEqual(['pcieport', 'vfio-pci', 'snd_hda_intel', undefined]);
  expect(bindPciFunction(NIC, host)).toEqual([]);
});

test('a function with a driver of the host is bound while its group is in use for another one', () => {
  using host = world();
  bindPciFunction(AUDIO, host);
  host.addProcess(4711, 'qemu', ['dev/vfio/26']);
  bindPciFunction(NIC, host);
  expect(drivers(host)[1]).toBe('vfio-pci');
});

test('a group is bound whole, its bridges excepted, and what is bound already is left alone', () => {
  using host = world();
  bindPciFunction(USB, host);
  const changed = bindPciFunction(AUDIO, { ...host, isGroup: true });
  expect(changed.map(({ address, before }) => [address, before.driver])).toEqual([
    [AUDIO, 'snd_hda_intel'],
    [NIC, 'e1000e'],
  ]);
  expect(drivers(host)).toEqual(['pcieport', 'vfio-pci', 'vfio-pci', 'vfio-pci']);
});

test('the records restore what was before, in any order, and then there is nothing left to do', () => {
  using host = world();
  host.file(`sys/devices/pci0000:00/${AUDIO}/driver_override`, 'snd_hda_intel\n');
  const changed = bindPciFunction(NIC, { ...host, isGroup: true });
  for (const { address, before } of changed) restorePciBinding(address, before, host);
  expect(drivers(host)).toEqual(BEFORE);
  expect(overrides(host)).toEqual(['(null)', 'snd_hda_intel', '(null)']);
  host.writes.length = 0;
  for (const { address, before } of changed) expect(restorePciBinding(address, before, host)).toEqual([]);
  expect(host.writes).toEqual([]);
});

test('what is given back gets the driver that the kernel chooses', () => {
  using host = world();
  bindPciFunction(NIC, { ...host, isGroup: true });
  expect(unbindPciFunction(NIC, host)).toEqual([
    { address: NIC, before: VFIO, after: { driver: 'e1000e', driverOverride: undefined } },
  ]);
  expect(drivers(host)).toEqual(['pcieport', 'e1000e', 'vfio-pci', 'vfio-pci']);
  expect(unbindPciFunction(NIC, { ...host, isGroup: true }).map(({ after }) => after.driver)).toEqual([
    'snd_hda_intel',
    'xhci_hcd',
  ]);
  expect(overrides(host)).toEqual(NO_OVERRIDES);
});

test('a function for which the kernel has no driver is without one when it is given back', () => {
  using host = FakeHost.create();
  host.addPci({ address: NIC, group: 26 });
  bindPciFunction(NIC, host);
  expect(unbindPciFunction(NIC, host)).toEqual([{ address: NIC, before: VFIO, after: NONE }]);
});

test('a function of the host is not given back', () => {
  using host = world();
  expect(unbindPciFunction(NIC, host)).toEqual([]);
  expect(host.writes).toEqual([]);
});

test('a function behind no IOMMU is bound without a group', () => {
  using host = FakeHost.create();
  host.addPci({ address: NIC, driver: 'e1000e' });
  expect(bindPciFunction(NIC, { ...host, isGroup: true })).toHaveLength(1);
});

// Each write of binding AUDIO and NIC, in order; all that was done before it is undone.
test.each([
  [`${AUDIO}/driver_override`, 'EACCES'],
  ['snd_hda_intel/unbind', 'EIO'],
  ['bus/pci/drivers_probe', 'ENODEV'],
  [`${NIC}/driver_override`, 'EACCES'],
  ['e1000e/unbind', 'EPERM'],
] as const)('a group whose write to %s fails with %s is as it was before', (end, code) => {
  using host = world();
  host.failing.set(
    end
      .replace('snd_hda_intel/unbind', `${AUDIO}/driver/unbind`)
      .replace('e1000e/unbind', `${NIC}/driver/unbind`),
    code,
  );
  expect(() => bindPciFunction(AUDIO, { ...host, isGroup: true })).toThrowError(
    new RegExp(`^write on .*/(driver_override|unbind|drivers_probe) \\('.*'\\): ${code}$`),
  );
  expect(drivers(host)).toEqual(BEFORE);
  expect(overrides(host)).toEqual(NO_OVERRIDES);
});

test('a driver that refuses the second function leaves the first one with the driver it had', () => {
  using host = world();
  host.refuses.set(NIC, 'vfio-pci');
  expect(() => bindPciFunction(AUDIO, { ...host, isGroup: true })).toThrowError(
    /^bind on 0000:01:00\.0 to vfio-pci: ENODEV\n {2}hint: the driver refused it/,
  );
  expect(drivers(host)).toEqual(BEFORE);
  expect(overrides(host)).toEqual(NO_OVERRIDES);
});

test('a restore that fails leaves the function bound to vfio-pci', () => {
  using host = world();
  const [changed] = bindPciFunction(NIC, host);
  host.failing.set('e1000e/bind', 'ENODEV');
  expect(() => restorePciBinding(NIC, changed?.before ?? NONE, host)).toThrowError(
    /^write on .*\/drivers\/e1000e\/bind \('0000:01:00\.0'\): ENODEV/,
  );
  expect(drivers(host)[1]).toBe('vfio-pci');
  expect(overrides(host)[0]).toBe('vfio-pci');
});

test('if the way back fails as well, the sentence is of what failed first', () => {
  using host = world();
  host.failing.set('bus/pci/drivers_probe', 'EIO').set('e1000e/bind', 'EBUSY');
  expect(() => bindPciFunction(NIC, host)).toThrowError(/drivers_probe \('0000:01:00\.0'\): EIO$/);
});

test.each([
  ['unbound', (host: FakeHost) => unbindPciFunction(NIC, host), 'unbind'],
  ['restored', (host: FakeHost) => restorePciBinding(NIC, NONE, host), 'bind'],
])('a function that a process has open is not %s', (_what, act, call) => {
  using host = world();
  bindPciFunction(NIC, host);
  host.addProcess(411, 'qemu\u001b[2J', ['dev/vfio/26']);
  host.writes.length = 0;
  expect(() => act(host)).toThrowError(
    `${call} on ${NIC}: EBUSY\n  hint: held by process 411 (qemu\\x1b[2J): the kernel would wait until it is closed`,
  );
  expect(host.writes).toEqual([]);
});

test.each([
  ['a bridge', BRIDGE, 'vfio-pci', /^bind on 0000:00:01\.0: EINVAL\n {2}hint: it is a bridge/],
  ['a function that is not there', '0000:09:00.0', 'vfio-pci', /^find on PCI device 0000:09:00\.0: ENODEV/],
  ['a driver that is not loaded', NIC, 'mlx5_vfio_pci', /ENODEV\n {2}hint: .*modprobe mlx5_vfio_pci/],
  ['a driver’s name that is a path', NIC, '../devices', /^bind on 0000:01:00\.0 to \.\.\/devices: ENODEV/],
])('%s is refused before anything is written', (_what, address, driver, text) => {
  using host = world();
  expect(() => bindPciFunction(address, { ...host, driver })).toThrowError(text);
  expect(host.writes).toEqual([]);
});

test('a member that is no PCI function and blocks the group is named', () => {
  using host = world();
  const path = 'sys/devices/platform/uart.0';
  host.file(`${path}/x`, '');
  host.link(`${path}/driver`, '/sys/bus/platform/drivers/pl011');
  host.link(`${path}/subsystem`, '/sys/bus/platform');
  host.link('sys/kernel/iommu_groups/26/devices/uart.0', `${host.roots.sys}/devices/platform/uart.0`);
  expect(() => bindPciFunction(NIC, { ...host, isGroup: true })).toThrowError(
    'uart.0 (pl011) of group 26 is not a PCI function: unbind it first',
  );
  expect(host.writes).toEqual([]);
});
