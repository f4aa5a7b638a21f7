import { join } from 'node:path';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { disposable, Scope } from '../../sys/scope.js';
import type { HostContext } from './context.js';
import { moduleState } from './kernel-modules.js';
import { type Sysfs, type SysfsDevice, text } from './sysfs.js';

/**
 * Binds a PCI function to a vfio driver with driver_override, which affects no other device of the same ID. Disposing
 * the result restores its driver and the override. Waits until the current driver has released the device.
 * @throws SysError ENODEV if the device or the driver does not exist, or if the driver refuses the device; its former
 *   driver is then bound again
 */
export function bindToDriver(
  { sysfs, roots }: Pick<HostContext, 'sysfs' | 'roots'>,
  address: string,
  driver = 'vfio-pci',
): Disposable {
  const before = sysfs.pciDevice(address);
  if (before.driver === driver) return disposable(() => {});
  if (!sysfs.exists('bus/pci/drivers', driver)) {
    const hint =
      moduleState(roots, driver) === 'absent'
        ? `this kernel was built without the driver (${configOption(driver)}): use one that has it`
        : `the driver is not loaded: modprobe ${driver}`;
    throw new SysError({ call: 'bind', target: `${address} to ${driver}`, errno: errno.ENODEV, hint });
  }
  using scope = new Scope();
  scope.defer(() => probe(sysfs, before));
  const override = join(before.path, 'driver_override');
  const formerOverride = text(override) ?? '';
  sysfs.write(override, driver);
  scope.defer(() => sysfs.write(override, formerOverride === '(null)' ? '\n' : `${formerOverride}\n`));
  release(sysfs, before);
  scope.defer(() => release(sysfs, sysfs.pciDevice(address)));
  sysfs.write(sysfs.path('bus/pci/drivers_probe'), address);
  const now = sysfs.pciDevice(address).driver;
  if (now !== driver) {
    const hint = `the driver refused it (its driver is now ${now ?? 'none'}): see dmesg`;
    throw new SysError({ call: 'bind', target: `${address} to ${driver}`, errno: errno.ENODEV, hint });
  }
  const owned = scope.move();
  return disposable(() => owned[Symbol.dispose]());
}

/** The kernel option of a driver; most are named after it. */
const configOption = (driver: string): string => `CONFIG_${driver.replaceAll('-', '_').toUpperCase()}`;

function release(sysfs: Sysfs, { path, driver, name }: SysfsDevice): void {
  if (driver !== undefined) sysfs.write(join(path, 'driver/unbind'), name);
}

/** Binds the former driver again; does nothing if the device had none, or no longer exists. */
function probe(sysfs: Sysfs, { driver, name }: SysfsDevice): void {
  if (driver === undefined || !sysfs.exists('bus/pci/devices', name)) return;
  sysfs.write(sysfs.path('bus/pci/drivers', driver, 'bind'), name);
}
