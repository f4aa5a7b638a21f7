/**
 * The seam: linux/vfio.h as TypeScript. Three providers stand behind these interfaces (in-process core, the Linux
 * kernel, a vfio-user peer); nothing above may know which. Names, rules and errno values are the kernel's.
 *
 * Every call is synchronous, made from the machine thread, and throws SysError with the errno Linux would return.
 * Register offsets and sizes are numbers (exact below 2^53), addresses are the branded bigints of sys/address.
 */
import type { Hva, Iova } from '../sys/address.js';
import type { Mapping } from '../sys/mapping.js';
import type { FeatureInput, FeatureOutput } from './feature.js';
import type { VfioFileOps } from './file-ops.js';

export const VFIO_API_VERSION = 0;

// CHECK_EXTENSION and SET_IOMMU
export const VFIO_TYPE1_IOMMU = 1;
export const VFIO_TYPE1v2_IOMMU = 3;
export const VFIO_DMA_CC_IOMMU = 4;
export const VFIO_NOIOMMU_IOMMU = 8;
export const VFIO_UNMAP_ALL = 9;
export const VFIO_UPDATE_VADDR = 10;

// VFIO_GROUP_GET_STATUS
export const VFIO_GROUP_FLAGS_VIABLE = 1 << 0;
export const VFIO_GROUP_FLAGS_CONTAINER_SET = 1 << 1;

// VFIO_DEVICE_GET_INFO
export const VFIO_DEVICE_FLAGS_RESET = 1 << 0;
export const VFIO_DEVICE_FLAGS_PCI = 1 << 1;
export const VFIO_DEVICE_FLAGS_CAPS = 1 << 7;

// VFIO_DEVICE_GET_REGION_INFO
export const VFIO_REGION_INFO_FLAG_READ = 1 << 0;
export const VFIO_REGION_INFO_FLAG_WRITE = 1 << 1;
export const VFIO_REGION_INFO_FLAG_MMAP = 1 << 2;
export const VFIO_REGION_INFO_FLAG_CAPS = 1 << 3;
export const VFIO_REGION_INFO_CAP_SPARSE_MMAP = 1;
export const VFIO_REGION_INFO_CAP_TYPE = 2;
export const VFIO_REGION_INFO_CAP_MSIX_MAPPABLE = 3;

export const VFIO_PCI_BAR0_REGION_INDEX = 0;
export const VFIO_PCI_BAR5_REGION_INDEX = 5;
export const VFIO_PCI_ROM_REGION_INDEX = 6;
export const VFIO_PCI_CONFIG_REGION_INDEX = 7;
export const VFIO_PCI_VGA_REGION_INDEX = 8;
export const VFIO_PCI_NUM_REGIONS = 9;

// VFIO_DEVICE_GET_IRQ_INFO
export const VFIO_IRQ_INFO_EVENTFD = 1 << 0;
export const VFIO_IRQ_INFO_MASKABLE = 1 << 1;
export const VFIO_IRQ_INFO_AUTOMASKED = 1 << 2;
export const VFIO_IRQ_INFO_NORESIZE = 1 << 3;

export const VFIO_PCI_INTX_IRQ_INDEX = 0;
export const VFIO_PCI_MSI_IRQ_INDEX = 1;
export const VFIO_PCI_MSIX_IRQ_INDEX = 2;
export const VFIO_PCI_ERR_IRQ_INDEX = 3;
export const VFIO_PCI_REQ_IRQ_INDEX = 4;
export const VFIO_PCI_NUM_IRQS = 5;

// VFIO_DEVICE_SET_IRQS: one of DATA, or'ed with one of ACTION
export const VFIO_IRQ_SET_DATA_NONE = 1 << 0;
export const VFIO_IRQ_SET_DATA_BOOL = 1 << 1;
export const VFIO_IRQ_SET_DATA_EVENTFD = 1 << 2;
export const VFIO_IRQ_SET_ACTION_MASK = 1 << 3;
export const VFIO_IRQ_SET_ACTION_UNMASK = 1 << 4;
export const VFIO_IRQ_SET_ACTION_TRIGGER = 1 << 5;

