/** The commands that show and change what the host has, on made-up hosts. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { PciNames } from '../vfio/host/inventory/index.js';
import { FakeHost } from '../vfio/host/testing/index.js';
import './assign/built-ins.js'; // here, and not within a test's time
import { bind, unbind } from './cli-bind.js';
import { devices } from './cli-devices.js';
import { mdev } from './cli-mdev.js';
import { types } from './cli-types.js';
import { tsvisor } from './testing/machines.js';
import { collect } from './testing/written.js';

const NIC = '0000:01:00.0';
const AUDIO = '0000:01:00.1';
const VF = '0000:01:10.0';
const UUID = '83b8f4f2-509f-382f-3c1e-e6bfe0fa1001';
const NAMES = new PciNames('8086  Intel Corporation\n\t10d3  82574L\nC 02  Network controller\n');
const VFIO = { driver: 'vfio-pci', driverOverride: 'vfio-pci' };

/** What a command prints. */
function printed(run: (out: ReturnType<typeof collect>['out']) => number): string {
  const { out, text } = collect();
  expect(run(out)).toBe(0);
  return text();
}

/** A host with a function in each state. */
function world(): FakeHost {
  const host = FakeHost.create();
  host.addPci({
    address: '0000:00:01.0',
    driver: 'pcieport',
    headerType: 1,
    class: '0x060400',
    group: 1,
    id: '8086:1901',
  });
  host.addPci({ address: '0000:00:02.0', driver: 'vfio-pci', group: 2 });
  host.addPci({ address: '0000:00:03.0', driver: 'vfio-pci', group: 3, id: '1234:5678' });
  host.addPci({ address: '0000:00:04.0', driver: 'e1000e', attributes: { 'net/eth0/mtu': '1500\n' } });
  host.addPci({ address: NIC, driver: 'vfio-pci', group: 26 });
  host.addPci({ address: AUDIO, driver: 'snd_hda_intel', group: 26 });
  host.addProcess(411, 'qemu', ['dev/vfio/3']);
  return host;
}

test('devices: a line for each function, and those that can be assigned are told', () => {
  using host = world();
  const text = printed((out) => devices([], out, { ...host, names: NAMES }));
  expect(text.split('\n').map((line) => line.replace(/ {2,}/g, '|'))).toEqual([
    'ADDRESS|STATE|GROUP|DRIVER|DEVICE',
    '0000:00:01.0|bridge|1|pcieport|Intel Corporation [8086:1901]',
    '0000:00:02.0|ready|2|vfio-pci|Intel Corporation 82574L',
    '0000:00:03.0|in use|3|vfio-pci|[1234:5678]',
    '0000:00:04.0|no IOMMU|-|e1000e|Intel Corporation 82574L (net/eth0)',
    '0000:01:00.0|bind group|26|vfio-pci|Intel Corporation 82574L',
    '0000:01:00.1|bind|26|snd_hda_intel|Intel Corporation 82574L',
    '',
  ]);
});

test('devices: a host without an IOMMU is told so, and so is one without PCI', () => {
  using host = FakeHost.create();
  expect(printed((out) => devices([], out, host))).toBe(
    'This host has no PCI functions: there is nothing in /sys/bus/pci/devices.\n',
  );
  host.addPci({ address: NIC, driver: 'e1000e' });
  expect(printed((out) => devices([], out, host))).toMatch(
    /no IOMMU.*\n\nThis host uses no IOMMU, so that no/,
  );
});

test('devices: a user who may not see all users is told that', () => {
  using host = world();
  host.file('proc/8/fd', '');
  expect(printed((out) => devices([], out, host))).toMatch(
    /\n\nThis user may not see what all processes have/,
  );
});

