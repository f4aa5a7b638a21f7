/** What is refused before anything is opened has the words of the call that would fail. */
import { expect, test } from 'vitest';
import { hostProvider } from '../provider.js';
import { CheckWorld, limits, MIB, NIC, status } from '../testing/check-world.js';
import { FakeKernel } from '../testing/index.js';
import { certainRefusal } from './check.js';

const AUDIO = '0000:01:00.1';

function messageOf(body: () => unknown): string | undefined {
  try {
    body();
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}

const toHost = (world: CheckWorld): void =>
  world.host.link(world.nic('driver'), `${world.host.roots.sys}/bus/pci/drivers/e1000e`);

test.each<[string, (world: CheckWorld) => void, RegExp]>([
  [
    'a missing device',
    (world) => world.devices({ address: '09:00.0' }),
    /^find on PCI device 0000:09:00\.0: ENODEV/,
  ],
  [
    'a device behind no IOMMU',
    (world) => world.host.remove(world.nic('iommu_group')),
    /^attach on 0000:01:00\.0: ENODEV\n {2}hint: no IOMMU translates its DMA/,
  ],
  [
    'a device of the host',
    (world) => {
      toHost(world);
      world.host.remove(world.nic('vfio-dev'));
    },
    /^attach on 0000:01:00\.0: EBUSY\n {2}hint: the host uses it \(driver e1000e\)/,
  ],
  [
    'a bridge',
    (world) => {
      world.host.addPci({ address: '0000:00:1c.0', driver: 'pcieport', group: 4, headerType: 1 });
      world.devices({ address: '0000:00:1c.0' });
    },
    /^attach on 0000:00:1c\.0: EINVAL\n.*bridge/,
  ],
  [
    'a driver that is not loaded',
    (world) => {
      toHost(world);
      world.host.remove(world.nic('vfio-dev'));
      world.devices({ address: NIC, options: { bind: 'mlx5_vfio_pci' } });
    },
    /^bind on 0000:01:00\.0 to mlx5_vfio_pci: ENODEV\n/,
  ],
  [
    'a group that is not viable',
    (world) => world.host.addPci({ address: AUDIO, driver: 'snd_hda_intel', group: 26 }),
    /^VFIO_GROUP_GET_STATUS on \/dev\/vfio\/26: EPERM\n.*uses 0000:01:00\.1 \(snd_hda_intel\)/,
  ],
])('%s is refused in the provider’s own words', (_what, spoil, message) => {
  using world = new CheckWorld();
  spoil(world);
  const { roots, sysfs } = world.host;
  const refusal = certainRefusal(world.request, world.parts);
  expect(refusal?.message).toMatch(message);
  const provider = hostProvider({ system: new FakeKernel(roots.dev), sysfs, roots });
  const [device] = world.request.devices;
  expect(messageOf(() => provider.resolve(device?.address ?? '', device?.options ?? {}))).toBe(
    refusal?.message,
  );
});

test('a device without an IOMMU that VFIO has all the same is refused as by attaching it', () => {
  using world = new CheckWorld();
  world.host.file('sys/class/vfio/noiommu-26/dev', '237:0\n');
  expect(certainRefusal(world.request, world.parts)?.message).toMatch(
    /^attach on 0000:01:00\.0: EPERM\n {2}hint: no IOMMU translates its DMA \(enable_unsafe_noiommu_mode\)/,
  );
});

test.each([
  ['group', /^VFIO_IOMMU_MAP_DMA on \S+vfio\/vfio, IOVA 0x0-0x7ffffff: ENOMEM\n/],
  ['iommufd', /^IOMMU_IOAS_MAP on \S+iommu, IOVA 0x0-0x7ffffff: ENOMEM\n/],
] as const)('a guest that may not be locked is refused with need, limit and remedy (%s)', (how, message) => {
  using world = new CheckWorld();
  world.host.file('proc/self/limits', limits(64 * MIB, 64 * MIB));
  world.host.file('proc/self/status', status('user'));
  world.request = { devices: [{ address: NIC, interface: how }], memory: [{ base: 0n, bytes: 128n << 20n }] };
  const refusal = certainRefusal(world.request, world.parts);
  expect(refusal?.message).toMatch(message);
  expect(refusal?.message).toMatch(/128 MiB are needed .*RLIMIT_MEMLOCK is 64 MiB/);
  expect(refusal?.message).toMatch(/--memlock=134217728 \(as root\)/);
});

test('what the process has locked counts for its group, and not for the user’s iommufd', () => {
  using world = new CheckWorld();
  world.host.file('proc/self/limits', limits(192 * MIB, 192 * MIB));
  world.host.file('proc/self/status', status('user', { locked: 128 << 10 }));
  const refusal = (how: 'group' | 'iommufd') => {
    world.request = {
      devices: [{ address: NIC, interface: how }],
      memory: [{ base: 0n, bytes: 128n << 20n }],
    };
    return certainRefusal(world.request, world.parts)?.call;
  };
  expect(refusal('group')).toBe('VFIO_IOMMU_MAP_DMA');
  expect(refusal('iommufd')).toBeUndefined();
});

test('a device without memory rules, as a mediated one is, does not hide the next one’s refusal', () => {
  using world = new CheckWorld();
  world.devices({ address: 'mdev:mtty-2' }, { address: '09:00.0' });
  expect(certainRefusal(world.request, world.parts)?.target).toBe('PCI device 0000:09:00.0');
});

test('the range that is named is the first that does not fit, and the need is that of all', () => {
  using world = new CheckWorld();
  world.host.file('proc/self/limits', limits(3072 * MIB, 3072 * MIB));
  world.host.file('proc/self/status', status('user'));
  const memory = [
    { base: 0n, bytes: 3n << 30n },
    { base: 4n << 30n, bytes: 1n << 30n },
  ];
  world.request = { ...world.request, memory };
  expect(certainRefusal(world.request, world.parts)?.message).toMatch(
    /IOVA 0x100000000-0x13fffffff: ENOMEM\n.* 4096 MiB are needed/,
  );
});

test.each<[string, (world: CheckWorld) => void]>([
  ['nothing', () => {}],
  ['a file that may not be opened', (world) => world.nodes.add(world.dev('vfio/26'), '237:26', 'EACCES')],
  ['a file that is missing', (world) => world.nodes.remove(world.dev('vfio/26'))],
  ['a missing /dev/kvm', (world) => world.nodes.remove(world.dev('kvm'))],
  ['another user of the group', (world) => world.host.addProcess(4711, 'qemu', ['dev/vfio/26'])],
  [
    'a device that does not answer',
    (world) => world.host.file(world.nic('config'), new Uint8Array(64).fill(0xff)),
  ],
  [
    'interrupts that are not remapped',
    ({ host }) => host.file('proc/interrupts', ' 2: 0 IO-APIC 2-edge timer\n'),
  ],
  [
    'a direct map',
    ({ host }) => host.file('sys/kernel/iommu_groups/26/reserved_regions', '0xbdf6f000 0xbdf7efff direct\n'),
  ],
  ['type1 that is not loaded', (world) => world.unload('vfio_iommu_type1')],
  ['limits that do not show', (world) => world.host.remove('proc/self')],
])('%s is left to the kernel', (_what, spoil) => {
  using world = new CheckWorld();
  spoil(world);
  expect(certainRefusal(world.request, world.parts)).toBeUndefined();
});
