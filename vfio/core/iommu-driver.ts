/** IOMMU drivers, which SET_IOMMU chooses from: the core's counterpart of struct vfio_iommu_driver_ops. */
import type { Iova } from '../../sys/address.js';
import type { DmaMap, DmaUnmap, IommuInfo } from '../uapi.js';
import type { DirtyPages } from './dirty-pages.js';
import type { DmaSpace } from './dma-space.js';
import type { CoreEnvironment } from './environment.js';
import type { IommuGroup } from './iommu-group.js';
import type { NotifierBlock } from './notifier.js';
import type { Steps } from './steps.js';

/** Data of VFIO_IOMMU_NOTIFY_DMA_UNMAP. */
export interface DmaUnmapEvent {
  /** First byte of the range. */
  readonly iova: Iova;
  /** Length in bytes. */
  readonly size: bigint;
}

export const VFIO_IOMMU_NOTIFY_DMA_UNMAP = 1 << 0;

/** The IOMMU of one container. */
export interface IommuBackend {
  readonly name: string;
  /** The address space of the devices' DMA; undefined if no IOMMU translates it. */
  readonly space: DmaSpace | undefined;
  checkExtension(extension: number): number;
  /** @throws SysError EINVAL if the group's IOMMU cannot reach an IOVA that is already mapped */
  attachGroup(group: IommuGroup): Steps<void>;
  /** Detaching the last group removes all maps. */
  detachGroup(group: IommuGroup): Steps<void>;
  getInfo(): IommuInfo;
  mapDma(map: DmaMap): Steps<void>;
  unmapDma(unmap: DmaUnmap): Steps<bigint>;
  /** VFIO_IOMMU_DIRTY_PAGES. */
  readonly dirtyPages: DirtyPages | undefined;
  /** @param events VFIO_IOMMU_NOTIFY_DMA_UNMAP; the known bits are cleared. @throws SysError EINVAL for other bits */
  registerNotifier(events: { mask: number }, block: NotifierBlock<DmaUnmapEvent>): Steps<void>;
  unregisterNotifier(block: NotifierBlock<DmaUnmapEvent>): Steps<void>;
  /** Frees the IOMMU; called when no group is left. */
  release(): void;
}

/** A kind of IOMMU that SET_IOMMU can choose. */
export interface IommuDriver {
  readonly name: string;
  /** Whether it serves groups without an IOMMU. */
  readonly isNoiommu: boolean;
  /** Positive if it supports the extension or type. */
  checkExtension(extension: number): number;
  /** @throws SysError EINVAL for an extension that is no type of IOMMU; EPERM without the rights to it; ENOMEM */
  open(environment: CoreEnvironment, type: number): IommuBackend;
}
