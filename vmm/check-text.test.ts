import { expect, test } from 'vitest';
import { CheckWorld } from '../vfio/host/testing/check-world.js';
import { checkText } from './check-text.js';

const textOf = (world: CheckWorld): string =>
  checkText(world.check()).replaceAll(world.host.roots.sys.slice(0, -'/sys'.length), '');

test('a report has a section for the host, each device and each group, and a conclusion', () => {
  using world = new CheckWorld();
  const lines = textOf(world).split('\n');
  expect(lines.filter((line) => /^\S/.test(line))).toEqual([
    'host',
    '0000:01:00.0',
    'group 26',
    'they can be assigned: 14 ok',
  ]);
  expect(lines).toContain('  ok       reset: it can be reset alone (flr, bus)');
});

test('a rule that fails is shown with its reason, what it follows from, the commands, and what else there is', () => {
  using world = new CheckWorld();
  world.host.addPci({ address: '0000:01:00.1', driver: 'snd_hda_intel', group: 26 });
  expect(textOf(world)).toContain(`
  fails    viability: group 26 is not viable while the host uses 0000:01:00.1 (snd_hda_intel)
           why: a device of the host could read and write the guest’s memory through the same translations
           /sys/devices/pci0000:00/0000:01:00.0/driver: vfio-pci
           /sys/devices/pci0000:00/0000:01:00.1/driver: snd_hda_intel
           fix, as root:
             modprobe vfio-pci
             echo vfio-pci > /sys/bus/pci/devices/0000:01:00.1/driver_override
             echo 0000:01:00.1 > /sys/bus/pci/devices/0000:01:00.1/driver/unbind
             echo 0000:01:00.1 > /sys/bus/pci/drivers_probe
           or: tsvisor bind 0000:01:00.1
`);
  expect(textOf(world)).toMatch(/\nthey cannot be assigned as it is: 1 fails, \d+ ok$/);
});

test('a warning does not keep a device from being assigned', () => {
  using world = new CheckWorld();
  world.host.remove(world.nic('reset_method'));
  expect(textOf(world)).toMatch(/\nthey can be assigned, with the losses above: 1 warning, 13 ok$/);
});
