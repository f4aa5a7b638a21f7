/** What attaching a device of the host ends in when one of the calls that it makes of the kernel fails. */

/** The calls that fail, as parseSystemFailures takes them, and the message; ADDRESS is the device's. */
export type Row = readonly [fails: string, says: RegExp];

/** The device is not attached, and the error is this. */
export const REFUSED: readonly Row[] = [
  ['VFIO_DEVICE_GET_INFO:EIO', /^VFIO_DEVICE_GET_INFO on ADDRESS: EIO/],
  ['VFIO_DEVICE_GET_REGION_INFO:EIO:1', /^VFIO_DEVICE_GET_REGION_INFO on ADDRESS: EIO/],
  ['VFIO_DEVICE_GET_IRQ_INFO:EIO', /^VFIO_DEVICE_GET_IRQ_INFO on ADDRESS: EIO/],
  [
    'VFIO_DEVICE_SET_IRQS:ENOSPC:1',
    /^VFIO_DEVICE_SET_IRQS on ADDRESS, irq index \d: ENOSPC\n {2}hint: the host has no interrupt vectors left/,
  ],
  ['VFIO_DEVICE_SET_IRQS:EBUSY:1', /^VFIO_DEVICE_SET_IRQS on ADDRESS, irq index \d: EBUSY/],
  [
    'VFIO_DEVICE_RESET:EAGAIN',
    /^VFIO_DEVICE_RESET on ADDRESS: EAGAIN\n {2}hint: the host holds the device’s lock/,
  ],
  [
    'VFIO_DEVICE_RESET:EIO+VFIO_DEVICE_PCI_HOT_RESET:ENOTTY',
    /^VFIO_DEVICE_RESET on ADDRESS: EIO\n {2}hint: it still has the state of its last user; no reset of its slot: VFIO_DEVICE_PCI_HOT_RESET on ADDRESS: ENOTTY/,
  ],
  [
    'pread:EIO',
    /^read on configuration space of .*ADDRESS.*: EIO\n {2}hint: it reads all-ones: the device was removed/,
  ],
];
export const REFUSED_BY = {
  group: [
    ['open:EMFILE:1', /^open on \/dev\/vfio\/vfio: EMFILE/],
    ['open:EBUSY:2', /^open on \/dev\/vfio\/\d+: EBUSY/],
    ['VFIO_GROUP_GET_STATUS:EIO', /^VFIO_GROUP_GET_STATUS on \/dev\/vfio\/\d+: EIO/],
    [
      'VFIO_GROUP_SET_CONTAINER:EBUSY',
      /^VFIO_GROUP_SET_CONTAINER on \/dev\/vfio\/\d+: EBUSY\n {2}hint: the group is in use/,
    ],
    [
      'VFIO_SET_IOMMU:EPERM',
      /^VFIO_SET_IOMMU on .*: EPERM\n {2}hint: the interrupts of these devices cannot be/,
    ],
    ['VFIO_IOMMU_MAP_DMA:ENOMEM', /^VFIO_IOMMU_MAP_DMA on .*: ENOMEM\n {2}hint: /],
    [
      'VFIO_IOMMU_MAP_DMA:ENOSPC',
      /^VFIO_IOMMU_MAP_DMA on .*: ENOSPC\n {2}hint: as many maps as allowed exist/,
    ],
    [
      'VFIO_GROUP_GET_DEVICE_FD:EBUSY',
      /^VFIO_GROUP_GET_DEVICE_FD on .*: EBUSY\n {2}hint: the device is in use/,
    ],
  ],
  iommufd: [
    ['open:EMFILE:1', /^open on \/dev\/iommu: EMFILE/],
    ['open:EBUSY:2', /^open on \/dev\/vfio\/devices\/vfio\d+: EBUSY/],
    ['IOMMU_IOAS_ALLOC:ENOMEM', /^IOMMU_IOAS_ALLOC on \/dev\/iommu: ENOMEM/],
    ['VFIO_DEVICE_BIND_IOMMUFD:EBUSY', /^VFIO_DEVICE_BIND_IOMMUFD on .*: EBUSY/],
    ['VFIO_DEVICE_ATTACH_IOMMUFD_PT:EINVAL', /^VFIO_DEVICE_ATTACH_IOMMUFD_PT on .*: EINVAL/],
    ['IOMMU_IOAS_MAP:ENOMEM', /^IOMMU_IOAS_MAP on .*: ENOMEM\n {2}hint: /],
    ['IOMMU_IOAS_MAP:EFAULT', /^IOMMU_IOAS_MAP on .*: EFAULT\n {2}hint: not memory that can be pinned/],
  ],
} as const satisfies Record<string, readonly Row[]>;
/** The device is attached nevertheless, and this is printed. */
export const BORNE: readonly Row[] = [
  ['VFIO_DEVICE_RESET:EIO', /it is reset with its slot instead: VFIO_DEVICE_RESET on ADDRESS: EIO/],
  ['VFIO_DEVICE_RESET:ENOTTY', /the device is reset with its slot: ADDRESS/],
  ['mmap:ENOMEM', /BAR2 1 MiB 64-bit prefetchable: 1 MiB trapped/],
];

/** The message for the device at an address. */
export const withAddress = ({ source, flags }: RegExp, address: string): RegExp =>
  new RegExp(source.replaceAll('ADDRESS', address), flags);
