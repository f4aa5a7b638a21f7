/** Whether a device can be assigned as it is: the refusals that sysfs alone justifies, before anything is opened. */
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { HostContext } from './context.js';
import type { HostGroup, SysfsDevice } from './sysfs.js';
import { withoutType } from './vf-type.js';
import { boundToHost, checkViable } from './viability.js';

/** @throws SysError ENODEV without an IOMMU; EBUSY for a device of the host, or a VF for vGPUs without a type; EPERM for a group that is not viable */
export function checkUsable({ sysfs }: Pick<HostContext, 'sysfs'>, device: SysfsDevice): HostGroup {
  if (device.group === undefined) throw behindNoIommu(device);
  const group = sysfs.group(device.group);
  const untyped = withoutType(device);
  if (untyped !== undefined) throw untyped;
  if (!device.isVfio) throw device.isBridge ? isBridge(device) : boundToHost(sysfs, device);
  checkViable(sysfs, group);
  return group;
}

/** ENODEV for a device without an IOMMU group. */
export function behindNoIommu({ name }: SysfsDevice): SysError {
  const hint =
    'no IOMMU translates its DMA (no iommu_group link): enable VT-d or AMD-Vi in the firmware, and boot with ' +
    'intel_iommu=on (default on AMD); a virtual machine needs a virtual IOMMU';
  return new SysError({ call: 'attach', target: name, errno: errno.ENODEV, hint });
}

/** EINVAL for a PCI bridge. */
export function isBridge({ name }: SysfsDevice): SysError {
  const hint = 'it is a bridge: assign the functions on its secondary bus';
  return new SysError({ call: 'attach', target: name, errno: errno.EINVAL, hint });
}
