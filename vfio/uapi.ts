/**
 * The seam: linux/vfio.h as TypeScript. Three providers implement these interfaces (the in-process core, the Linux
 * kernel, a vfio-user peer); no caller may depend on which one. Names, rules and errno values are the kernel's.
 *
 * Every call is synchronous, is made from the machine thread, and throws SysError with the errno Linux would return.
 * Register offsets and sizes are numbers (exact below 2^53), addresses are the branded bigints of sys/address.
 */
import type { Hva, Iova } from '../sys/address.js';
import type { SysError } from '../sys/error.js';
import type { Fd } from '../sys/fd.js';
import type { IoctlCall } from '../sys/ioctl-task.js';
import type { MappedFile, Mapping } from '../sys/mapping.js';
import type { FeatureInput, FeatureOutput } from './feature.js';
import type { HotResetInfo } from './pci-hot-reset.js';

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

// VFIO_REGION_INFO_CAP_TYPE of the regions of a display
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

/** An open VFIO file, as KVM_DEV_VFIO_FILE_ADD takes it. Disposing closes it. */
export interface VfioFile extends Disposable {
  /** Name for messages: `/dev/vfio/26`, `group 0 (core)`. */
  readonly target: string;
  /** The kernel's descriptor; absent for a file that exists only in this process. */
  readonly fd?: number;
}

/** What VFIO_IOMMU_GET_INFO returns, capabilities decoded. */
export interface IommuInfo {
  /** Bit n set: pages of 2^n bytes can be mapped. */
  readonly pageSizes: bigint;
  /** Ranges that can be mapped, first and last byte; empty if the IOMMU does not report them. */
  readonly iovaRanges: readonly { readonly start: Iova; readonly last: Iova }[];
  /** How many more maps MAP_DMA accepts; undefined if the IOMMU does not report it. */
  readonly dmaAvailable: number | undefined;
}

/** Memory not mapped in this process; accesses go to its owner. */
export interface RemoteMemory {
  /**
   * Copies between `data` and an IOVA range within one map.
   * @throws SysError if the owner refuses, or does not answer
   */
  rw(iova: Iova, data: Uint8Array, isWrite: boolean): void;
}

/** Whoever decides on accesses that no map covers: a client whose own IOMMU refuses and reports them, or lets them through. */
export interface UnmappedMemory {
  /**
   * Asks for an access, without a wait: the one who answers may be waiting for this thread. `data` is the callee's until `done`.
   * @param done called once, in this call or later in this thread: with undefined after all bytes were copied, else with the
   *   error of a refusal or of an answer that did not come. Not called once the address space has ended
   */
  access(iova: Iova, data: Uint8Array, isWrite: boolean, done: (error: SysError | undefined) => void): void;
}

/** The memory behind a map: memory of this process, or memory that only its owner can access. */
export type DmaMemory =
  | {
      /** First byte in this process, page-aligned; stays mapped until it is unmapped from the IOMMU. */
      readonly vaddr: Hva;
      /** Absent for memory of this process. */
      readonly remote?: never;
    }
  | {
      /** Memory for in-process devices only: they access it through its owner, and cannot pin it. */
      readonly remote: RemoteMemory;
      /** Absent for memory of another process. */
      readonly vaddr?: never;
    };

/** Argument of VFIO_IOMMU_MAP_DMA: memory, and the IOVA at which devices access it. */
export type DmaMap = DmaMemory & {
  /** VFIO_DMA_MAP_FLAG_ bits. */
  readonly flags: number;
  /** First byte as devices address it, a multiple of the smallest page size. */
  readonly iova: Iova;
  /** Bytes, a multiple of the smallest page size. */
  readonly size: bigint;
};

/** Argument of IOMMU_IOAS_MAP: as {@link DmaMap}, but the provider can choose the IOVA. */
export type IoasMap = DmaMemory & {
  /** VFIO_DMA_MAP_FLAG_ bits. */
  readonly flags: number;
  /** First byte as devices address it; if absent, the provider chooses a free range. */
  readonly iova?: Iova;
  /** Bytes, a multiple of the smallest page size. */
  readonly size: bigint;
};