test('devices ADDRESS: all that is known, a line for each', () => {
  using host = FakeHost.create();
  host.addPci({
    address: NIC,
    driver: 'igb',
    group: 26,
    virtfns: [VF],
    resetMethods: 'flr bus',
    numaNode: 0,
    attributes: {
      driver_override: 'igb\n',
      revision: '0x01\n',
      subsystem_vendor: '0x103c\n',
      subsystem_device: '0x1497\n',
      resource:
        '0x0000380000000000 0x00003800ffffffff 0x000000000014220c\n' +
        '0x0000000000000000 0x0000000000000000 0x0000000000000000\n' +
        '0x000000000000c000 0x000000000000c01f 0x0000000020040101\n'.padEnd(
          57 * 4,
          '0x0000000000000000 0x0000000000000000 0x0000000000000000\n',
        ) +
        '0x00000000feb80000 0x00000000febbffff 0x0000000000046200\n',
      sriov_totalvfs: '7\n',
      sriov_numvfs: '1\n',
      sriov_drivers_autoprobe: '0\n',
      power_state: 'D0\n',
      d3cold_allowed: '1\n',
      boot_vga: '1\n',
      'net/eth0/mtu': '1500\n',
    },
  });
  host.addPci({ address: AUDIO, driver: 'snd_hda_intel', group: 26 });
  host.file('sys/kernel/iommu_groups/26/reserved_regions', '0x00000000fee00000 0x00000000feefffff msi\n');
  host.addMdevParent(NIC, [{ type: 'igb-1', name: 'a queue', instances: 3 }]);
  const text = printed((out) => devices([NIC], out, { ...host, names: NAMES }));
  expect(text).toBe(`0000:01:00.0
  vendor           Intel Corporation [8086]
  device           82574L [10d3], revision 01
  card             [103c:1497]
  class            Network controller [020000]
  state            bind group: group 26 is not viable while the host uses 0000:01:00.1 (snd_hda_intel)
  driver           igb
  driver_override  igb
  host name        net/eth0
  group            26, not viable
                     0000:01:00.0: igb of the host has it, which holds the group back
                     0000:01:00.1: snd_hda_intel of the host has it, which holds the group back
  reserved         0xfee00000 to 0xfeefffff, msi
  reset            flr, bus
  BAR 0            4 GiB at 0x380000000000, memory, 64-bit, prefetchable
  BAR 2            32 bytes at no address, I/O ports
  ROM              256 KiB at 0xfeb80000, memory, prefetchable
  interrupts       none
  SR-IOV           1 of 7 VFs, no driver is bound to new ones
  VFs              0000:01:10.0
  mdev type        igb-1 (a queue), 3 available
  NUMA node        0
  power            D0, D3cold allowed
  display          the firmware's, which may be the host's console
`);
});

test('devices ADDRESS: a VF in use, which cannot be reset, and whose vectors only root may read', () => {
  using host = FakeHost.create();
  const config = new Uint8Array(64);
  config.set([0x86, 0x80], 0);
  config[6] = 0x10;
  config[0x34] = 0x40;
  config[0x3d] = 2;
  host.addPci({ address: VF, driver: 'vfio-pci', group: 27, physfn: NIC, cdev: 'vfio3', config });
  host.addProcess(411, 'qemu', ['dev/vfio/devices/vfio3']);
  const text = printed((out) => devices(['01:10.0'], out, { ...host, names: NAMES }));
  expect(text).toMatch(/^ {2}state +in use: held by process 411 \(qemu\)$/m);
  expect(text).toMatch(/^ {2}reset +none: it keeps its state/m);
  expect(text).toMatch(/^ {2}interrupts +INTB, MSI and MSI-X unknown: only root may read them$/m);
  expect(text).toMatch(/^ {2}SR-IOV +VF of 0000:01:00\.0$/m);
  expect(text).toMatch(/^ {2}cdev +\/dev\/vfio\/devices\/vfio3$/m);
  expect(text).toMatch(/^ {2}used by +process 411 \(qemu\)$/m);
});

test('devices --json: the library’s records', () => {
  using host = world();
  const all = JSON.parse(printed((out) => devices(['--json'], out, host)));
  expect(all.functions).toHaveLength(6);
  const one = JSON.parse(printed((out) => devices([NIC, '--json'], out, host)));
  expect(one).toEqual(all.functions[4]);
  expect(one).toMatchObject({ address: NIC, assignability: { state: 'needs-group-bind' } });
});

