/** Two functions in one IOMMU group, as those of one card: in process, so that tests need no host with such a card. */
import { disposable, type Scope } from '../../sys/scope.js';
import type { VfioCore } from '../../vfio/core/core.js';
import type { VfioDevice } from '../../vfio/core/device.js';
import { HostDevice } from '../../vfio/core/iommu-group.js';
import type { VfioDeviceOps } from '../../vfio/driver.js';
import type { VfioProvider } from '../../vfio/provider.js';

/** Addresses of the two. */
export const PAIR = ['0000:0a:00.0', '0000:0a:00.1'] as const;

/** @param ops of each function; the caller owns what is behind them */
export function pairProvider(
  scope: Scope,
  core: VfioCore,
  ops: readonly [VfioDeviceOps, VfioDeviceOps],
): VfioProvider {
  const group = core.createIommuGroup();
  scope.defer(() => group.put());
  const devices = PAIR.map((address, i) => {
    const dev = new HostDevice(address);
    dev.driver = 'vfio-pci';
    core.run(group.addDevice(dev));
    scope.defer(() => core.run(group.removeDevice(dev)));
    core.addGroupDev(dev, ops[i] as VfioDeviceOps, undefined);
    scope.defer(() => core.run(core.delGroupDevSteps(dev)));
    return dev.drvdata as VfioDevice;
  });
  return {
    ...core.provider,
    name: 'pair',
    addresses: PAIR.join(' or '),
    matches: (address) => devices.some(({ name }) => name === address),
    resolve(address) {
      const { name, cdev } = devices.find((device) => device.name === address) as VfioDevice;
      const { number } = group;
      return { name, group: number, cdev, description: `function ${name}`, ...disposable(() => {}) };
    },
  };
}