/** Argument of VFIO_IOMMU_UNMAP_DMA. */
export interface DmaUnmap {
  /** VFIO_DMA_UNMAP_FLAG_ bits. */
  readonly flags: number;
  /** First byte to unmap; 0 with VFIO_DMA_UNMAP_FLAG_ALL. */
  readonly iova: Iova;
  /** Bytes to unmap; 0 with VFIO_DMA_UNMAP_FLAG_ALL. */
  readonly size: bigint;
}

/** `/dev/vfio/vfio`: an I/O address space shared by the devices of its groups. */
export interface ContainerFile extends VfioFile {
  /** VFIO_GET_API_VERSION: VFIO_API_VERSION for every provider. */
  getApiVersion(): number;
  /**
   * Positive if the extension is supported: by any IOMMU driver before {@link setIommu}, by the chosen one after it.
   */
  checkExtension(extension: number): number;
  /** @throws SysError EINVAL without a group, or if it is already set; ENODEV if no IOMMU driver has the type */
  setIommu(type: number): void;
  /** @throws SysError EINVAL before {@link setIommu} */
  getIommuInfo(): IommuInfo;
  /**
   * Maps memory for DMA; it stays mapped until it is unmapped or the container releases its IOMMU.
   * @throws SysError EEXIST if it overlaps a map; EINVAL misaligned, empty, wrapping or outside the IOVA ranges; EFAULT
   *   if the process has no such memory; ENOSPC at the limit of maps; ENOMEM; ENOTSUP for remote memory if the
   *   provider's devices cannot access it
   */
  mapDma(map: DmaMap): void;
  /**
   * Several maps, as by {@link mapDma}, without a wait for each. Absent if the provider has nothing to wait for.
   * @returns for each, the error that mapDma would throw; undefined if it is mapped
   * @throws SysError EINVAL before {@link setIommu}
   */
  mapDmas?(maps: readonly DmaMap[]): (SysError | undefined)[];
  /** The ioctl of {@link mapDma}, for another thread to make: it pins memory, which takes long. Absent if none can. */
  mapDmaCall?(map: DmaMap): IoctlCall;
  /** Returns the bytes unmapped. @throws SysError EINVAL if the range would split a map (type1v2) */
  unmapDma(unmap: DmaUnmap): bigint;
  /**
   * Names whom in-process devices may ask for accesses that no map covers ({@link UnmappedMemory}), until the container loses
   * its IOMMU; without one these are refused. Absent if the provider's devices are behind an IOMMU of their own.
   * @throws SysError EINVAL before {@link setIommu}
   */
  setUnmapped?(memory: UnmappedMemory): void;
}

/** `/dev/vfio/N`: a user's handle of an IOMMU group. */
export interface GroupFile extends VfioFile {
  /** VFIO_GROUP_FLAGS_ bits. */
  getStatus(): number;
  /** @throws SysError EINVAL if the group already has a container; EPERM for a mix of noiommu and other groups */
  setContainer(container: ContainerFile): void;
  /** @throws SysError EINVAL if the group has no container; EBUSY while devices are open */
  unsetContainer(): void;
  /**
   * @param name the device's name; for a VF whose physical function has a user, followed by ` vf_token=UUID`
   * @throws SysError EINVAL if the group has no container, its container no IOMMU, the group is not viable, or what
   *   follows the name is wrong; ENODEV if it has no device of that name; EACCES for a token that is wrong or missing
   */
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

/** Part of a region. */
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
      /** The only parts of the region that can be mapped. */
      readonly areas: readonly RegionArea[];
    }
  | {
      readonly id: typeof VFIO_REGION_INFO_CAP_TYPE;
      /** VFIO_REGION_TYPE_: the namespace of `subtype`. */
      readonly type: number;
      /** VFIO_REGION_SUBTYPE_: the region's purpose. */
      readonly subtype: number;
    }
  | { readonly id: typeof VFIO_REGION_INFO_CAP_MSIX_MAPPABLE };

