/** What a vendor driver written in TypeScript is made of: the core's counterpart of struct vfio_device_ops. */
import type { Iova } from '../sys/address.js';
import type { EventThread } from '../sys/event-task.js';
import type { Mapping } from '../sys/mapping.js';
import type { DmaTableBuffer } from './dma-table.js';
import type {
  DeviceInfo,
  GfxPlaneInfo,
  GfxPlaneQuery,
  IrqInfo,
  IrqSet,
  RegionInfo,
  RegionIoEventFd,
} from './uapi.js';

/**
 * A virtual machine as VFIO knows it: an opaque pointer with "get unless dying" references (kvm_get_kvm_safe).
 * kvm/ has the real one.
 */
export interface KvmPointer {
  /** Takes a reference; false if the VM is being destroyed. */
  getUnlessDying(): boolean;
  /** Gives a reference back; the last one destroys the VM, so never under a lock. */
  put(): void;
}

/** Guest memory as the device may reach it: the maps of its container or IOAS. Machine thread only. */
export interface DeviceDma {
  /** vfio_dma_rw: copies between `data` and IOVA. @throws SysError EFAULT unmapped; EPERM against the map's direction */
  rw(iova: Iova, data: Uint8Array, isWrite: boolean): void;
  /** The same maps in shared memory, for the part of the driver that runs in the event thread. */
  readonly table: DmaTableBuffer;
}

/** What a driver's device gets when it is opened; valid until closeDevice. */
export interface OpenDevice {
  /** The VM it is associated with, if that was said before the open (device->kvm). */
  readonly kvm: KvmPointer | undefined;
  /** The address space that the device's DMA goes through. */
  readonly dma: DeviceDma;
}

/**
 * A device's functions. The core calls them between register and unregister only, and only while the device is open
 * (but for `request`); region indexes and irq sets have been validated against the infos. openDevice and closeDevice may
 * be generator functions of Steps: each yield is then a point at which the testing kit's scheduler may switch tasks.
 */
export interface VfioDeviceOps {
  /** Driver's name, for messages. */
  readonly name: string;
  /** First open. @throws SysError to refuse it */
  openDevice(open: OpenDevice): void;
  /** Last close: afterwards the device uses no memory, eventfd or thread of the opener's. */
  closeDevice(): void;
  /** Answers VFIO_DEVICE_GET_INFO; asked once per open, so the number of regions stays the same until the last close. */
  getInfo(): DeviceInfo;
  /** Without `offset`: the core places regions in the device file as vfio-pci does (index << 40). */
  getRegionInfo(index: number): Omit<RegionInfo, 'offset'>;
  /** Doorbells of a region that the user may replace by eventfds; absent if there are none. */
  getRegionIoFds?(index: number): readonly RegionIoEventFd[];
  /** Answers VFIO_DEVICE_GET_IRQ_INFO. */
  getIrqInfo(index: number): IrqInfo;
  /** Eventfds in `set.data` stay valid only during the call: duplicate what is kept. */
  setIrqs(set: IrqSet): void;
  /** VFIO_DEVICE_RESET; absent if the device has no reset. */
  reset?(): void;
  /** Returns the bytes read. */
  read(index: number, offset: number, data: Uint8Array): number;
  /** Writes `data` at `offset` bytes into a region. Returns the bytes written. */
  write(index: number, offset: number, data: Uint8Array): number;
  /**
   * Maps part of a region into this process; absent if no region has VFIO_REGION_INFO_FLAG_MMAP. The caller
   * disposes the mapping.
   */
  mmap?(index: number, offset: number, bytes: number): Mapping;
  /** What a display shows; `flags` have been checked to name one type. @throws SysError EINVAL for a type it has not */
  queryGfxPlane?(query: GfxPlaneQuery): GfxPlaneInfo;
  /** The host wants the device back; called again with a growing count until it is closed. */
  request?(count: number): void;
  /** False for a driver whose device can be opened through its group only (no bind_iommufd). */
  readonly hasIommufd?: boolean;
  /** Whether and how it can be moved to another host. */
  readonly migration?: MigrationOps;
  /** Tracking of the pages that it writes. */
  readonly dmaLogging?: DmaLoggingOps;
  /** DMA to this range is about to stop being possible: let go of what was pinned there. */
  dmaUnmap?(iova: Iova, bytes: bigint): void;
}

/** struct vfio_migration_ops. The core goes from state to state; the driver does one arc at a time. */
export interface MigrationOps {
  /** VFIO_MIGRATION_ bits it supports. */
  readonly flags: number;
  /** The VFIO_DEVICE_STATE_ it is in. */
  getState(): number;
  /** One arc. Returns the descriptor of a data stream that the arc opens: the caller's to close. @throws SysError */
  arc(from: number, to: number): number | undefined;
  /** Bytes that STOP_COPY is expected to take. */
  getDataSize(): bigint;
}

/** struct vfio_log_ops. Ranges have been checked. */
export interface DmaLoggingOps {
  /** Returns the page size it tracks by. */
  start(ranges: readonly { readonly iova: Iova; readonly length: bigint }[], pageSize: bigint): bigint;
  /** Ends tracking and releases what {@link start} took. */
  stop(): void;
  /** Sets a bit in `bitmap` for each page of the range written since it was last asked. */
  readAndClear(
    range: { readonly iova: Iova; readonly length: bigint },
    pageSize: bigint,
    bitmap: Uint8Array,
  ): void;
}

/** What a vendor driver is given by the machine it lives in. */
export interface VendorEnvironment {
  /** The thread in which data paths run; lives as long as the machine. */
  readonly eventThread: EventThread;
}

/** One type of mediated device, as under /sys/class/mdev_bus/PARENT/mdev_supported_types. */
export interface MdevType {
  /** `virtio-net`; instances are created by this name. */
  readonly name: string;
  /** One line for a person. */
  readonly description: string;
  /** `vfio-pci` */
  readonly deviceApi: string;
  /** How many can exist at once; the core counts what is left. */
  readonly maxInstances: number;
}

/** A vendor driver: a plug-in object, registered in one line of vmm/compose.ts. */
export interface VendorDriver {
  /** Name of the driver, unique among those of one core: `virtio-net`. */
  readonly name: string;
  /** The types it offers, fixed while it is registered. */
  readonly types: readonly MdevType[];
  /** How many more of a type the driver could make, where its types share something that runs out. */
  availableInstances?(type: MdevType): number;
  /**
   * Makes an instance; its device is registered right after.
   * @param options what the user wrote behind the type's name, `net=tap:tap0` as `{ net: 'tap:tap0' }`
   * @throws SysError EINVAL with a hint for an option that is unknown or wrong
   */
  create(
    type: MdevType,
    uuid: string,
    options: Readonly<Record<string, string>>,
    environment: VendorEnvironment,
  ): MdevInstance;
}

/** A mediated device as its driver made it; dispose frees what create took. */
export interface MdevInstance extends Disposable {
  /** The device's functions, registered with the core. */
  readonly ops: VfioDeviceOps;
  /** @see AssignableDevice.counters */
  counters?(): Readonly<Record<string, number>>;
}