// VFIO_REGION_INFO_CAP_TYPE of a display's regions
export const VFIO_REGION_TYPE_GFX = 1;
export const VFIO_REGION_SUBTYPE_GFX_EDID = 1;
export const VFIO_DEVICE_GFX_LINK_STATE_UP = 1;
export const VFIO_DEVICE_GFX_LINK_STATE_DOWN = 2;

// VFIO_DEVICE_QUERY_GFX_PLANE
export const VFIO_GFX_PLANE_TYPE_PROBE = 1 << 0;
export const VFIO_GFX_PLANE_TYPE_DMABUF = 1 << 1;
export const VFIO_GFX_PLANE_TYPE_REGION = 1 << 2;

// VFIO_IOMMU_MAP_DMA and UNMAP_DMA
export const VFIO_DMA_MAP_FLAG_READ = 1 << 0;
export const VFIO_DMA_MAP_FLAG_WRITE = 1 << 1;
export const VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP = 1 << 0;
export const VFIO_DMA_UNMAP_FLAG_ALL = 1 << 1;

/** An open VFIO file: what the kvm-vfio device is told about. */
export interface VfioFile extends Disposable {
  /** What it is, for messages: `/dev/vfio/26`, `group 0 (core)`. */
  readonly target: string;
  /** The kernel's descriptor; absent for a file that exists only in this process. */
  readonly fd?: number;
}

/** What VFIO_IOMMU_GET_INFO returns, capabilities decoded. */
export interface IommuInfo {
  /** Bit n set: pages of 2^n bytes can be mapped. */
  readonly pageSizes: bigint;
  /** Ranges that can be mapped, first and last byte; empty if the IOMMU does not say. */
  readonly iovaRanges: readonly { readonly start: Iova; readonly last: Iova }[];
  /** How many more MAP_DMA calls will be accepted, if known. */
  readonly dmaAvailable: number | undefined;
}

/** Memory that is not mapped in this process: accesses go to its owner. */
export interface RemoteMemory {
  /** Copies between `data` and IOVA, which lie in one map. @throws SysError if that is not possible */
  rw(iova: Iova, data: Uint8Array, isWrite: boolean): void;
}

/** What a map is made of: memory of this process, or memory that only its owner can access. */
export type DmaMemory =
  | { readonly vaddr: Hva; readonly remote?: never }
  /** For devices of this process only: they access it through its owner, and cannot pin it. */
  | { readonly remote: RemoteMemory; readonly vaddr?: never };

/** What VFIO_IOMMU_MAP_DMA takes: process memory, and the IOVA at which devices see it. */
export type DmaMap = DmaMemory & {
  /** VFIO_DMA_MAP_FLAG_ bits. */
  readonly flags: number;
  readonly iova: Iova;
  /** Bytes, a multiple of the smallest page size. */
  readonly size: bigint;
};

/** A map whose IOVA may be left to the provider. */
export type IoasMap = DmaMemory & {
  /** VFIO_DMA_MAP_FLAG_ bits. */
  readonly flags: number;
  readonly iova?: Iova;
  readonly size: bigint;
};

/** What VFIO_IOMMU_UNMAP_DMA takes. */
export interface DmaUnmap {
  /** VFIO_DMA_UNMAP_FLAG_ bits. */
  readonly flags: number;
  /** First byte to unmap; 0 with VFIO_DMA_UNMAP_FLAG_ALL. */
  readonly iova: Iova;
  /** Bytes to unmap; 0 with VFIO_DMA_UNMAP_FLAG_ALL. */
  readonly size: bigint;
}

/** `/dev/vfio/vfio`: an address space for the devices of the groups in it. */
export interface ContainerFile extends VfioFile {
  /** VFIO_GET_API_VERSION: VFIO_API_VERSION of every provider. */
  getApiVersion(): number;
  /** Positive if the extension is there. Before {@link setIommu} all back-ends are asked, after it the chosen one. */
  checkExtension(extension: number): number;
  /** @throws SysError EINVAL without a group or when set already; ENODEV for a type that is not there */
  setIommu(type: number): void;
  /** @throws SysError EINVAL before {@link setIommu} */
  getIommuInfo(): IommuInfo;
  /**
   * @throws SysError EEXIST on overlap; EINVAL misaligned, empty, wrapping or outside the IOVA ranges; EFAULT; ENOSPC; ENOMEM;
   *   ENOTSUP for remote memory where the provider's devices cannot access it
   */
  mapDma(map: DmaMap): void;
  /** Returns the bytes unmapped. @throws SysError EINVAL if the range cuts a map in two (type1v2) */
  unmapDma(unmap: DmaUnmap): bigint;
}