/** What VFIO_DEVICE_GET_REGION_INFO returns, capabilities decoded. */
export interface RegionInfo {
  /** Region index: for PCI a VFIO_PCI_…_REGION_INDEX; device-specific regions start at VFIO_PCI_NUM_REGIONS. */
  readonly index: number;
  /** VFIO_REGION_INFO_FLAG_ bits. */
  readonly flags: number;
  /** Bytes; 0 if the device has no such region. */
  readonly size: number;
  /** Offset of the region in the device file, for {@link DeviceFile.read}, `write` and `mmap`. */
  readonly offset: number;
  /** The capability chain, in its order; empty without VFIO_REGION_INFO_FLAG_CAPS. */
  readonly capabilities: readonly RegionCapability[];
}

/** What VFIO_DEVICE_GET_IRQ_INFO returns. */
export interface IrqInfo {
  /** Interrupt index: for PCI a VFIO_PCI_…_IRQ_INDEX. */
  readonly index: number;
  /** VFIO_IRQ_INFO_ bits. */
  readonly flags: number;
  /** Number of interrupts of this index; 0 if the device has none. */
  readonly count: number;
}

/** Argument of VFIO_DEVICE_SET_IRQS. */
export interface IrqSet {
  /** Interrupt index: for PCI a VFIO_PCI_…_IRQ_INDEX. */
  readonly index: number;
  /** One VFIO_IRQ_SET_DATA_ and one VFIO_IRQ_SET_ACTION_ bit. */
  readonly flags: number;
  /** First interrupt (subindex) to set. */
  readonly start: number;
  /** Number of interrupts to set; 0 with DATA_NONE and ACTION_TRIGGER disables the index. */
  readonly count: number;
  /**
   * DATA_EVENTFD: `count` descriptors, of which -1 detaches the interrupt's eventfd; the provider keeps references of
   * its own. DATA_BOOL: `count` values of 0 or 1.
   */
  readonly data?: readonly number[];
}

/**
 * A doorbell: a part of a region whose writes only notify the device. Instead of trapping a write, its user may signal
 * `fd` (vfio-user's GET_REGION_IO_FDS, type ioeventfd).
 */
export interface RegionIoEventFd extends RegionArea {
  /** The eventfd to signal; owned by the device file and closed with it. */
  readonly fd: number;
  /** If present, only writes of this value, `size` bytes wide, signal; if absent, writes of any width and value do. */
  readonly datamatch?: bigint;
}

/** Argument of {@link DeviceFile.queryGfxPlane}. */
export interface GfxPlaneQuery {
  /** VFIO_GFX_PLANE_TYPE_REGION or DMABUF; with PROBE, only checks whether the device has planes of that type. */
  readonly flags: number;
  /** DRM_PLANE_TYPE_ of drm_mode.h: 1 for the primary plane, 2 for the cursor. */
  readonly drmPlaneType: number;
  /**
   * Which screen of a device that has several, from 0 on; the first if absent. The kernel's struct has no such field: its devices have one,
   * and any other is EINVAL.
   */
  readonly head?: number;
}

