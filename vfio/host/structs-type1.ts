/** linux/vfio.h for the container, /dev/vfio/vfio, with a type1 IOMMU. Rules as in structs.ts. */
import { io } from '../../sys/ioctl.js';
import { struct } from '../../sys/struct.js';
import { InfoCapHeader, VFIO_BASE, VFIO_TYPE } from './structs.js';

const VFIO = 'linux/vfio.h';

export const VFIO_GET_API_VERSION = io('VFIO_GET_API_VERSION', VFIO_TYPE, VFIO_BASE + 0, { hasResult: true });
export const VFIO_CHECK_EXTENSION = io('VFIO_CHECK_EXTENSION', VFIO_TYPE, VFIO_BASE + 1, { hasResult: true });
export const VFIO_SET_IOMMU = io('VFIO_SET_IOMMU', VFIO_TYPE, VFIO_BASE + 2, {
  hints: {
    EINVAL: 'put a group into the container first; it cannot be set twice',
    ENODEV:
      'no loaded IOMMU back-end takes these groups: modprobe vfio_iommu_type1 ' +
      '(a noiommu group takes VFIO_NOIOMMU_IOMMU, and nothing else)',
    EPERM:
      'the interrupts of these devices cannot be remapped, so a guest could send any interrupt to the host; to take ' +
      'that risk: echo 1 > /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts',
    EBUSY: 'a device of the group is in use by the host',
  },
});

export const Type1Info = struct('struct vfio_iommu_type1_info', VFIO, {
  argsz: 'u32',
  flags: 'u32',
  iova_pgsizes: 'u64',
  cap_offset: 'u32',
});
export const VFIO_IOMMU_INFO_PGSIZES = 1 << 0;
export const VFIO_IOMMU_INFO_CAPS = 1 << 1;
export const VFIO_IOMMU_GET_INFO = io('VFIO_IOMMU_GET_INFO', VFIO_TYPE, VFIO_BASE + 12, {
  hints: { EINVAL: 'set the container’s IOMMU first' },
});

export const VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE = 1;
export const VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION = 2;
export const VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL = 3;
/** First and last byte. */
export const IovaRange = struct('struct vfio_iova_range', VFIO, { start: 'u64', end: 'u64' });
/** Followed by `nr_iovas` {@link IovaRange}. */
export const CapIovaRange = struct('struct vfio_iommu_type1_info_cap_iova_range', VFIO, {
  header: InfoCapHeader,
  nr_iovas: 'u32',
  reserved: 'u32',
});
export const CapDmaAvail = struct('struct vfio_iommu_type1_info_dma_avail', VFIO, {
  header: InfoCapHeader,
  avail: 'u32',
});

export const DmaMapStruct = struct('struct vfio_iommu_type1_dma_map', VFIO, {
  argsz: 'u32',
  flags: 'u32',
  vaddr: 'u64',
  iova: 'u64',
  size: 'u64',
});
export const VFIO_IOMMU_MAP_DMA = io('VFIO_IOMMU_MAP_DMA', VFIO_TYPE, VFIO_BASE + 13, {
  hints: {
    EEXIST: 'the range overlaps a map',
    EINVAL: 'not a multiple of the page size, empty, or outside the IOVA ranges of VFIO_IOMMU_GET_INFO',
    EFAULT: 'the memory is not mapped in this process, or cannot be pinned',
    EPERM: 'the memory is read-only in this process, but the map allows the device to write it',
    ENOSPC:
      'as many maps as allowed exist; more: echo N > /sys/module/vfio_iommu_type1/parameters/dma_entry_limit, ' +
      'or fewer, larger maps',
  },
});

export const DmaUnmapStruct = struct('struct vfio_iommu_type1_dma_unmap', VFIO, {
  argsz: 'u32',
  flags: 'u32',
  iova: 'u64',
  size: 'u64',
});
export const VFIO_IOMMU_UNMAP_DMA = io('VFIO_IOMMU_UNMAP_DMA', VFIO_TYPE, VFIO_BASE + 14, {
  hints: { EINVAL: 'the range would split a map, is misaligned or wraps' },
});
