/** The interface of vendor drivers written in TypeScript: the core's counterpart of struct vfio_device_ops. */
import type { Iova } from '../sys/address.js';
import type { EventThread } from '../sys/event-task.js';
import type { Fd } from '../sys/fd.js';
import type { Mapping } from '../sys/mapping.js';
import type { DmaTableBuffer } from './dma-table.js';
import type { MigrationData } from './feature.js';
import type { KvmPointer } from './file-ops.js';
import type { GroupNotifier } from './group-notify.js';
import type { SriovFunctions } from './sriov.js';
import type {
  DeviceInfo,
  GfxPlaneInfo,
  GfxPlaneQuery,
  IrqInfo,
  IrqSet,
  RegionInfo,
  RegionIoEventFd,
  UnmappedMemory,
} from './uapi.js';

export type { KvmPointer } from './file-ops.js';
export type { GroupListener, GroupNotifier, NotifierSteps } from './group-notify.js';

/** Guest memory that the device can access: the maps of its container or IOAS. Machine thread only. */
export interface DeviceDma {
  /**
   * vfio_dma_rw: copies between `data` and IOVA.
   * @throws SysError EFAULT if part of the range is not mapped; EPERM if the map does not allow the direction
   */
  rw(iova: Iova, data: Uint8Array, isWrite: boolean): void;
  /** The same maps in shared memory, for the part of the driver that runs in the event thread. */
  readonly table: DmaTableBuffer;
  /**
   * Whom the device may ask for an access that {@link rw} refuses with EFAULT, as hardware puts every address on its bus;
   * undefined if there is nobody.
   */
  readonly unmapped?: UnmappedMemory | undefined;
}

/** Argument of {@link VfioDeviceOps.openDevice}; valid until closeDevice. */
export interface OpenDevice {
  /** The VM that the device was associated with before the open (device->kvm); undefined if none was. */
  readonly kvm: KvmPointer | undefined;
  /** The address space that the device's DMA goes through. */
  readonly dma: DeviceDma;
  /** For a driver that follows its group's VM; absent if nobody opens the device by a core. */
  readonly device?: GroupNotifier;
}

/** A function on a PCI slot or bus. */
export interface PciSlotFunction {
  /** The device's name, if it is one of the core; else its PCI address. */
  readonly name: string;
  /** Number of the IOMMU group of a function that is no device of the core; absent if it has none. */
  readonly group?: number;
}

/**
 * A PCI slot or bus, whose functions can only be reset together. Devices that name the same object in
 * {@link PciOps.slot} form one device set, with one lock.
 */
export interface PciSlotReset {
  /** Every function on it now, whether a VFIO driver has it or not. */
  readonly functions: readonly PciSlotFunction[];
  /** Resets every function, open or closed. Called with the set's lock held. @throws SysError if that fails */
  reset(): void;
}

/** What makes a device one of PCI: the core then does for it what vfio-pci does. Fixed while it is registered. */
export interface PciOps {
  /**
   * Its slot or bus, if that can be reset: for VFIO_DEVICE_PCI_HOT_RESET, and at the last close of all its devices, if
   * one of them could not be reset by itself.
   */
  readonly slot?: PciSlotReset;
  /** Whether it is a physical function with VFs: it has a VF token, which the users of its VFs must know. */
  readonly isPhysfn?: boolean;
  /** For a VF: the name of its physical function. If the core has that when the VF is registered, its token is needed. */
  readonly physfn?: string;
}

/**
 * Functions of a device. The core calls them in the machine thread, between register and unregister; all but `request`
 * only while the device is open. It validates region indexes and IRQ sets against the infos first. openDevice and
 * closeDevice may be generator functions of Steps: the testing kit's scheduler may then switch tasks at each yield.
 */
