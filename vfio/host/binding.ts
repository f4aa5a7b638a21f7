import { join } from 'node:path';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { disposable, firstFailure, Scope } from '../../sys/scope.js';
import type { HostContext } from './context.js';
import { moduleState } from './kernel-modules.js';
import { requireUnmounted } from './mounts.js';
import type { HostRoots } from './roots.js';
import { type Sysfs, type SysfsDevice, text } from './sysfs.js';

/** What the functions of this file need of a host. */
export type BindingHost = Pick<HostContext, 'sysfs' | 'roots'>;

/** The drivers that a PCI function has and may have. */
export interface DriverBinding {
  /** Undefined if no driver is bound. */
  readonly driver: string | undefined;
  /** The only driver that may bind; undefined if any may. */
  readonly driverOverride: string | undefined;
}

/** The binding of a PCI function now. @throws SysError ENODEV if the function does not exist */
export function readBinding(sysfs: Sysfs, address: string): DriverBinding {
  const { driver, path } = sysfs.pciDevice(address);
  return { driver, driverOverride: driverOverride(path) };
}

/** The override of a PCI function; undefined if it has none. @param path its folder in sysfs */
export function driverOverride(path: string): string | undefined {
  const value = text(join(path, 'driver_override'));
  return value === '' || value === '(null)' ? undefined : value;
}

/**
 * Binds a PCI function to a vfio driver with driver_override, which affects no other device of the same ID. Disposing
 * the result restores its driver and the override. Waits until the current driver has released the device.
 * @throws SysError ENODEV if the device or the driver does not exist, or if the driver refuses the device; EBUSY if
 *   the host has a file system of it mounted. After an error it has its former driver
 */
export function bindToDriver(host: BindingHost, address: string, driver = 'vfio-pci'): Disposable {
  const device = host.sysfs.pciDevice(address);
  if (device.driver === driver) return disposable(() => {});
  requireUnmounted(host, 'bind', [device]);
  requireDriver(host, address, driver);
  return rebind(host.sysfs, address, driver, () => {
    host.sysfs.write(host.sysfs.path('bus/pci/drivers_probe'), address);
    const now = host.sysfs.pciDevice(address).driver;
    if (now === driver) return;
    const hint = `the driver refused it (its driver is now ${now ?? 'none'}): see dmesg`;
    throw new SysError({ call: 'bind', target: `${address} to ${driver}`, errno: errno.ENODEV, hint });
  });
}

/**
 * Makes a PCI function's binding what it was. Disposing the result undoes that.
 * @throws SysError ENODEV if the device or the driver does not exist; the driver's errno if it refuses the device; the
 *   function is then as it was before the call
 */
export function restoreBinding(host: BindingHost, address: string, binding: DriverBinding): Disposable {
  const { driver, driverOverride: override } = binding;
  const now = readBinding(host.sysfs, address);
  if (now.driver === driver && now.driverOverride === override) return disposable(() => {});
  if (driver === undefined) return rebind(host.sysfs, address, override, () => {});
  requireDriver(host, address, driver);
  return rebind(host.sysfs, address, override, () => {
    host.sysfs.write(host.sysfs.path('bus/pci/drivers', driver, 'bind'), address);
  });
}

/**
 * Gives a PCI function back to the host: clears its override, and lets the kernel choose its driver, which may be none.
 * Disposing the result undoes that.
 * @throws SysError ENODEV if the function does not exist; it is then as it was before the call
 */
export function releaseToHost({ sysfs }: BindingHost, address: string): Disposable {
  return rebind(sysfs, address, undefined, () => {
    sysfs.write(sysfs.path('bus/pci/drivers_probe'), address);
  });
}

/** Sets the override, releases the function from its driver, and lets `attach` bind the next one. Undone as a whole. */
function rebind(sysfs: Sysfs, address: string, override: string | undefined, attach: () => void): Disposable {
  const before = sysfs.pciDevice(address);
  const path = join(before.path, 'driver_override');
  const former = driverOverride(before.path);
  const isThere = () => sysfs.exists('bus/pci/devices', address);
  try {
    using scope = new Scope();
    scope.defer(() => {
      if (isThere()) bindAgain(sysfs, before);
    });
    sysfs.write(path, `${override ?? ''}\n`);
    scope.defer(() => {
      if (isThere()) sysfs.write(path, `${former ?? ''}\n`);
    });
    release(sysfs, before);
    scope.defer(() => {
      if (isThere()) release(sysfs, sysfs.pciDevice(address));
    });
    attach();
    const owned = scope.move();
    return disposable(() => owned[Symbol.dispose]());
  } catch (error) {
    throw firstFailure(error);
  }
}

/** @throws SysError ENODEV if no such driver is loaded */
function requireDriver(host: BindingHost, address: string, driver: string): void {
  if (!hasDriver(host.sysfs, driver)) throw missingDriver(host.roots, address, driver);
}

/** Whether a PCI driver of this name is loaded. */
export const hasDriver = (sysfs: Sysfs, driver: string): boolean =>
  /^[\w-]+$/.test(driver) && sysfs.exists('bus/pci/drivers', driver);

/** ENODEV for a driver that is not loaded, or that the kernel was built without. */
export function missingDriver(roots: HostRoots, address: string, driver: string): SysError {
  const hint =
    moduleState(roots, driver) === 'absent'
      ? `this kernel was built without the driver (${configOption(driver)}): use one that has it`
      : `the driver is not loaded: modprobe ${driver}`;
  return new SysError({ call: 'bind', target: `${address} to ${driver}`, errno: errno.ENODEV, hint });
}

/** The kernel option of a driver; most are named after it. */
export const configOption = (driver: string): string => `CONFIG_${driver.replaceAll('-', '_').toUpperCase()}`;

function release(sysfs: Sysfs, { path, driver, name }: SysfsDevice): void {
  if (driver !== undefined) sysfs.write(join(path, 'driver/unbind'), name);
}

/** Binds the former driver; does nothing if it had none, or has one, as when it was never released. */
function bindAgain(sysfs: Sysfs, { driver, name }: SysfsDevice): void {
  if (driver === undefined || sysfs.pciDevice(name).driver !== undefined) return;
  sysfs.write(sysfs.path('bus/pci/drivers', driver, 'bind'), name);
}
