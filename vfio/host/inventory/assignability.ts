/** Whether a PCI function can be assigned as it is. */
import { describeHolders, type Holder } from '../holders.js';
import type { SysfsDevice } from '../sysfs.js';
import type { VfTypesRecord } from '../vf-type.js';
import type { IommuGroupRecord } from './iommu-group.js';

/** The verdict on a PCI function, and the reason in a sentence. */
export interface Assignability {
  /**
   * - `ready`: a machine can have it now
   * - `in-use`: another process has it
   * - `needs-bind`: once it is bound to a VFIO driver
   * - `needs-group-bind`: once other members of its group are, too
   * - `needs-type`: once option `vgpu-type` gives it a type of vGPU
   * - `no-iommu`: no IOMMU translates its DMA
   * - `bridge`: bridges cannot be assigned
   */
  readonly state:
    | 'ready'
    | 'in-use'
    | 'needs-bind'
    | 'needs-group-bind'
    | 'needs-type'
    | 'no-iommu'
    | 'bridge';
  /** Why, as a sentence without its end. */
  readonly reason: string;
}

/** @param users processes that have its group or its cdev open */
export function assignability(
  device: SysfsDevice,
  group: IommuGroupRecord | undefined,
  users: readonly Holder[],
  vfTypes: VfTypesRecord | undefined,
): Assignability {
  const { driver, isVfio, isBridge } = device;
  if (isBridge) return { state: 'bridge', reason: 'bridges stay with the host' };
  if (group === undefined) return { state: 'no-iommu', reason: 'no IOMMU translates its DMA' };
  if (group.isNoiommu)
    return { state: 'no-iommu', reason: 'VFIO has it without an IOMMU: its DMA reaches all memory' };
  const others = group.members.filter(({ name, isBlocking }) => isBlocking && name !== device.name);
  if (others.length > 0) {
    const names = others.map((member) => `${member.name} (${member.driver})`).join(', ');
    return {
      state: 'needs-group-bind',
      reason: `group ${group.number} is not viable while the host uses ${names}`,
    };
  }
  if (vfTypes?.types?.current === 0)
    return {
      state: 'needs-type',
      reason: 'it is a VF for vGPUs without a type: vgpu-type=NAME gives it one',
    };
  if (!isVfio) {
    const reason = driver === undefined ? 'no driver has it' : `${driver} of the host has it`;
    return { state: 'needs-bind', reason };
  }
  if (users.length > 0) return { state: 'in-use', reason: describeHolders(users) };
  return { state: 'ready', reason: `${driver} has it, and group ${group.number} is viable` };
}
