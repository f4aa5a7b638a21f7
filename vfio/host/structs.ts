/**
 * linux/vfio.h: structures and requests of groups and devices, under their C names. Those of the container are in
 * structs-type1.ts, those of /dev/iommu in structs-iommufd.ts. `structs.test.ts` compares every row with the header. A
 * structure that has grown is declared in its newest form; `argsz` tells the kernel how much of it is used.
 */
import { io } from '../../sys/ioctl.js';
import { struct } from '../../sys/struct.js';

const VFIO = 'linux/vfio.h';

export const VFIO_TYPE = 0x3b; // ';'
export const VFIO_BASE = 100;

// --- group file: /dev/vfio/N ---

export const GroupStatus = struct('struct vfio_group_status', VFIO, { argsz: 'u32', flags: 'u32' });
export const VFIO_GROUP_GET_STATUS = io('VFIO_GROUP_GET_STATUS', VFIO_TYPE, VFIO_BASE + 3);

/** Takes the container's descriptor as an s32. */
export const VFIO_GROUP_SET_CONTAINER = io('VFIO_GROUP_SET_CONTAINER', VFIO_TYPE, VFIO_BASE + 4, {
  hints: {
    EINVAL: 'the group is in a container already, or this is no container',
    EBUSY: 'the group is in use by another process',
    EPERM:
      'groups with and without an IOMMU (noiommu) cannot share a container; a noiommu group needs CAP_SYS_RAWIO; ' +
      'a device whose interrupts cannot be remapped needs vfio_iommu_type1.allow_unsafe_interrupts=1',
  },
});
export const VFIO_GROUP_UNSET_CONTAINER = io('VFIO_GROUP_UNSET_CONTAINER', VFIO_TYPE, VFIO_BASE + 5, {
  hints: { EINVAL: 'the group is in no container', EBUSY: 'close the devices of the group first' },
});

/** Takes a string: the device's name, and perhaps ` vf_token=UUID`. */
export const VFIO_GROUP_GET_DEVICE_FD = io('VFIO_GROUP_GET_DEVICE_FD', VFIO_TYPE, VFIO_BASE + 6, {
  hasResult: true,
  hints: {
    EINVAL:
      'put the group into a container and set its IOMMU first; with vf-token: the device is no VF of a function in user space',
    ENODEV: 'the group has no such device, or it is not bound to a vfio driver',
    EACCES: 'a VF whose PF is in user space needs that PF’s token: option vf-token=UUID',
    EPERM: 'a device without an IOMMU needs CAP_SYS_RAWIO',
    EBUSY: 'the device is in use',
    EIO: 'the device does not answer: it may be in a power state it cannot leave, or be broken',
  },
});

// --- device file ---

/** 24 bytes with the padding added in 6.6; older kernels fill in 20 of them. */
export const DeviceInfo = struct(
  'struct vfio_device_info',
  VFIO,
  { argsz: 'u32', flags: 'u32', num_regions: 'u32', num_irqs: 'u32', cap_offset: 'u32', pad: 'u32' },
  { since: '6.6' },
);
export const VFIO_DEVICE_GET_INFO = io('VFIO_DEVICE_GET_INFO', VFIO_TYPE, VFIO_BASE + 7, {
  hints: { EINVAL: 'a device opened by its cdev has to be bound to an iommufd first' },
});

/** The header of every capability. */
export const InfoCapHeader = struct('struct vfio_info_cap_header', VFIO, {
  id: 'u16',
  version: 'u16',
  next: 'u32',
});

export const RegionInfoStruct = struct('struct vfio_region_info', VFIO, {
  argsz: 'u32',
  flags: 'u32',
  index: 'u32',
  cap_offset: 'u32',
  size: 'u64',
  offset: 'u64',
});
export const VFIO_DEVICE_GET_REGION_INFO = io('VFIO_DEVICE_GET_REGION_INFO', VFIO_TYPE, VFIO_BASE + 8, {
  hints: { EINVAL: 'there is no such region' },
});
export const SparseMmapArea = struct('struct vfio_region_sparse_mmap_area', VFIO, {
  offset: 'u64',
  size: 'u64',
});
/** Followed by `nr_areas` {@link SparseMmapArea}. */
export const CapSparseMmap = struct('struct vfio_region_info_cap_sparse_mmap', VFIO, {
  header: InfoCapHeader,
  nr_areas: 'u32',
  reserved: 'u32',
});
export const CapType = struct('struct vfio_region_info_cap_type', VFIO, {
  header: InfoCapHeader,
  type: 'u32',
  subtype: 'u32',
});

