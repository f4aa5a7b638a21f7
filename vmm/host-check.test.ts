import { expect, test } from 'vitest';
import { errno } from '../sys/errno.js';
import { SysError } from '../sys/error.js';
import { hostProvider } from '../vfio/host/index.js';
import { CheckWorld, limits, MIB, NIC, status } from '../vfio/host/testing/check-world.js';
import type { VfioProvider } from '../vfio/provider.js';
import { explained, refuseHopeless } from './host-check.js';

const device = (address: string, how: 'group' | 'iommufd' = 'group') =>
  ({ address, options: {}, interface: how }) as const;

const host = ({ host: { roots, sysfs } }: CheckWorld) => hostProvider({ roots, sysfs });

/** A provider of a plug-in that takes the same addresses. */
const other = { name: 'other', addresses: '', matches: () => true } as unknown as VfioProvider;

test('a machine whose devices certainly fail is refused; what another provider has is not looked at', () => {
  using world = new CheckWorld();
  const machine = { devices: [device('0000:09:00.0')], memory: 64n << 20n };
  expect(() => refuseHopeless([host(world)], machine)).toThrowError(
    /^find on PCI device 0000:09:00\.0: ENODEV/,
  );
  refuseHopeless([other, host(world)], machine);
  refuseHopeless([host(world)], { ...machine, devices: [device(NIC), device('fd:7')] });
  refuseHopeless([host(world)], { ...machine, devices: [] });
});

test('the memory that has to be locked is the machine’s, in its layout', () => {
  using world = new CheckWorld();
  world.host.file('proc/self/limits', limits(3072 * MIB, 3072 * MIB));
  world.host.file('proc/self/status', status('user'));
  const machine = { devices: [device(NIC)], memory: 3n << 30n };
  refuseHopeless([host(world)], machine);
  expect(() => refuseHopeless([host(world)], { ...machine, memory: (3n << 30n) + 4096n })).toThrowError(
    /^VFIO_IOMMU_MAP_DMA on \S+, IOVA 0x100000000-0x100000fff: ENOMEM/,
  );
});

test('a failure that no rule explains stays as it is', () => {
  const error = new SysError({ call: 'VFIO_DEVICE_RESET', target: NIC, errno: errno.EINVAL });
  expect(explained(error, { devices: [device(NIC)], memory: 4096n })).toBe(error);
});
