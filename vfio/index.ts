/**
 * VFIO as a library: the uAPI as TypeScript interfaces, and a VFIO core that runs in this process.
 * @module
 */

export { type Iova, iova } from '../sys/address.js';
export { SysError, type SysErrorInit } from '../sys/error.js';
export type {
  EventContext,
  EventTask,
  EventTaskHandlers,
  EventThread,
  StartEventTask,
} from '../sys/event-task.js';
export { drainEventfd, signalEventfd } from '../sys/eventfd.js';
export { duplicateFd, Fd } from '../sys/fd.js';
export type { IoctlCall } from '../sys/ioctl-task.js';
export type { KvmGuest, KvmPageTrackNotifierNode } from '../sys/kvm-guest.js';
export {
  createSharedMemory,
  type MapOptions,
  type MappedFile,
  type MappedRange,
  Mapping,
  type MemoryView,
  type SharedMemory,
  type SharedMemoryOptions,
} from '../sys/mapping.js';
export { Scope } from '../sys/scope.js';
// The Linux primitives that a vendor driver needs.
export { toChromeTrace } from './chrome-trace.js';
export { type CoreOptions, VfioCore } from './core/core.js';
export {
  type CoreOpenDevice,
  type UnregisterOptions,
  VFIO_DEVICE_RELEASE,
  VfioDevice,
  type VfioListener,
} from './core/device.js';
export type { DeviceDmaAccess } from './core/dma-access.js';
export type { CorePorts } from './core/environment.js';
export {
  type KvmListener,
  VFIO_GROUP_NOTIFY,
  VFIO_GROUP_NOTIFY_SET_KVM,
  VFIO_IOMMU_NOTIFY,
} from './core/group.js';
export { type DmaUnmapEvent, VFIO_IOMMU_NOTIFY_DMA_UNMAP } from './core/iommu-driver.js';
export { HostDevice, type IommuCapabilities, IommuGroup } from './core/iommu-group.js';
export type { Mdev, Mdevs } from './core/mdev.js';
export type { NotifierBlock } from './core/notifier.js';
export type { CoreProvider } from './core/provider.js';
export { type DmaTableBuffer, DmaTableReader } from './dma-table.js';
export * from './driver.js';
export * from './feature.js';
export type { VfioFileOps } from './file-ops.js';
export * from './host/check/index.js';
export * from './host/index.js';
export * from './host/inventory/index.js';
export { cdevsOf, groupsOf } from './interfaces.js';
export * from './pci-hot-reset.js';
export * from './provider.js';
export type { SriovFunctions, VfBar } from './sriov.js';
export { Timeline, type TimelineEvent } from './timeline.js';
export * from './uapi.js';
export * from './user/index.js';
export { VectorLimit } from './vector-limit.js';
