import {
  type RegionInfo,
  VFIO_REGION_INFO_CAP_SPARSE_MMAP,
  VFIO_REGION_INFO_FLAG_CAPS,
  VFIO_REGION_INFO_FLAG_MMAP,
} from '../../vfio/uapi.js';

/** A region that cannot be mapped, so that each access to it is seen. */
export function withoutMmap<T extends Omit<RegionInfo, 'offset'>>(info: T): T {
  const capabilities = info.capabilities.filter(({ id }) => id !== VFIO_REGION_INFO_CAP_SPARSE_MMAP);
  const lost = VFIO_REGION_INFO_FLAG_MMAP | (capabilities.length === 0 ? VFIO_REGION_INFO_FLAG_CAPS : 0);
  return { ...info, flags: info.flags & ~lost, capabilities };
}