/** `/dev/vfio/N`: an IOMMU group's user handle. */
export interface GroupFile extends VfioFile {
  /** VFIO_GROUP_FLAGS_ bits. */
  getStatus(): number;
  /** @throws SysError EINVAL if it has one; EPERM mixing noiommu with real groups */
  setContainer(container: ContainerFile): void;
  /** @throws SysError EINVAL without one; EBUSY while devices are open */
  unsetContainer(): void;
  /** @throws SysError EINVAL not contained, no IOMMU set or not viable; ENODEV unknown name */
  getDeviceFd(name: string): DeviceFile;
}

/** What VFIO_DEVICE_GET_INFO returns. */
export interface DeviceInfo {
  /** VFIO_DEVICE_FLAGS_ bits. */
  readonly flags: number;
  /** Number of region indexes; some may have size 0. */
  readonly numRegions: number;
  /** Number of interrupt indexes; some may have count 0. */
  readonly numIrqs: number;
}

/** Part of a region: offset from the region's start, and bytes. */
export interface RegionArea {
  /** Bytes from the region's start. */
  readonly offset: number;
  /** Length in bytes. */
  readonly size: number;
}

/** One capability of a region, decoded from the chain behind struct vfio_region_info. */
export type RegionCapability =
  | {
      readonly id: typeof VFIO_REGION_INFO_CAP_SPARSE_MMAP;
      /** The parts that can be mapped, instead of the whole region. */
      readonly areas: readonly RegionArea[];
    }
  | {
      readonly id: typeof VFIO_REGION_INFO_CAP_TYPE;
      /** VFIO_REGION_TYPE_ bits: which list `subtype` is from. */
      readonly type: number;
      /** VFIO_REGION_SUBTYPE_: what the region is for. */
      readonly subtype: number;
    }
  | { readonly id: typeof VFIO_REGION_INFO_CAP_MSIX_MAPPABLE };

/** What VFIO_DEVICE_GET_REGION_INFO returns, capabilities decoded. */
export interface RegionInfo {
  /** The region: for PCI a VFIO_PCI_…_REGION_INDEX, or a device-specific one from VFIO_PCI_NUM_REGIONS on. */
  readonly index: number;
  /** VFIO_REGION_INFO_FLAG_ bits. */
  readonly flags: number;
  /** Bytes; 0 if the device has no such region. */
  readonly size: number;
  /** Where the region starts in the device file, for {@link DeviceFile.read}, `write` and `mmap`. */
  readonly offset: number;
  /** The capability chain in its order; empty without VFIO_REGION_INFO_FLAG_CAPS. */
  readonly capabilities: readonly RegionCapability[];
}

/** What VFIO_DEVICE_GET_IRQ_INFO returns. */
export interface IrqInfo {
  /** The interrupt kind: for PCI a VFIO_PCI_…_IRQ_INDEX. */
  readonly index: number;
  /** VFIO_IRQ_INFO_ bits. */
  readonly flags: number;
  /** Number of interrupts of that kind; 0 if the device has none. */
  readonly count: number;
}

/** What VFIO_DEVICE_SET_IRQS takes. */
export interface IrqSet {
  /** The interrupt kind: for PCI a VFIO_PCI_…_IRQ_INDEX. */
  readonly index: number;
  /** One VFIO_IRQ_SET_DATA_ and one VFIO_IRQ_SET_ACTION_ bit. */
  readonly flags: number;
  /** First interrupt (subindex) that is set. */
  readonly start: number;
  /** Number of interrupts from `start` on; 0 with DATA_NONE and ACTION_TRIGGER disables the index. */
  readonly count: number;
  /** DATA_EVENTFD: `count` descriptors, -1 lets one go. DATA_BOOL: `count` of 0 or 1. The provider keeps its own reference. */
  readonly data?: readonly number[];
}