/** A plane that a display scans out: struct vfio_device_gfx_plane_info. */
export interface GfxPlaneInfo {
  /** DRM_FORMAT_ of drm_fourcc.h; 0 while the guest displays nothing. */
  readonly drmFormat: number;
  /** DRM_FORMAT_MOD_ of drm_fourcc.h; 0 is linear. */
  readonly drmFormatMod: bigint;
  /** Width in pixels. */
  readonly width: number;
  /** Height in pixels. */
  readonly height: number;
  /** Bytes from one line to the next. */
  readonly stride: number;
  /** Bytes, rounded up to whole pages. */
  readonly size: number;
  /** Horizontal position of a cursor plane, pixels; 0xffffffff for none. */
  readonly xPos: number;
  /** As {@link xPos}, vertical. */
  readonly yPos: number;
  /** Horizontal position of the cursor's hot spot within its plane, pixels; 0xffffffff for none. */
  readonly xHot: number;
  /** As {@link xHot}, vertical. */
  readonly yHot: number;
  /** The region that holds the pixels; 0 for a plane in a dma-buf. */
  readonly regionIndex: number;
  /** The dma-buf that holds the pixels, for {@link DeviceFile.getGfxDmabuf}; absent for a plane in a region. */
  readonly dmabufId?: number;
  /**
   * Bytes from the start of the region or dma-buf to the first pixel. The kernel's structure lacks this field: there, a plane starts at
   * its region's start, and a device whose plane moves exports it as a dma-buf.
   */
  readonly offset: number;
  /**
   * Of a primary plane: another number than before if anything that the device shows may have changed since, its cursors included, so that
   * who has a copy with this number needs no other. Begins anywhere, that of another device never equals it. Absent if guests draw into
   * the plane without the device. The kernel's structure lacks this field, too.
   */
  readonly drawn?: number;
}

/** An open device, from VFIO_GROUP_GET_DEVICE_FD or a bound cdev. */
export interface DeviceFile extends VfioFile {
  /** VFIO_DEVICE_GET_INFO. @throws SysError ENODEV once the device is unregistered */
  getInfo(): DeviceInfo;
  /** VFIO_DEVICE_GET_REGION_INFO. @throws SysError EINVAL for an index beyond `numRegions` */
  getRegionInfo(index: number): RegionInfo;
  /** The region's doorbells; empty if it has none. @throws SysError EINVAL for an index beyond `numRegions` */
  getRegionIoFds(index: number): readonly RegionIoEventFd[];
  /** VFIO_DEVICE_GET_IRQ_INFO. @throws SysError EINVAL for an index beyond `numIrqs` */
  getIrqInfo(index: number): IrqInfo;
  /**
   * VFIO_DEVICE_SET_IRQS.
   * @throws SysError EINVAL for invalid or inconsistent flags, start, count or data; EBADF for a descriptor that is no
   *   eventfd; EBUSY; ENOTTY for an index or action that the device does not support; `VectorLimit` (ENOSPC), with
   *   nothing enabled, if the host has fewer vectors
   */
  setIrqs(set: IrqSet): void;
  /** VFIO_DEVICE_RESET. @throws SysError ENOTTY if the device has no reset */
  reset(): void;
  /**
   * VFIO_DEVICE_GET_PCI_HOT_RESET_INFO: the functions that a reset of the device's slot or bus affects. Absent if the
   * provider has no such call.
   * @throws SysError ENODEV if neither can be reset; ENOTTY if the device is not one of PCI; EPERM if a function has no
   *   IOMMU group
   */
  getPciHotResetInfo?(): HotResetInfo;
  /**
   * VFIO_DEVICE_PCI_HOT_RESET: resets the device's slot or bus, with every function on it.
   * @param groups the open groups of all these functions; empty for a device that is bound to an iommufd
   * @throws SysError EINVAL if a function is not owned, has no VFIO driver, or a file is no group; EBADF for a closed
   *   one; ENODEV and ENOTTY as {@link getPciHotResetInfo}
   */
  pciHotReset?(groups?: readonly GroupFile[]): void;
  /**
   * Reads from the device file at `offset`. Returns the bytes read.
   * @throws SysError EFAULT or EINVAL if the range crosses the region's end; some devices read short instead
   */
  read(offset: number, data: Uint8Array): number;
  /** Writes to the device file at `offset`; as {@link read}. */
  write(offset: number, data: Uint8Array): number;
  /**
   * Whether the device decodes its BARs and masks its vectors by its own registers, so that a guest's writes to BARs, MSI
   * messages and masks, and the MSI-X table must reach it as well. Absent for devices whose driver has registers of its own
   * for that, as the kernel's do.
   */
  readonly takesEmulatedWrites?: boolean;
  /**
   * Maps part of the device file. The caller disposes the mapping.
   * @throws SysError EINVAL if the region's info does not allow it
   */
  mmap(offset: number, bytes: number): Mapping;
  /**
   * The file behind the areas of a region that can be mapped, and the info with those areas, for passing both on to another
   * process: even if this one must not map it. Undefined if there is none; absent if the provider's devices have no files. The
   * device owns the descriptor.
   */
  getRegionFile?(index: number): { readonly info: RegionInfo; readonly file: MappedFile } | undefined;
  /**
   * VFIO_DEVICE_QUERY_GFX_PLANE; absent if the provider has no such call.
   * @throws SysError ENOTTY if the device is not a display; EINVAL if it has no planes of that type
   */
  queryGfxPlane?(query: GfxPlaneQuery): GfxPlaneInfo;
  /**
   * VFIO_DEVICE_GET_GFX_DMABUF: the dma-buf that holds a plane; absent if the provider has no such call. The caller closes it,
   * and has at most one open of the same id.
   * @param dmabufId as the last {@link queryGfxPlane} gave it
   * @throws SysError ENOTTY if the device has no dma-bufs; EINVAL for one that is no more
   */
  getGfxDmabuf?(dmabufId: number): Fd;
  /**
   * VFIO_DEVICE_FEATURE: migration, dirty logging and others.
   * @param flags a VFIO_DEVICE_FEATURE_ number, with GET or SET; PROBE with any of these only checks for support
   * @returns the feature's output; the caller disposes its migration data
   * @throws SysError ENOTTY for a feature that the device lacks; EINVAL for unknown flags, for both or neither of GET
   *   and SET, or for one that the feature does not support; any error of the feature itself
   */
  deviceFeature(flags: number, input?: FeatureInput): FeatureOutput;
}

