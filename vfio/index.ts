/** VFIO as a library: the seam, and the core that lives in this process. */
export { type CoreOptions, VfioCore } from './core/core.js';
export { type CoreOpenDevice, VFIO_DEVICE_RELEASE, VfioDevice } from './core/device.js';
export type { VfioFileOps } from './core/file-ops.js';
export { VFIO_GROUP_NOTIFY, VFIO_GROUP_NOTIFY_SET_KVM, VFIO_IOMMU_NOTIFY } from './core/group.js';
export { type DmaUnmapEvent, VFIO_IOMMU_NOTIFY_DMA_UNMAP } from './core/iommu-driver.js';
export { HostDevice, type IommuCapabilities, IommuGroup } from './core/iommu-group.js';
export type { Mdev } from './core/mdev.js';
export type { NotifierBlock } from './core/notifier.js';
export * from './core/ops.js';
export type { CorePorts } from './core/state.js';
export { Timeline, type TimelineEvent } from './timeline.js';
export * from './uapi.js';
