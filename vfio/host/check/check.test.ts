import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { CheckWorld, NIC } from '../testing/check-world.js';
import { AUDIO, asUser } from '../testing/rule-rows.js';
import { checkHostDevices, isCheckable } from './check.js';
import { DEVICE_RULES, GROUP_RULES, HOST_RULES } from './rules.js';

test('a host that is right in all respects has no other verdict than ok', () => {
  using world = new CheckWorld();
  const { verdict, results } = world.check();
  expect(results.filter((result) => result.verdict !== 'ok')).toEqual([]);
  expect(verdict).toBe('ok');
  expect(results.map(({ subject, rule }) => `${subject} ${rule}`)).toEqual([
    'host kvm',
    'host interface',
    'host memory-lock',
    'host interrupt-remapping',
    `${NIC} device`,
    `${NIC} iommu`,
    `${NIC} driver`,
    `${NIC} power-state`,
    `${NIC} reset`,
    'group 26 viability',
    'group 26 reserved-ranges',
    'group 26 in-use',
    'group 26 nodes',
    'group 26 peers',
  ]);
});

test('a failure outweighs warnings, and a warning what is unknown', () => {
  using world = new CheckWorld();
  world.host.remove(world.nic('power_state'));
  expect(world.check().verdict).toBe('ok');
  world.host.addPci({ address: AUDIO, group: 26 });
  expect(world.check().verdict).toBe('warning');
  world.host.remove(world.nic('reset_method'));
  world.unload('vfio_iommu_type1');
  expect(world.check().verdict).toBe('fails');
});

test('a mediated device needs no IOMMU, no interrupt remapping and no locked memory', () => {
  using world = new CheckWorld();
  asUser(world, 0);
  world.host.file('proc/interrupts', '  2:  0  IO-APIC  2-edge  timer\n');
  world.host.addMdevParent('mtty', [{ type: 'mtty-2', name: 'Dual port serial', instances: 1 }]);
  world.devices({ address: 'mdev:mtty-2' });
  expect(world.check().results.map(({ rule, verdict }) => `${rule} ${verdict}`)).toEqual([
    'kvm ok',
    'device ok',
  ]);
});

test('docs/checks.md has a row for each rule, and no other', () => {
  const page = readFileSync(fileURLToPath(new URL('../../../docs/checks.md', import.meta.url)), 'utf8');
  const [, table = ''] = /\n\| rule \|.*\n\|[-|]+\n((?:\|.*\n)+)/.exec(page) ?? [];
  const listed = [...table.matchAll(/^\| `([\w-]+)` /gm)].map(([, name]) => name);
  expect(listed).toEqual([...HOST_RULES, ...DEVICE_RULES, ...GROUP_RULES].map(({ name }) => name));
});

test('what is no address of the host is refused', () => {
  expect(isCheckable('01:00.0')).toBe(true);
  expect(isCheckable('virtio-net')).toBe(false);
  expect(() => checkHostDevices({ devices: [{ address: 'virtio-net' }] })).toThrowError(
    /^'virtio-net' is neither a PCI address nor/,
  );
});

test('this machine itself can be checked', () => {
  const { results } = checkHostDevices({ devices: [{ address: '7fff:1f:1f.7' }] });
  expect(results.find(({ rule }) => rule === 'device')?.verdict).toBe('fails');
});
