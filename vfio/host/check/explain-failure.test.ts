import { expect, test } from 'vitest';
import { errno } from '../../../sys/errno.js';
import { SysError } from '../../../sys/error.js';
import { CheckWorld } from '../testing/check-world.js';
import { UUID, vf } from '../testing/rule-rows.js';
import { explainFailure } from './explain-failure.js';

const failure = (call: string, code: 'EINVAL' | 'EPERM' | 'EIO' | 'ENOMEM', hint?: string) =>
  new SysError({ call, target: '/dev/vfio/26', errno: errno[code], hint });

const REGIONS = 'sys/kernel/iommu_groups/26/reserved_regions';
const direct = ({ host }: CheckWorld) => host.file(REGIONS, '0xbdf6f000 0xbdf7efff direct\n');
const reserved = ({ host }: CheckWorld) => host.file(REGIONS, '0x1000 0x1fff reserved\n');
const dead = (world: CheckWorld) => world.host.file(world.nic('config'), new Uint8Array(64).fill(0xff));
const hostsVf = (world: CheckWorld) => vf(world, 'igb', { 'vf-token': UUID });
const unremapped = ({ host }: CheckWorld) =>
  host.file('proc/interrupts', '  2:  0  IO-APIC  2-edge  timer\n');

test.each([
  [
    'a direct map',
    direct,
    'VFIO_GROUP_SET_CONTAINER',
    'EINVAL',
    /hint: group 26: the firmware insists on its own DMA/,
  ],
  ['a direct map', direct, 'VFIO_DEVICE_BIND_IOMMUFD', 'EINVAL', /hint: group 26: the firmware insists/],
  [
    'a reserved range',
    reserved,
    'VFIO_IOMMU_MAP_DMA',
    'EINVAL',
    /hint: group 26: .*covers reserved addresses/,
  ],
  [
    'a dead device',
    dead,
    'VFIO_GROUP_GET_DEVICE_FD',
    'EIO',
    /hint: 0000:01:00\.0: it does not answer.*\n {4}fix:\n {6}echo 0 > \S+\/d3cold_allowed\n/,
  ],
  ['a dead device that could be opened', dead, 'read', 'EIO', /hint: 0000:01:00\.0: it does not answer/],
  [
    'a token for nobody',
    hostsVf,
    'VFIO_GROUP_GET_DEVICE_FD',
    'EINVAL',
    /hint: \S+: a token is given, and igb of the host has its physical function/,
  ],
  [
    'interrupts that are not remapped',
    unremapped,
    'VFIO_DEVICE_BIND_IOMMUFD',
    'EPERM',
    /hint: host: interrupts are not remapped/,
  ],
] as const)('the cause of a refusal is named: %s (%s)', (_what, spoil, call, code, message) => {
  using world = new CheckWorld();
  spoil(world);
  const error = failure(call, code, 'what the call says');
  const explained = explainFailure(error, world.request, world.parts) as SysError;
  expect(explained.message).toMatch(message);
  expect(explained.message).toMatch(/what the call says$/);
  expect(explained).toMatchObject({ call, code, target: '/dev/vfio/26' });
});

test.each([
  ['a call that it does not concern', direct, failure('VFIO_IOMMU_MAP_DMA', 'EINVAL')],
  ['an errno that it does not concern', reserved, failure('VFIO_IOMMU_MAP_DMA', 'ENOMEM')],
  ['a host that is right', () => {}, failure('VFIO_GROUP_SET_CONTAINER', 'EINVAL')],
  [
    'a token that is missing',
    (world: CheckWorld) => vf(world, 'vfio-pci'),
    failure('VFIO_GROUP_GET_DEVICE_FD', 'EIO'),
  ],
  ['a file that cannot be read, of a device that answers', () => {}, failure('read', 'EIO')],
  ['an error of another kind', direct, new Error('VFIO_GROUP_SET_CONTAINER')],
])('%s leaves the error as it is', (_what, spoil, error) => {
  using world = new CheckWorld();
  spoil(world);
  expect(explainFailure(error, world.request, world.parts)).toBe(error);
});