test('an address without a device is ENODEV', () => {
  using host = world();
  expect(() => devices(['0000:09:00.0'], collect().out, host)).toThrowError('0000:09:00.0: ENODEV');
});

// A name with an escape sequence, a line break, and a character that turns the direction of writing.
const NASTY = 'evil\u001b[2J\u009b\n\u202e';

test('no command prints a control character of sysfs, /proc or pci.ids', async () => {
  using host = world();
  host.addPci({
    address: VF,
    driver: 'vfio-pci',
    group: 27,
    attributes: { power_state: `x${NASTY}y`, driver_override: NASTY },
  });
  host.addProcess(412, NASTY, ['dev/vfio/27']);
  host.addMdevParent('mtty', [{ type: `a${NASTY.replace('\n', '')}b`, name: `x${NASTY}y`, instances: 3 }]);
  const type = host.sysfs.path('class/mdev_bus/mtty/mdev_supported_types', `a${NASTY.replace('\n', '')}b`);
  host.sysfs.write(join(type, 'create'), UUID);
  writeFileSync(join(type, 'description'), `first\nsec${NASTY}ond\n`);
  const names = new PciNames(`8086  Intel${NASTY.replace('\n', '')}\n`);
  const { out, text } = collect();
  for (const args of [[], [VF], ['--json'], [VF, '--json']]) devices(args, out, { ...host, names });
  for (const args of [[], ['--json']]) await types(args, out, host);
  for (const args of [[], ['--json']]) mdev('mdev list', args, out, host);
  const found = text();
  expect(found.match(/evil/g)?.length).toBeGreaterThan(20);
  expect(found.replaceAll('\n', '')).not.toMatch(/[\p{Cc}\p{Cf}]/u);
});

test('types: those of this process with their options, and the kernel’s with their instances', async () => {
  using host = FakeHost.create();
  const { out, text } = collect();
  expect(await types([], out, host)).toBe(0);
  expect(text()).toMatch(/^ {2}virtio-net: network card, virtio 1\.x/m);
  expect(text()).toMatch(/^ {6}mtu=BYTES +longest IP packet, 68 to 65535, by default 1500$/m);
  expect(text()).toMatch(/^ {6}port1=loopback\|pty\|unix:PATH {2}what port 1 is connected to/m);
  expect(text()).toMatch(/^ {6}xres=PIXELS {2}width of the preferred mode, by default 3840$/m);
  expect(text()).toMatch(/By the kernel: none, as no driver of the host offers mediated devices\.\n$/);
  host.addMdevParent('mtty', [{ type: 'mtty-2', name: 'Dual port serial', instances: 12 }]);
  mdev('mdev create', ['mtty-2', '--uuid', UUID], out, host);
  await types([], out, host);
  expect(text()).toMatch(
    / {2}mtty-2 of mtty: Dual port serial\n {6}vfio-pci, 11 available\n {6}instance 83b8f4f2/,
  );
});

