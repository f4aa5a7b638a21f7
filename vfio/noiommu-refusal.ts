import { errno } from '../sys/errno.js';
import { SysError } from '../sys/error.js';

/** EPERM for a device whose DMA nothing translates: guest addresses would select host memory. */
export function noiommuRefusal(name: string): SysError {
  const hint =
    'no IOMMU translates its DMA (enable_unsafe_noiommu_mode), so it would reach the host’s memory instead of the ' +
    'guest’s; that mode is for drivers in user space. Boot the host with an IOMMU: VT-d or AMD-Vi in the firmware, ' +
    'intel_iommu=on';
  return new SysError({ call: 'attach', target: name, errno: errno.EPERM, hint });
}
