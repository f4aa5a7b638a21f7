/** Binds PCI functions, alone or with their IOMMU group, for good: as driverctl does, with a record for the way back. */
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { firstFailure, Scope } from '../../sys/scope.js';
import {
  type BindingHost,
  bindToDriver,
  type DriverBinding,
  readBinding,
  releaseToHost,
  restoreBinding,
} from './binding.js';
import { deviceNodes, type HostContext, hostContext } from './context.js';
import { describeHolders, findHolders } from './holders.js';
import { requireUnmounted } from './mounts.js';
import type { HostGroup, SysfsDevice } from './sysfs.js';
import { blockingMembers } from './viability.js';

/** What was done to a PCI function's binding. */
export interface Rebinding {
  /** The function. */
  readonly address: string;
  /** What {@link restorePciBinding} takes to undo it. */
  readonly before: DriverBinding;
  /** Its binding now. */
  readonly after: DriverBinding;
}

/** How far {@link bindPciFunction} and {@link unbindPciFunction} go. */
export interface RebindOptions extends Partial<HostContext> {
  /** Whether all PCI functions of its IOMMU group are bound, bridges excepted. */
  readonly isGroup?: boolean;
}

/**
 * Binds a PCI function to a VFIO driver, until somebody binds it otherwise. Functions that have the driver are left alone.
 * Waits until the drivers have released them. If a step fails, all that was done is undone.
 * @returns what was changed
 * @throws SysError ENODEV if the function or the driver does not exist, or the driver refuses the function; EINVAL for a
 *   bridge, or if a member of the group is no PCI function and blocks it; EBUSY if a process has the group or the
 *   function open, or a file system of it is mounted; the errno of a write that fails
 */
export function bindPciFunction(
  address: string,
  options: RebindOptions & { /** `vfio-pci` if absent. */ readonly driver?: string } = {},
): Rebinding[] {
  const { driver = 'vfio-pci' } = options;
  const context = hostContext(options);
  const functions = functionsOf(context, address, options.isGroup ?? false).filter((each) =>
    options.isGroup ? !each.isVfio : each.driver !== driver,
  );
  return rebindAll(context, 'bind', functions, ({ name }) => bindToDriver(context, name, driver));
}

/**
 * Gives a PCI function back to the host: the kernel chooses its driver, which may be none. Functions that have no VFIO
 * driver and no override are left alone. If a step fails, all that was done is undone.
 * @returns what was changed
 * @throws SysError ENODEV if the function does not exist; EBUSY if a process has the group or the function open; the errno
 *   of a write that fails
 */
export function unbindPciFunction(address: string, options: RebindOptions = {}): Rebinding[] {
  const context = hostContext(options);
  const functions = functionsOf(context, address, options.isGroup ?? false).filter(
    ({ isVfio, name }) => isVfio || readBinding(context.sysfs, name).driverOverride !== undefined,
  );
  return rebindAll(context, 'unbind', functions, ({ name }) => releaseToHost(context, name));
}

/**
 * Makes a PCI function's binding what it was.
 * @returns what was changed: nothing, or the function's
 * @throws SysError ENODEV if the function or the driver does not exist; EBUSY if a process has it open; the driver's errno
 *   if it refuses the function, which then is as it was before the call
 */
export function restorePciBinding(
  address: string,
  binding: DriverBinding,
  options: Partial<HostContext> = {},
): Rebinding[] {
  const context = hostContext(options);
  return rebindAll(context, 'bind', functionsOf(context, address, false), ({ name }) =>
    restoreBinding(context, name, binding),
  );
}

/** The function, first, and if asked for the others of its group. */
function functionsOf({ sysfs }: BindingHost, address: string, isGroup: boolean): SysfsDevice[] {
  const device = sysfs.pciDevice(address);
  if (device.isBridge) {
    const hint = 'it is a bridge, and stays with the host: bind the functions on its secondary bus';
    throw new SysError({ call: 'bind', target: address, errno: errno.EINVAL, hint });
  }
  if (!isGroup || device.group === undefined) return [device];
  const group = sysfs.group(device.group);
  const stranger = blockingMembers(group).find(({ bus }) => bus !== 'pci');
  if (stranger !== undefined) {
    const hint = `${stranger.name} (${stranger.driver}) of group ${group.number} is not a PCI function: unbind it first`;
    throw new SysError({ call: 'bind', target: address, errno: errno.EINVAL, hint });
  }
  const others = group.members.filter(
    ({ bus, isBridge, name }) => bus === 'pci' && !isBridge && name !== address,
  );
  return [device, ...others];
}

function rebindAll(
  context: HostContext,
  call: string,
  functions: readonly SysfsDevice[],
  rebind: (device: SysfsDevice) => Disposable,
): Rebinding[] {
  const { sysfs } = context;
  for (const device of functions) requireUnused(context, call, device);
  requireUnmounted(context, call, functions);
  const before = functions.map(({ name }) => readBinding(sysfs, name));
  try {
    using scope = new Scope();
    for (const device of functions) scope.own(rebind(device));
    const after = functions.map(({ name }) => readBinding(sysfs, name));
    scope.move(); // it stays so
    return functions
      .map(({ name: address }, i) => ({
        address,
        before: before[i] as DriverBinding,
        after: after[i] as DriverBinding,
      }))
      .filter((each) => !isSame(each.before, each.after));
  } catch (error) {
    throw firstFailure(error);
  }
}

const isSame = (a: DriverBinding, b: DriverBinding): boolean =>
  a.driver === b.driver && a.driverOverride === b.driverOverride;

/** A kernel would wait for the user, and so would we. @throws SysError EBUSY naming the processes that have it open */
export function requireUnused(context: HostContext, call: string, device: SysfsDevice): void {
  if (!device.isVfio) return;
  const group: HostGroup | undefined =
    device.group === undefined ? undefined : context.sysfs.group(device.group);
  const holders = findHolders(context.roots, deviceNodes(context, device, group));
  if (holders.length === 0) return;
  const hint = `${describeHolders(holders)}: the kernel would wait until it is closed`;
  throw new SysError({ call, target: device.name, errno: errno.EBUSY, hint });
}