/**
 * A part of a region whose writes only wake the device up, so that they need not be trapped: writing there may be
 * replaced by signalling `fd` (vfio-user's GET_REGION_IO_FDS, type ioeventfd). `fd` lives as long as the device file.
 */
export interface RegionIoEventFd extends RegionArea {
  /** The eventfd to signal; owned by the device file. */
  readonly fd: number;
  /** Only writes of this value (of `size` bytes) count; undefined: writes of any width and value. */
  readonly datamatch?: bigint;
}

/** What {@link DeviceFile.queryGfxPlane} asks for. */
export interface GfxPlaneQuery {
  /** VFIO_GFX_PLANE_TYPE_REGION or DMABUF; with PROBE only whether the device has planes of that type. */
  readonly flags: number;
  /** DRM_PLANE_TYPE_ of drm_mode.h: 1 for the primary plane. */
  readonly drmPlaneType: number;
}

/** A picture that a device shows, struct vfio_device_gfx_plane_info. */
export interface GfxPlaneInfo {
  /** DRM_FORMAT_ of drm_fourcc.h; 0 while the guest shows nothing. */
  readonly drmFormat: number;
  /** DRM_FORMAT_MOD_ of drm_fourcc.h; 0 is linear. */
  readonly drmFormatMod: bigint;
  /** Pixels. */
  readonly width: number;
  /** Pixels. */
  readonly height: number;
  /** Bytes from one line to the next. */
  readonly stride: number;
  /** Bytes, up to the end of the last page. */
  readonly size: number;
  /** Where a cursor's plane is, and its hot spot; 0xffffffff for none. */
  readonly xPos: number;
  /** As {@link xPos}, vertical. */
  readonly yPos: number;
  /** Horizontal position of the cursor's hot spot within its plane, pixels; 0xffffffff for none. */
  readonly xHot: number;
  /** As {@link xHot}, vertical. */
  readonly yHot: number;
  /** The region that holds the pixels. */
  readonly regionIndex: number;
  /**
   * Bytes from the region's start to the first pixel. The kernel's structure lacks it: there a plane begins with its
   * region, and a device whose plane moves gives it as a dma-buf.
   */
  readonly offset: number;
}

/** A device: what GET_DEVICE_FD, or a bound cdev, gives. */
export interface DeviceFile extends VfioFile {
  /** VFIO_DEVICE_GET_INFO. @throws SysError ENODEV once the device is unregistered */
  getInfo(): DeviceInfo;
  /** @throws SysError EINVAL for an index that is not there */
  getRegionInfo(index: number): RegionInfo;
  /** Empty where there are none. @throws SysError EINVAL for an index that is not there */
  getRegionIoFds(index: number): readonly RegionIoEventFd[];
  /** @throws SysError EINVAL for an index that is not there */
  getIrqInfo(index: number): IrqInfo;
  /** @throws SysError EINVAL for flags, start, count or data that do not fit; EBADF, EBUSY, ENOTTY */
  setIrqs(set: IrqSet): void;
  /** @throws SysError ENOTTY if the device has no reset */
  reset(): void;
  /**
   * Reads from the device file at `offset`. Returns the bytes read.
   * @throws SysError EFAULT or EINVAL, or else a short read, where the range crosses the region's end
   */
  read(offset: number, data: Uint8Array): number;
  /** Writes to the device file at `offset`; as {@link read}. */
  write(offset: number, data: Uint8Array): number;
  /** Maps part of the device file. @throws SysError EINVAL where the region says it cannot be mapped */
  mmap(offset: number, bytes: number): Mapping;
  /**
   * VFIO_DEVICE_QUERY_GFX_PLANE; absent where the provider has no such call.
   * @throws SysError ENOTTY if the device is no display; EINVAL if it has no planes of that type
   */
  queryGfxPlane?(query: GfxPlaneQuery): GfxPlaneInfo;
  /**
   * VFIO_DEVICE_FEATURE: migration, dirty logging and others.
   * @param flags a VFIO_DEVICE_FEATURE_ number with GET or SET; or with PROBE and any of them, which only checks
   * @returns what the feature answers; its migration data is the caller's to dispose
   * @throws SysError ENOTTY for a feature that the device does not have; EINVAL for unknown flags, for GET with SET, neither, or
   *   one that the feature does not support; what the feature fails with
   */
  deviceFeature(flags: number, input?: FeatureInput): FeatureOutput;
}