export interface VfioDeviceOps {
  /** Driver's name, for messages. */
  readonly name: string;
  /** Hot reset and VF tokens of a PCI device; absent: ENOTTY, and a name of no options in GET_DEVICE_FD. */
  readonly pci?: PciOps;
  /** Called on the first open. @throws SysError to refuse it */
  openDevice(open: OpenDevice): void;
  /** Called on the last close: the device must then release every page, eventfd and thread it uses for its opener. */
  closeDevice(): void;
  /** VFIO_DEVICE_GET_INFO. Called once per open, so the number of regions is fixed until the last close. */
  getInfo(): DeviceInfo;
  /** VFIO_DEVICE_GET_REGION_INFO without `offset`: the core places regions as vfio-pci does (index << 40). */
  getRegionInfo(index: number): Omit<RegionInfo, 'offset'>;
  /** The doorbells of a region; absent if the device has none. */
  getRegionIoFds?(index: number): readonly RegionIoEventFd[];
  /** VFIO_DEVICE_GET_IRQ_INFO. */
  getIrqInfo(index: number): IrqInfo;
  /** VFIO_DEVICE_SET_IRQS. The eventfds in `set.data` are valid only during the call: duplicate those you keep. */
  setIrqs(set: IrqSet): void;
  /** VFIO_DEVICE_RESET; absent if the device has no reset. */
  reset?(): void;
  /** Reads from a region, `offset` bytes from its start, into `data`. Returns the bytes read. */
  read(index: number, offset: number, data: Uint8Array): number;
  /** Writes `data` at `offset` bytes into a region. Returns the bytes written. */
  write(index: number, offset: number, data: Uint8Array): number;
  /**
   * Maps part of a region into this process; absent if no region has VFIO_REGION_INFO_FLAG_MMAP. The caller
   * disposes the mapping.
   */
  mmap?(index: number, offset: number, bytes: number): Mapping;
  /**
   * VFIO_DEVICE_QUERY_GFX_PLANE; absent if the device is not a display. The core has checked that `flags` has one type.
   * @throws SysError EINVAL if the display has no planes of that type
   */
  queryGfxPlane?(query: GfxPlaneQuery): GfxPlaneInfo;
  /**
   * VFIO_DEVICE_GET_GFX_DMABUF: a dma-buf, or a memory file that stands for one, which the caller closes; absent if the display
   * has none.
   * @throws SysError EINVAL for an id that is not shown
   */
  getGfxDmabuf?(dmabufId: number): Fd;
  /** Screens of a display, which {@link GfxPlaneQuery.head} numbers; 1 if absent. The core refuses others. */
  readonly gfxHeads?: number;
  /** Asks the user to release the device; called again with `count` incremented until the last file is closed. */
  request?(count: number): void;
  /** False if the device can only be opened through its group (no bind_iommufd); true if absent. */
  readonly hasIommufd?: boolean;
  /** Migration to another host; absent if the device does not support it. */
  readonly migration?: MigrationOps;
  /** Tracking of the pages that the device writes; absent if it does not support that. */
  readonly dmaLogging?: DmaLoggingOps | undefined;
  /** DMA to this range is about to be unmapped: unpin every page in it before returning. */
  dmaUnmap?(iova: Iova, bytes: bigint): void;
}

/** struct vfio_migration_ops. The core finds the path between two states; the driver performs one arc per call. */
export interface MigrationOps {
  /** Supported VFIO_MIGRATION_ bits. */
  readonly flags: number;
  /** The current VFIO_DEVICE_STATE_. */
  getState(): number;
  /**
   * Performs one arc. Returns the data stream if the arc opens one: a file's descriptor, which the caller closes, or an object that
   * makes and takes the data as they are read and written, which the caller disposes. A device with PRE_COPY needs an object: its
   * stream goes on from PRE_COPY to STOP_COPY, an arc that opens none. The core asks it for `precopyInfo` in PRE_COPY only.
   * @throws SysError if the device cannot reach `to`, as when RESUMING ends without all of its data. `getState` is then
   *   still `from`, as in Linux's drivers, and the stream open; or VFIO_DEVICE_STATE_ERROR, which only a reset leaves
   */
  arc(from: number, to: number): number | MigrationData | undefined;
  /** Estimate of the bytes that STOP_COPY will transfer. */
  getDataSize(): bigint;
  /** Most bytes that a descriptor of RESUMING takes; a write of more is ENOMEM. 16 MiB if absent. An object has a limit of its own. */
  readonly mostResumeBytes?: number;
}

/** struct vfio_log_ops. The core has validated the ranges. */
export interface DmaLoggingOps {
  /** Starts tracking. Returns the page size that the device tracks by, in bytes. */
  start(ranges: readonly { readonly iova: Iova; readonly length: bigint }[], pageSize: bigint): bigint;
  /** Stops tracking and releases what {@link start} allocated. */
  stop(): void;
  /** Sets a bit in `bitmap` for each page of the range that was written since the last call. */
  readAndClear(
    range: { readonly iova: Iova; readonly length: bigint },
    pageSize: bigint,
    bitmap: Uint8Array,
  ): void;
}

/** An event of an input device, as in Linux's struct input_event; types and codes are those of linux/input-event-codes.h. */
export interface InputEvent {
  /** EV_KEY, EV_REL or EV_ABS. */
  readonly type: number;
  /** KEY_, BTN_, REL_ or ABS_. */
  readonly code: number;
  /** 1 for a key or button that is pressed, 0 for a released one; steps or a position, 32 bits, signed. */
  readonly value: number;
}

/** What an input device is to a person: a tablet has absolute coordinates, from 0 to 32767, a mouse relative ones. */
export type InputKind = 'keyboard' | 'tablet' | 'mouse';