/** `/dev/iommu`: I/O address spaces (IOAS) for devices opened by cdev. */
export interface IommufdFile extends VfioFile {
  /** IOMMU_IOAS_ALLOC: the new address space's id. */
  ioasAlloc(): number;
  /** IOMMU_IOAS_MAP. Returns the IOVA, given or chosen. @throws SysError ENOENT for an unknown IOAS; else as MAP_DMA */
  ioasMap(ioas: number, map: IoasMap): Iova;
  /** The ioctl of {@link ioasMap} at a given IOVA. @see ContainerFile.mapDmaCall */
  ioasMapCall?(ioas: number, map: DmaMap): IoctlCall;
  /**
   * IOMMU_IOAS_UNMAP; iova 0 and size 2^64 - 1 unmap everything. Returns the bytes unmapped.
   * @throws SysError ENOENT for an unknown IOAS, if the range holds no map, or if it would split one
   */
  ioasUnmap(ioas: number, range: { readonly iova: Iova; readonly size: bigint }): bigint;
  /** IOMMU_IOAS_IOVA_RANGES: what all attached devices can reach; everything while there is none. */
  ioasIovaRanges(ioas: number): IommuInfo['iovaRanges'];
  /** IOMMU_DESTROY. @throws SysError ENOENT for an unknown id; EBUSY while the object is in use */
  destroy(id: number): void;
}

/** `/dev/vfio/devices/vfioN`: until {@link bindIommufd} succeeds, every other call fails. */
export interface CdevFile extends DeviceFile {
  /**
   * VFIO_DEVICE_BIND_IOMMUFD. Returns the device's id in the iommufd.
   * @param vfToken UUID that the user of a VF's physical function has set (VFIO_DEVICE_BIND_FLAG_TOKEN)
   * @throws SysError EBUSY while the device's group is in use; EINVAL if it is already bound, or for a token that the
   *   device has no use for; EACCES for a token that is wrong or missing
   */
  bindIommufd(iommufd: IommufdFile, vfToken?: string): number;
  /** VFIO_DEVICE_ATTACH_IOMMUFD_PT with an IOAS. */
  attachIoas(ioas: number): void;
  /** VFIO_DEVICE_DETACH_IOMMUFD_PT. */
  detachIoas(): void;
}