/** `/dev/iommu`: address spaces for devices opened by cdev. */
export interface IommufdFile extends VfioFile {
  /** IOMMU_IOAS_ALLOC: the new address space's id. */
  ioasAlloc(): number;
  /** IOMMU_IOAS_MAP. Without `iova` the kernel chooses one; either way returns it. @throws SysError as MAP_DMA */
  ioasMap(ioas: number, map: IoasMap): Iova;
  /** IOMMU_IOAS_UNMAP; iova 0 and size 2^64 - 1 unmap all. Returns the bytes unmapped. @throws SysError ENOENT */
  ioasUnmap(ioas: number, range: { readonly iova: Iova; readonly size: bigint }): bigint;
  /** IOMMU_IOAS_IOVA_RANGES. */
  ioasIovaRanges(ioas: number): IommuInfo['iovaRanges'];
  /** IOMMU_DESTROY. @throws SysError ENOENT; EBUSY while in use */
  destroy(id: number): void;
}

/** `/dev/vfio/devices/vfioN`: nothing but {@link bindIommufd} works until that has succeeded. */
export interface CdevFile extends DeviceFile {
  /** VFIO_DEVICE_BIND_IOMMUFD: returns the device's id there. @throws SysError EBUSY while its group is in use; EINVAL twice */
  bindIommufd(iommufd: IommufdFile): number;
  /** VFIO_DEVICE_ATTACH_IOMMUFD_PT with an IOAS. */
  attachIoas(ioas: number): void;
  /** VFIO_DEVICE_DETACH_IOMMUFD_PT. */
  detachIoas(): void;
}

/** A device that was found, and (for a mediated one) created: disposing it undoes that. Nothing is open yet. */
export interface AssignableDevice extends Disposable {
  /** Name to give to GET_DEVICE_FD: a PCI address or a UUID. */
  readonly name: string;
  /** IOMMU group's number. */
  readonly group: number;
  /** `vfioN`, if it has a cdev. */
  readonly cdev?: string;
  /** Set if no IOMMU translates its DMA: a program may drive it, but no guest can. */
  readonly isNoiommu?: boolean;
  /** One line for a person: what it is and where it comes from. */
  readonly description: string;
  /** What the device counts of itself, by name, for people: packets, doorbells; absent if it does not. */
  counters?(): Readonly<Record<string, number>>;
}

/** The group interface of a provider. */
export interface VfioGroups {
  /** @throws SysError ENODEV, EACCES */
  openContainer(): ContainerFile;
  /** @throws SysError ENODEV; EBUSY if it is open */
  openGroup(group: number): GroupFile;
}

/** The cdev interface of a provider. */
export interface VfioCdevs {
  /** @throws SysError ENODEV, EACCES */
  openIommufd(): IommufdFile;
  /** @throws SysError ENODEV, EACCES */
  openCdev(node: string): CdevFile;
}

/** Where devices come from. A plug-in: an object, registered in one line of vmm/compose.ts. */
export interface VfioProvider {
  /** Name for messages: `core`, `host`, `vfio-user`. */
  readonly name: string;
  /** What addresses look like, for a person: `a PCI address such as 0000:01:00.0`. */
  readonly addresses: string;
  /** Its devices' servers map guest memory, so that has to be memory other processes can map (a memfd). */
  readonly needsSharedMemory?: boolean;
  /**
   * How kvm-vfio reaches this provider's files that have no kernel descriptor; absent if all have one, or if its devices
   * cannot be associated with a VM.
   */
  readonly fileOps?: VfioFileOps;
  /** Whether `address` is of the form this provider takes. Opens nothing. */
  matches(address: string): boolean;
  /**
   * Finds the device, or creates it (a mediated device type).
   * @throws SysError ENODEV if there is none; ENOSPC if its parent has no instance left
   */
  resolve(address: string, options: Readonly<Record<string, string>>): AssignableDevice;
  /** The group interface: containers and groups; absent if the provider has none. */
  readonly groups?: VfioGroups;
  /** The cdev interface; absent if the provider has none. */
  readonly cdevs?: VfioCdevs;
}

/** Token of the providers a machine has. */
export const VfioProvider = Symbol('VfioProvider');