/** Services of the machine for vendor drivers. */
export interface VendorEnvironment {
  /** The thread that runs data paths; lives as long as the machine. */
  readonly eventThread: EventThread;
}

/** An option of a type, `net=BACKEND`, for lists of what there is. */
export interface MdevTypeOption {
  /** Its name: `net`. */
  readonly name: string;
  /** A word for its value, `BACKEND`, or the values with bars between them: `loopback|pty|unix:PATH`. */
  readonly value: string;
  /** One readable line: what it sets, and its default. */
  readonly description: string;
}

/** One type of mediated device, as under /sys/class/mdev_bus/PARENT/mdev_supported_types. */
export interface MdevType {
  /** Name by which instances are created: `virtio-net`. */
  readonly name: string;
  /** One readable line. */
  readonly description: string;
  /** The VFIO device API of its instances: `vfio-pci`. */
  readonly deviceApi: string;
  /** How many instances can exist at once; the core counts the ones available. */
  readonly maxInstances: number;
  /** The options that `create` takes; absent if the driver does not say. */
  readonly options?: readonly MdevTypeOption[];
}

/** Something that a parent device divides among its instances: video memory, engines. */
export interface MdevResource {
  /** Readable: `video memory`. */
  readonly name: string;
  /** `MiB`; empty for what is counted. */
  readonly unit: string;
  /** What the device has. */
  readonly total: number;
  /** What no instance has. */
  readonly left: number;
}

/** What one instance has of its parent device. */
export interface MdevUse {
  /** Of the instance. */
  readonly uuid: string;
  /** Name of its type. */
  readonly type: string;
  /** By the resource's name, in words: `64 MiB at 128 MiB`. */
  readonly uses: Readonly<Record<string, string>>;
}

/** A device that a vendor driver divides, as under /sys/class/mdev_bus: what it has, and who has it. Plain data. */
export interface MdevParentState {
  /** Unique among those of the driver: `card0`. */
  readonly name: string;
  /** How it is divided, in words. */
  readonly description: string;
  /** What is divided. */
  readonly resources: readonly MdevResource[];
  /** By the type's name: how many more instances can be created on this device, if only of that type. */
  readonly availableInstances: Readonly<Record<string, number>>;
  /** What there is on it. */
  readonly instances: readonly MdevUse[];
}

/** A vendor driver: an object that VfioCore.registerVendorDriver takes. */
export interface VendorDriver {
  /** Name of the driver, unique among those of one core: `virtio-net`. */
  readonly name: string;
  /** The types it offers, fixed while it is registered. */
  readonly types: readonly MdevType[];
  /** How many more instances of a type the driver can create; for drivers whose types share a limited resource. */
  availableInstances?(type: MdevType): number;
  /**
   * Why no instance of a type can be created, for the error of a person who wanted one: what is left, and who has the rest.
   * Called while {@link availableInstances} returns 0. Absent: the error says that all are in use.
   * @param options those of {@link create}, not checked
   */
  shortage?(type: MdevType, options: Readonly<Record<string, string>>): string;
  /** The devices that it divides, with their accounts. Absent: it has none to speak of. */
  parents?(): readonly MdevParentState[];
  /**
   * What is wrong with the options, as {@link create} would say it; undefined if nothing is. Opens and allocates nothing:
   * it is called before a machine starts. Absent: `create` finds out.
   */
  checkOptions?(type: MdevType, options: Readonly<Record<string, string>>): string | undefined;
  /**
   * Creates an instance; the core then registers its device.
   * @param options the options after the type's name: `net=tap:tap0` becomes `{ net: 'tap:tap0' }`
   * @throws SysError EINVAL with a hint for an option that is unknown or invalid
   */
  create(
    type: MdevType,
    uuid: string,
    options: Readonly<Record<string, string>>,
    environment: VendorEnvironment,
  ): MdevInstance;
}

/** An instance of a mediated device type; disposing releases what {@link VendorDriver.create} allocated. */
export interface MdevInstance extends Disposable {
  /** The device's functions, registered with the core. */
  readonly ops: VfioDeviceOps;
  /** @see AssignableDevice.counters */
  counters?(): Readonly<Record<string, number>>;
  /** @see AssignableDevice.vectorCounts */
  vectorCounts?(): readonly number[];
  /** @see AssignableDevice.inject */
  inject?(faults: string): void;
  /** @see AssignableDevice.input */
  input?(events: readonly InputEvent[]): void;
  /** @see AssignableDevice.inputKind */
  readonly inputKind?: InputKind;
  /** The virtual functions that its guest can enable; absent if it has none. Fixed. */
  readonly sriov?: SriovFunctions<MdevInstance>;
  /** @see AssignableDevice.parent */
  parent?(): MdevParentState;
}
