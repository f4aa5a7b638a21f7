/** linux/iommufd.h: address spaces of /dev/iommu. The whole header is newer than Debian 12’s (6.1). */
import { io } from '../../sys/ioctl.js';
import { struct } from '../../sys/struct.js';

const IOMMUFD = 'linux/iommufd.h';
const since = '6.2';

export const IOMMUFD_TYPE = 0x3b; // ';'
export const IOMMUFD_CMD_BASE = 0x80;

export const IommuDestroy = struct('struct iommu_destroy', IOMMUFD, { size: 'u32', id: 'u32' }, { since });
export const IOMMU_DESTROY = io('IOMMU_DESTROY', IOMMUFD_TYPE, IOMMUFD_CMD_BASE, {
  since,
  hints: { ENOENT: 'there is no such object', EBUSY: 'a device is attached to it' },
});

export const IoasAlloc = struct(
  'struct iommu_ioas_alloc',
  IOMMUFD,
  { size: 'u32', flags: 'u32', out_ioas_id: 'u32' },
  { since },
);
export const IOMMU_IOAS_ALLOC = io('IOMMU_IOAS_ALLOC', IOMMUFD_TYPE, IOMMUFD_CMD_BASE + 1, { since });

export const IommuIovaRange = struct(
  'struct iommu_iova_range',
  IOMMUFD,
  { start: 'u64', last: 'u64' },
  { since },
);
export const IoasIovaRanges = struct(
  'struct iommu_ioas_iova_ranges',
  IOMMUFD,
  {
    size: 'u32',
    ioas_id: 'u32',
    num_iovas: 'u32',
    __reserved: 'u32',
    allowed_iovas: 'u64',
    out_iova_alignment: 'u64',
  },
  { since },
);
export const IOMMU_IOAS_IOVA_RANGES = io('IOMMU_IOAS_IOVA_RANGES', IOMMUFD_TYPE, IOMMUFD_CMD_BASE + 4, {
  since,
  hints: { ENOENT: 'there is no such address space' },
});

export const IoasMap = struct(
  'struct iommu_ioas_map',
  IOMMUFD,
  {
    size: 'u32',
    flags: 'u32',
    ioas_id: 'u32',
    __reserved: 'u32',
    user_va: 'u64',
    length: 'u64',
    iova: 'u64',
  },
  { since },
);
export const IOMMU_IOAS_MAP_FIXED_IOVA = 1 << 0;
export const IOMMU_IOAS_MAP_WRITEABLE = 1 << 1;
export const IOMMU_IOAS_MAP_READABLE = 1 << 2;
export const IOMMU_IOAS_MAP = io('IOMMU_IOAS_MAP', IOMMUFD_TYPE, IOMMUFD_CMD_BASE + 5, {
  since,
  hints: {
    EEXIST: 'the range overlaps a map',
    EADDRINUSE: 'the range overlaps a map',
    EINVAL: 'not a multiple of the page size, empty, or outside the ranges of IOMMU_IOAS_IOVA_RANGES',
    EFAULT: 'not memory that can be pinned: iommufd does not map the BAR of another device by its address',
    ENOENT: 'there is no such address space',
    ENOSPC: 'no free range of that size',
  },
});

export const IoasUnmap = struct(
  'struct iommu_ioas_unmap',
  IOMMUFD,
  { size: 'u32', ioas_id: 'u32', iova: 'u64', length: 'u64' },
  { since },
);
export const IOMMU_IOAS_UNMAP = io('IOMMU_IOAS_UNMAP', IOMMUFD_TYPE, IOMMUFD_CMD_BASE + 6, {
  since,
  hints: { ENOENT: 'nothing is mapped there, or the range would split a map' },
});
