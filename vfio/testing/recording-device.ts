import type { Iova } from '../../sys/address.js';
import type { Mapping } from '../../sys/mapping.js';
import type { CoreOpenDevice } from '../core/device.js';
import type { PciOps, VfioDeviceOps } from '../driver.js';
import {
  type DeviceInfo,
  type IrqInfo,
  type IrqSet,
  type RegionInfo,
  VFIO_DEVICE_FLAGS_PCI,
  VFIO_DEVICE_FLAGS_RESET,
  VFIO_IRQ_INFO_EVENTFD,
  VFIO_REGION_INFO_FLAG_READ,
  VFIO_REGION_INFO_FLAG_WRITE,
} from '../uapi.js';

type Region = Omit<RegionInfo, 'offset'>;

const readWrite = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;

/** Options of a {@link RecordingDevice}. */
export interface RecordingDeviceOptions {
  /** Regions by index; one of 4096 bytes, readable and writable, if absent. */
  readonly regions?: readonly Omit<RegionInfo, 'index' | 'offset'>[];
  /** Number of interrupts of each index. */
  readonly irqs?: readonly number[];
  /** Whether it can be bound to an iommufd; true if absent. */
  readonly hasIommufd?: boolean;
  /** What openDevice does besides recording the call; may be a generator function of Steps. */
  readonly onOpen?: (open: CoreOpenDevice) => void;
  /** What closeDevice does besides recording the call; may be a generator function of Steps. */
  readonly onClose?: () => void;
  /** What `request` does besides recording the call: closing the files lets unregister finish. */
  readonly onRequest?: (count: number) => void;
  /** Slot, bus and VFs; not one of PCI if absent. */
  readonly pci?: PciOps;
  /** Whether it can be reset by itself; true if absent. */
  readonly hasReset?: boolean;
  /** Creates the mapping for `mmap`; if absent, `mmap` throws. */
  readonly onMmap?: (index: number, offset: number, bytes: number) => Mapping;
}

/** A vendor driver's device that records its calls in order, and keeps the bytes of its regions in memory. */
export class RecordingDevice implements VfioDeviceOps {
  readonly name: string;
  /** `openDevice`, `read 0 0x10 4`, `request 0` … */
  readonly calls: string[] = [];
  readonly hasIommufd: boolean;
  readonly pci?: PciOps;
  /** As a driver's; absent if the options say that there is none. */
  readonly reset?: () => void;
  /** Calls that the core should not have made: to a closed device, or opening one twice. */
  readonly misuse: string[] = [];
  /** Argument of the last openDevice; undefined while closed. */
  open: CoreOpenDevice | undefined;
  /** Last set of interrupts. */
  irqSet: IrqSet | undefined;
  /** The bytes of each region, by index. */
  readonly memory: readonly Uint8Array[];
  readonly #regions: readonly Region[];
  readonly #irqs: readonly number[];
  readonly #options: RecordingDeviceOptions;

  constructor(name: string, options: RecordingDeviceOptions = {}) {
    const regions = options.regions ?? [{ flags: readWrite, size: 4096, capabilities: [] }];
    this.name = name;
    this.hasIommufd = options.hasIommufd ?? true;
    if (options.pci !== undefined) this.pci = options.pci;
    if (options.hasReset !== false) this.reset = () => this.#note('reset');
    this.#options = options;
    this.#regions = regions.map((region, index) => ({ ...region, index }));
    this.#irqs = options.irqs ?? [1];
    this.memory = this.#regions.map(({ size }) => new Uint8Array(size));
  }

  /** Whether it is between openDevice and closeDevice. */
  get isOpen(): boolean {
    return this.open !== undefined;
  }

  openDevice(open: CoreOpenDevice): unknown {
    this.#note('openDevice');
    this.open = open;
    return this.#options.onOpen?.(open);
  }

  closeDevice(): unknown {
    this.#note('closeDevice');
    this.open = undefined;
    return this.#options.onClose?.();
  }

  getInfo(): DeviceInfo {
    const flags = VFIO_DEVICE_FLAGS_PCI | (this.reset === undefined ? 0 : VFIO_DEVICE_FLAGS_RESET);
    return { flags, numRegions: this.#regions.length, numIrqs: this.#irqs.length };
  }

  /** The region as the options describe it. */
  getRegionInfo(index: number): Omit<RegionInfo, 'offset'> {
    return this.#regions[index] as Region;
  }

  getIrqInfo(index: number): IrqInfo {
    return { index, flags: VFIO_IRQ_INFO_EVENTFD, count: this.#irqs[index] ?? 0 };
  }

  setIrqs(set: IrqSet): void {
    this.#note(`setIrqs ${set.index} ${set.start} ${set.count}`);
    this.irqSet = set;
  }

  read(index: number, offset: number, data: Uint8Array): number {
    this.#note(`read ${index} 0x${offset.toString(16)} ${data.length}`);
    data.set((this.memory[index] as Uint8Array).subarray(offset, offset + data.length));
    return data.length;
  }

  write(index: number, offset: number, data: Uint8Array): number {
    this.#note(`write ${index} 0x${offset.toString(16)} ${data.length}`);
    (this.memory[index] as Uint8Array).set(data, offset);
    return data.length;
  }

  mmap(index: number, offset: number, bytes: number): Mapping {
    this.#note(`mmap ${index} 0x${offset.toString(16)} 0x${bytes.toString(16)}`);
    const { onMmap } = this.#options;
    if (onMmap === undefined) throw new Error(`${this.name}: no onMmap was given`);
    return onMmap(index, offset, bytes);
  }

  request(count: number): void {
    this.#note(`request ${count}`);
    this.#options.onRequest?.(count);
  }

  dmaUnmap(iova: Iova, bytes: bigint): void {
    this.#note(`dmaUnmap 0x${iova.toString(16)} 0x${bytes.toString(16)}`);
  }

  #note(call: string): void {
    this.calls.push(call);
    const isOpening = call === 'openDevice';
    if (this.isOpen === isOpening && !call.startsWith('request')) this.misuse.push(call);
  }
}