test('types --plugin: the types of a plug-in, told as its own', () => {
  const folder = mkdtempSync(join(tmpdir(), 'types-'));
  try {
    const path = join(folder, 'card.mjs');
    writeFileSync(
      path,
      `const options = [{ name: 'speed', value: 'N', description: 'how fast' }];
       const types = [{ name: 'card-1', description: 'a card', deviceApi: 'vfio-pci', maxInstances: 4, options },
         { name: 'card-2', description: 'another', deviceApi: 'vfio-pci', maxInstances: 1 }];
       export const plugin = { name: 'cards', vendorDrivers: [{ name: 'card', types, create() {} }] };`,
    );
    const { process: ours } = JSON.parse(tsvisor(['types', '--plugin', path, '--json']).stdout);
    expect(ours.filter(({ plugin }: { plugin?: string }) => plugin === 'cards')).toEqual([
      {
        name: 'card-1',
        description: 'a card',
        deviceApi: 'vfio-pci',
        maxInstances: 4,
        options: [{ name: 'speed', value: 'N', description: 'how fast' }],
        driver: 'card',
        plugin: 'cards',
      },
      {
        name: 'card-2',
        description: 'another',
        deviceApi: 'vfio-pci',
        maxInstances: 1,
        driver: 'card',
        plugin: 'cards',
      },
    ]);
    expect(tsvisor(['types', '--plugin', path]).stdout).toMatch(
      / {2}card-1: a card\n {6}vfio-pci, at most 4, of plug-in cards\n {6}speed=N {2}how fast\n/,
    );
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('types and devices: VFs for vGPUs, with the types that each could have', async () => {
  using host = FakeHost.create();
  const name = `NVIDIA L40S-8Q${NASTY.replace('\n', '')}`;
  const vfs = { '0000:41:00.4': 91, '0000:41:00.5': 92 };
  host.addVgpuCard({ address: '0000:41:00.0', memory: 8, types: [{ id: 1148, name, memory: 8 }], vfs });
  host.sysfs.write(host.sysfs.path('bus/pci/devices/0000:41:00.4/nvidia/current_vgpu_type'), '1148\n');
  const { out, text } = collect();
  await types([], out, host);
  expect(text()).toMatch(
    /By VFs of the host \(--device ADDRESS,vgpu-type=NAME\):\n\n {2}0000:41:00\.4, VF of 0000:41:00\.0, with type 1148\n/,
  );
  host.sysfs.write(host.sysfs.path('bus/pci/devices/0000:41:00.4/nvidia/current_vgpu_type'), '0\n');
  await types([], out, host);
  expect(text()).toMatch(/0000:41:00\.5, VF of 0000:41:00\.0, without a type\n {6}1148 {2}NVIDIA L40S-8Q/);
  devices([], out, host);
  expect(text()).toMatch(/^0000:41:00\.5 {2}vGPU type {2}92 {5}nvidia/m);
  devices(['0000:41:00.5'], out, host);
  expect(text()).toMatch(/ {2}vGPU type +none\n +1148: NVIDIA L40S-8Q/);
  expect(text().replaceAll('\n', '')).not.toMatch(/[\p{Cc}\p{Cf}]/u);
});

test('types: the cards that vGPUs are parts of, with the instances that each could have and a plug-in’s placement', () => {
  const folder = mkdtempSync(join(tmpdir(), 'types-'));
  try {
    const path = join(folder, 'placement.mjs');
    writeFileSync(
      path,
      `const place = (size, { taken }) => (taken.length > 0 ? 'there is one' : 0);
       export const plugin = { name: 'placements', vgpuPlacements: [{ name: 'only-one', place }] };`,
    );
    const cards = ['--vgpu-card', 'a,memory=128M,engines=6', '--vgpu-card', 'b,placement=only-one'];
    const { stdout } = tsvisor(['types', ...cards, '--plugin', path]);
    expect(stdout).toMatch(/^ {2}vgpu-half: half of a display card, with 64 or 128 MiB, bochs-display /m);
    expect(stdout).toMatch(
      / {2}a of vgpu: 128 MiB video memory, 128 MiB left; 6 engines, 6 left; placement mixed-size\n {6}vgpu-small {4}6 available\n/,
    );
    expect(stdout).toMatch(/ {2}b of vgpu: 256 .*placement only-one\n {6}vgpu-small {4}1 available\n/);
    expect(stdout).toMatch(/^ {2}vgpu-small: .*\n {6}vfio-pci, at most 7$/m);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('types --plugin: an option that is no option is the plug-in’s mistake', () => {
  const folder = mkdtempSync(join(tmpdir(), 'types-'));
  try {
    const path = join(folder, 'card.mjs');
    writeFileSync(
      path,
      `const types = [{ name: 'c', description: '', deviceApi: '', maxInstances: 4, options: [{ name: 1 }] }];
       export const plugin = { name: 'cards', vendorDrivers: [{ name: 'card', types, create() {} }] };`,
    );
    const { stderr, status } = tsvisor(['types', '--plugin', path]);
    expect(stderr).toContain(
      'types[0].options[0]: name has to be a string, value has to be a string, description has to be a string',
    );
    expect(status).toBe(64);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('mdev: one is created, listed and removed', () => {
  using host = FakeHost.create();
  host.addMdevParent('mtty', [{ type: 'mtty-2', name: 'Dual port serial', instances: 12 }]);
  expect(printed((out) => mdev('mdev list', [], out, host))).toMatch(/^There are no mediated devices/);
  const create = ['mtty-2', '--parent', 'mtty', '--uuid', UUID.toUpperCase()];
  expect(printed((out) => mdev('mdev create', create, out, host))).toBe(`${UUID}\n`);
  expect(printed((out) => mdev('mdev list', [], out, host))).toBe(
    `UUID                                  TYPE    PARENT  GROUP  DRIVER     USED BY
${UUID}  mtty-2  mtty    100    vfio_mdev\n`,
  );
  expect(printed((out) => mdev('mdev remove', [UUID.toUpperCase()], out, host))).toBe('');
  expect(JSON.parse(printed((out) => mdev('mdev list', ['--json'], out, host)))).toEqual([]);
  const { uuid } = JSON.parse(printed((out) => mdev('mdev create', ['mtty-2', '--json'], out, host)));
  expect(JSON.parse(printed((out) => mdev('mdev remove', [uuid, '--json'], out, host)))).toEqual({ uuid });
});

test('mdev create: a type that nobody offers is refused with those that there are', () => {
  using host = FakeHost.create();
  host.addMdevParent('mtty', [{ type: 'mtty-2', name: 'Dual port serial', instances: 12 }]);
  expect(() => mdev('mdev create', ['mtty-9'], collect().out, host)).toThrowError(
    /ENODEV\n {2}hint: the types are: mtty-2 of mtty$/,
  );
});

test('bind prints what restores, and that restores it', () => {
  using host = world();
  const text = printed((out) => bind([NIC, '--group'], out, host));
  expect(text).toBe(
    `${AUDIO}: snd_hda_intel -> vfio-pci\nundo: tsvisor unbind ${AUDIO} --driver snd_hda_intel\n`,
  );
  const [, address = '', ...rest] = (text.split('undo: tsvisor ')[1] ?? '').trim().split(' ');
  expect(printed((out) => unbind([address, ...rest], out, host))).toBe(
    `${AUDIO}: vfio-pci -> snd_hda_intel\nundo: tsvisor unbind ${AUDIO} --driver vfio-pci --override vfio-pci\n`,
  );
  expect(printed((out) => bind([NIC], out, host))).toBe('nothing to do: it has a VFIO driver already\n');
});

test('bind --json has each function before and after, and the commands that undo it, last first', () => {
  using host = FakeHost.create();
  host.addPci({ address: NIC, driver: 'e1000e', group: 26 });
  host.addPci({ address: AUDIO, group: 26, attributes: { driver_override: 'none-such\n' } });
  expect(JSON.parse(printed((out) => bind(['01:00.0', '--group', '--json'], out, host)))).toEqual({
    rebound: [
      { address: NIC, before: { driver: 'e1000e' }, after: VFIO },
      { address: AUDIO, before: { driverOverride: 'none-such' }, after: VFIO },
    ],
    undo: [
      `tsvisor unbind ${AUDIO} --driver none --override none-such`,
      `tsvisor unbind ${NIC} --driver e1000e`,
    ],
  });
});

test('unbind lets the kernel choose, for the group as well', () => {
  using host = world();
  bind([NIC, '--group'], collect().out, host);
  expect(printed((out) => unbind([NIC, '--group'], out, host))).toContain(
    `${AUDIO}: vfio-pci -> snd_hda_intel\n`,
  );
  expect(printed((out) => unbind([AUDIO], out, host))).toBe('nothing to do: it is with the host already\n');
});