export const IrqInfoStruct = struct('struct vfio_irq_info', VFIO, {
  argsz: 'u32',
  flags: 'u32',
  index: 'u32',
  count: 'u32',
});
export const VFIO_DEVICE_GET_IRQ_INFO = io('VFIO_DEVICE_GET_IRQ_INFO', VFIO_TYPE, VFIO_BASE + 9, {
  hints: { EINVAL: 'there is no such interrupt index' },
});

/** Followed by the data: u8 for DATA_BOOL, s32 for DATA_EVENTFD. */
export const IrqSetStruct = struct('struct vfio_irq_set', VFIO, {
  argsz: 'u32',
  flags: 'u32',
  index: 'u32',
  start: 'u32',
  count: 'u32',
});
export const VFIO_DEVICE_SET_IRQS = io('VFIO_DEVICE_SET_IRQS', VFIO_TYPE, VFIO_BASE + 10, {
  hasResult: true,
  hints: {
    EINVAL: 'flags, range or data do not fit this interrupt index, or another index is in use',
    EBADF: 'an eventfd in the data is closed',
    EBUSY: 'the host’s interrupt line cannot be shared',
    ENOTTY: 'the device does not support this action for its interrupts',
    ENOSPC: 'the host has no interrupt vectors left',
  },
});

export const VFIO_DEVICE_RESET = io('VFIO_DEVICE_RESET', VFIO_TYPE, VFIO_BASE + 11, {
  hints: {
    ENOTTY: 'the device has no reset of its own',
    EINVAL: 'the device has no reset of its own',
    EAGAIN:
      'the host holds the device’s lock: it is unbinding, removing or resetting the device itself. Nothing is wrong with ' +
      'the device; if it stays in use, try again',
  },
});

/** In a reply with VFIO_PCI_HOT_RESET_FLAG_DEV_ID, `group_id` is the device's id in the iommufd. */
export const PciDependentDevice = struct('struct vfio_pci_dependent_device', VFIO, {
  group_id: 'u32',
  segment: 'u16',
  bus: 'u8',
  devfn: 'u8',
});
/** Followed by `count` {@link PciDependentDevice}. */
export const PciHotResetInfo = struct('struct vfio_pci_hot_reset_info', VFIO, {
  argsz: 'u32',
  flags: 'u32',
  count: 'u32',
});
export const VFIO_PCI_HOT_RESET_FLAG_DEV_ID = 1 << 0;
export const VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED = 1 << 1;
export const VFIO_PCI_DEVID_OWNED = 0;
export const VFIO_PCI_DEVID_NOT_OWNED = -1;
export const VFIO_DEVICE_GET_PCI_HOT_RESET_INFO = io(
  'VFIO_DEVICE_GET_PCI_HOT_RESET_INFO',
  VFIO_TYPE,
  VFIO_BASE + 12,
  { hints: { ENODEV: 'neither the slot nor the bus of the device can be reset' } },
);
/** Followed by `count` group descriptors, s32. */
export const PciHotReset = struct('struct vfio_pci_hot_reset', VFIO, {
  argsz: 'u32',
  flags: 'u32',
  count: 'u32',
});
export const VFIO_DEVICE_PCI_HOT_RESET = io('VFIO_DEVICE_PCI_HOT_RESET', VFIO_TYPE, VFIO_BASE + 13, {
  hints: {
    EINVAL: 'a group that the reset affects is missing: see VFIO_DEVICE_GET_PCI_HOT_RESET_INFO',
    EPERM: 'this process does not own a device that the reset affects',
    ENOTTY: 'the reset was tried and failed: the link did not come back, or the bridge cannot do it',
    ENODEV: 'neither the slot nor the bus of the device can be reset',
  },
});

