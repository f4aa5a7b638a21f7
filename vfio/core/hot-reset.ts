/** VFIO_DEVICE_GET_PCI_HOT_RESET_INFO and VFIO_DEVICE_PCI_HOT_RESET of the core. After vfio_pci_core.c. */
import type { PciSlotReset } from '../driver.js';
import type { DependentDevice, HotResetInfo } from '../pci-hot-reset.js';
import type { GroupFile } from '../uapi.js';
import { vfioError } from '../vfio-error.js';
import { VfioDevice } from './device.js';
import type { VfioGroup } from './group.js';
import type { CoreRegistry } from './registry.js';
import { isResettable } from './slot-reset.js';
import type { Steps } from './steps.js';

/** Bytes of struct vfio_pci_hot_reset_info, and of one struct vfio_pci_dependent_device behind it. */
const INFO_BYTES = 12;
const DEPENDENT_BYTES = 8;

/** struct vfio_pci_dependent_device: an owned function without an id of its own, and one that is not owned. */
const VFIO_PCI_DEVID_OWNED = 0;
const VFIO_PCI_DEVID_NOT_OWNED = -1;

/** The slot or bus that a reset of the device affects. @throws SysError ENOTTY if it is not one of PCI; ENODEV */
function slotOf(call: string, { ops, name }: VfioDevice): PciSlotReset {
  if (ops.pci === undefined)
    throw vfioError(call, name, 'ENOTTY', 'its driver does not present it as one of PCI');
  if (ops.pci.slot === undefined)
    throw vfioError(call, name, 'ENODEV', 'neither its slot nor its bus can be reset');
  return ops.pci.slot;
}

function memberOf({ set }: VfioDevice, name: string): VfioDevice | undefined {
  for (const device of set.devices) if (device.name === name && device instanceof VfioDevice) return device;
  return undefined;
}

/** @see vfio_iommufd_get_dev_id */
function devidIn(context: object, device: VfioDevice): number {
  if (device.bound?.context === context) return device.bound.id;
  const others = [...device.group.devices.values()];
  const hasGroup = others.some(({ bound }) => bound?.context === context);
  return hasGroup ? VFIO_PCI_DEVID_OWNED : VFIO_PCI_DEVID_NOT_OWNED;
}

/**
 * The functions that a reset of the device's slot affects: by group, or by id for a device bound to an iommufd.
 * @param argsz the argument's field of that name
 * @throws SysError EINVAL if it is below the structure's size, ENOSPC if the list does not fit; ENODEV; ENOTTY; EPERM for
 *   a function without an IOMMU group
 * @see vfio_pci_ioctl_get_pci_hot_reset_info
 */
export function* hotResetInfo(device: VfioDevice, isCdev: boolean, argsz: number): Steps<HotResetInfo> {
  const call = 'VFIO_DEVICE_GET_PCI_HOT_RESET_INFO';
  if (device.ops.pci !== undefined && argsz < INFO_BYTES)
    throw vfioError(call, device.name, 'EINVAL', 'argsz is too small');
  const { functions } = slotOf(call, device);
  if (argsz < INFO_BYTES + functions.length * DEPENDENT_BYTES)
    throw vfioError(call, device.name, 'ENOSPC', `${functions.length} functions are affected`);
  using _held = yield* device.set.lock.acquire();
  const context = isCdev ? device.bound?.context : undefined;
  const devices = functions.map(({ name, group }): DependentDevice => {
    const member = memberOf(device, name);
    if (context !== undefined) {
      const devid = member === undefined ? VFIO_PCI_DEVID_NOT_OWNED : devidIn(context, member);
      return { address: name, devid, isOwned: devid !== VFIO_PCI_DEVID_NOT_OWNED };
    }
    const number = member?.group.number ?? group;
    if (number === undefined) throw vfioError(call, name, 'EPERM', 'the function has no IOMMU group');
    return { address: name, group: number };
  });
  if (context === undefined) return { devices };
  return { devices, isOwned: devices.every(({ isOwned }) => isOwned) };
}

/**
 * Resets the device's slot.
 * @param files proof that the caller owns all of it: the open groups; none for a device bound to an iommufd, which has
 *   to have all of it
 * @throws SysError EINVAL for files with a cdev or none with a group, more of them than functions, a file that is no
 *   group, and a function that is not owned or has no VFIO driver; EBADF for a file that is closed; ENODEV; ENOTTY; any
 *   error of the slot's reset
 * @see vfio_pci_ioctl_pci_hot_reset, vfio_pci_dev_set_hot_reset
 */
export function* hotReset(device: VfioDevice, isCdev: boolean, files: readonly GroupFile[]): Steps<void> {
  const call = 'VFIO_DEVICE_PCI_HOT_RESET';
  const fail = (hint: string) => vfioError(call, device.name, 'EINVAL', hint);
  if (device.ops.pci !== undefined && files.length > 0 === isCdev)
    throw fail(isCdev ? 'its iommufd is the proof: no groups' : 'the groups of all functions are needed');
  const slot = slotOf(call, device);
  if (files.length > slot.functions.length)
    throw fail(`${files.length} groups for ${slot.functions.length} functions`);
  const groups = files.map((file) => groupOf(call, device.registry, file));
  const { set, environment } = device;
  using _held = yield* set.lock.acquire();
  if (!isResettable(set, slot)) throw fail('a function of the slot has no VFIO driver');
  const context = device.bound?.context;
  for (const member of set.devices) {
    if (!(member instanceof VfioDevice)) continue;
    const isOwned =
      isCdev && context !== undefined
        ? devidIn(context, member) !== VFIO_PCI_DEVID_NOT_OWNED
        : groups.includes(member.group);
    if (!isOwned) throw fail(`the caller does not own ${member.name}`);
  }
  slot.reset();
  environment.log.event('hot_reset', { device: device.name });
}

/** The group behind a file. @throws SysError EBADF for one that is closed; EINVAL for one that is no group of this core */
function groupOf(call: string, registry: CoreRegistry, file: GroupFile): VfioGroup {
  if ('isOpen' in file && file.isOpen === false)
    throw vfioError(call, file.target, 'EBADF', 'the group file is closed');
  for (const group of registry.groups.values()) if (group.openedFile === file) return group;
  throw vfioError(call, file.target, 'EINVAL', 'it is not an open group of this core');
}