/** Its last field is a union with `dmabuf_id`. */
export const GfxPlaneInfoStruct = struct('struct vfio_device_gfx_plane_info', VFIO, {
  argsz: 'u32',
  flags: 'u32',
  drm_plane_type: 'u32',
  drm_format: 'u32',
  drm_format_mod: 'u64',
  width: 'u32',
  height: 'u32',
  stride: 'u32',
  size: 'u32',
  x_pos: 'u32',
  y_pos: 'u32',
  x_hot: 'u32',
  y_hot: 'u32',
  region_index: 'u32',
});
export const VFIO_DEVICE_QUERY_GFX_PLANE = io('VFIO_DEVICE_QUERY_GFX_PLANE', VFIO_TYPE, VFIO_BASE + 14, {
  hints: {
    ENOTTY: 'the device is not a display, or cannot be captured',
    EINVAL: 'the device has no planes of this type: it shows from a region or from dma-bufs, not from both',
  },
});

/** Takes the dma-buf's id as a u32, and returns a descriptor. */
export const VFIO_DEVICE_GET_GFX_DMABUF = io('VFIO_DEVICE_GET_GFX_DMABUF', VFIO_TYPE, VFIO_BASE + 15, {
  hasResult: true,
  hints: {
    ENOTTY: 'the device is not a display, or has no dma-bufs',
    EINVAL: 'the device has no such dma-buf any more: query its plane again',
  },
});

/** Followed by the feature's data. */
export const DeviceFeature = struct('struct vfio_device_feature', VFIO, { argsz: 'u32', flags: 'u32' });
export const VFIO_DEVICE_FEATURE = io('VFIO_DEVICE_FEATURE', VFIO_TYPE, VFIO_BASE + 17, {
  hints: {
    ENOTTY: 'the device, or this kernel, does not have the feature',
    EINVAL: 'the feature does not support this operation',
  },
});

// --- device file, opened by its cdev: /dev/vfio/devices/vfioN ---

/** The token since 6.18; without it `argsz` ends before it. */
export const BindIommufd = struct(
  'struct vfio_device_bind_iommufd',
  VFIO,
  { argsz: 'u32', flags: 'u32', iommufd: 's32', out_devid: 'u32', token_uuid_ptr: 'u64' },
  { since: '6.18' },
);
export const VFIO_DEVICE_BIND_FLAG_TOKEN = 1 << 0;
export const VFIO_DEVICE_BIND_IOMMUFD = io('VFIO_DEVICE_BIND_IOMMUFD', VFIO_TYPE, VFIO_BASE + 18, {
  since: '6.6',
  hints: {
    EINVAL: 'it is already bound, this is no iommufd, or the device has no use for a VF token',
    EBUSY: 'the device, or another of its group, is open through the group file',
    EACCES: 'a VF whose PF is in user space needs that PF’s token: option vf-token=UUID',
    EPERM:
      'another device of its group belongs to the host or to another iommufd, ' +
      'or the interrupts cannot be remapped (iommufd.allow_unsafe_interrupts=1 takes that risk)',
    EBADF: 'the iommufd is closed',
  },
});

/** The PASID since 6.15; without it `argsz` ends before it. */
export const AttachIommufdPt = struct(
  'struct vfio_device_attach_iommufd_pt',
  VFIO,
  { argsz: 'u32', flags: 'u32', pt_id: 'u32', pasid: 'u32' },
  { since: '6.15' },
);
export const VFIO_DEVICE_ATTACH_IOMMUFD_PT = io('VFIO_DEVICE_ATTACH_IOMMUFD_PT', VFIO_TYPE, VFIO_BASE + 19, {
  since: '6.6',
  hints: {
    EINVAL: 'the device cannot use this address space: its maps may lie in ranges the device reserves',
    ENOENT: 'there is no such address space',
    EBUSY: 'the device is being reset',
  },
});

/** The PASID since 6.15. */
export const DetachIommufdPt = struct(
  'struct vfio_device_detach_iommufd_pt',
  VFIO,
  { argsz: 'u32', flags: 'u32', pasid: 'u32' },
  { since: '6.15' },
);
export const VFIO_DEVICE_DETACH_IOMMUFD_PT = io('VFIO_DEVICE_DETACH_IOMMUFD_PT', VFIO_TYPE, VFIO_BASE + 20, {
  since: '6.6',
});
