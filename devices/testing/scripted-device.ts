/** A VFIO device scripted by a test. */
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { signalEventfd } from '../../sys/eventfd.js';
import { duplicateFd, type Fd } from '../../sys/fd.js';
import { Mapping } from '../../sys/mapping.js';
import { regionOffset, regionPlace } from '../../vfio/region-layout.js';
import {
  type DeviceFile,
  type DeviceInfo,
  type IrqInfo,
  type IrqSet,
  type RegionCapability,
  type RegionInfo,
  type RegionIoEventFd,
  VFIO_DEVICE_FLAGS_PCI,
  VFIO_DEVICE_FLAGS_RESET,
  VFIO_IRQ_INFO_EVENTFD,
  VFIO_IRQ_INFO_NORESIZE,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_PCI_INTX_IRQ_INDEX,
  VFIO_PCI_MSIX_IRQ_INDEX,
  VFIO_PCI_NUM_IRQS,
  VFIO_PCI_NUM_REGIONS,
  VFIO_REGION_INFO_FLAG_MMAP,
  VFIO_REGION_INFO_FLAG_READ,
  VFIO_REGION_INFO_FLAG_WRITE,
} from '../../vfio/uapi.js';
import { VectorLimit } from '../../vfio/vector-limit.js';

/** A region of a {@link ScriptedDevice}. */
export interface ScriptedRegion {
  /** Bytes; 0 for a region that does not exist. */
  readonly size: number;
  /** VFIO_REGION_INFO_FLAG_… bits. Default: read and write. */
  readonly flags?: number;
  /** Capability chain of the region's info. Default: none. */
  readonly capabilities?: readonly RegionCapability[];
  /** Reply to getRegionIoFds. Default: none. */
  readonly ioFds?: readonly RegionIoEventFd[];
}

/** What a {@link ScriptedDevice} consists of. */
export interface ScriptedDeviceInit {
  /** Initial contents of configuration space, 256 or 4096 bytes; copied. */
  readonly config: Uint8Array;
  /** Writable bits of {@link ScriptedDeviceInit.config}. Default: all. */
  readonly configWritable?: Uint8Array;
  /** Regions by index. Others have size 0. */
  readonly regions?: Readonly<Record<number, ScriptedRegion>>;
  /** Number of vectors and VFIO_IRQ_INFO_… flags, by IRQ index. Default: no vectors; VFIO_IRQ_INFO_EVENTFD. */
  readonly irqs?: Readonly<Record<number, { readonly count: number; readonly flags?: number }>>;
  /** How many vectors the host has for MSI or MSI-X; setIrqs throws VectorLimit for more. Default: all. */
  readonly vectors?: number;
  /** Clears VFIO_DEVICE_FLAGS_RESET; a reset then throws SysError ENOTTY. */
  readonly hasNoReset?: boolean;
  /** @see DeviceFile.takesEmulatedWrites */
  readonly takesEmulatedWrites?: boolean;
}

/** A recorded call on a {@link ScriptedDevice}. */
export type DeviceCall =
  | {
      /** The call, on a range of a region. */
      readonly call: 'read' | 'write' | 'mmap';
      /** Index of the region. */
      readonly region: number;
      /** Offset in the region. */
      readonly at: number;
      /** Length of the range. */
      readonly bytes: number;
    }
  | {
      readonly call: 'setIrqs';
      /** Its argument. */
      readonly set: IrqSet;
    }
  | { readonly call: 'reset' };

const READ_WRITE = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;

/**
 * A device file whose regions are plain memory. It enforces vfio-pci's interrupt rules: one of INTx, MSI and MSI-X at a
 * time, and a set with VFIO_IRQ_INFO_NORESIZE does not grow. Calls listed in `failures` throw. Mask and unmask requests
 * have no effect; tests find them in `calls`.
 */
export class ScriptedDevice implements DeviceFile {
  readonly target = 'scripted device';
  readonly takesEmulatedWrites: boolean;
  /** Recorded calls, oldest first; a test may clear it. */
  readonly calls: DeviceCall[] = [];
  /** Errno that each of these calls throws; `unmaskBy` is the unmask by an eventfd, of setIrqs. */
  readonly failures = new Map<DeviceCall['call'] | 'unmaskBy', keyof typeof errno>();
  readonly #init: ScriptedDeviceInit;
  readonly #memory = new Map<number, Uint8Array>();
  /** Duplicates of the vectors' eventfds, by IRQ index. */
  readonly #triggers = new Map<number, (Fd | undefined)[]>();

  constructor(init: ScriptedDeviceInit) {
    this.#init = init;
    this.takesEmulatedWrites = init.takesEmulatedWrites === true;
    this.#memory.set(VFIO_PCI_CONFIG_REGION_INDEX, init.config.slice());
    for (const [index, { size }] of Object.entries(init.regions ?? {})) {
      this.#memory.set(Number(index), new Uint8Array(size));
    }
  }

  /** The region's bytes, without copying. A mapping has memory of its own, zeroed. */
  region(index: number): Uint8Array {
    return this.#memory.get(index) ?? new Uint8Array(0);
  }

  /** Configuration space, without copying. */
  get config(): Uint8Array {
    return this.region(VFIO_PCI_CONFIG_REGION_INDEX);
  }

  /** Vectors that have an eventfd, by IRQ index. */
  wired(): Record<number, number[]> {
    const wired: Record<number, number[]> = {};
    for (const [index, fds] of this.#triggers) {
      wired[index] = fds.flatMap((fd, vector) => (fd === undefined ? [] : [vector]));
    }
    return wired;
  }

  /** Signals a vector's eventfd. Returns false if it has none. */
  fire(index: number, vector = 0): boolean {
    const fd = this.#triggers.get(index)?.[vector];
    if (fd !== undefined) signalEventfd(fd.number);
    return fd !== undefined;
  }

  getInfo(): DeviceInfo {
    const flags = VFIO_DEVICE_FLAGS_PCI | (this.#init.hasNoReset ? 0 : VFIO_DEVICE_FLAGS_RESET);
    return { flags, numRegions: VFIO_PCI_NUM_REGIONS, numIrqs: VFIO_PCI_NUM_IRQS };
  }

  getRegionInfo(index: number): RegionInfo {
    if (index >= VFIO_PCI_NUM_REGIONS) throw this.#error('VFIO_DEVICE_GET_REGION_INFO', 'EINVAL');
    const offset = regionOffset(index);
    if (index === VFIO_PCI_CONFIG_REGION_INDEX) {
      return { index, flags: READ_WRITE, size: this.config.length, offset, capabilities: [] };
    }
    const region = this.#init.regions?.[index];
    const { size = 0, flags = size === 0 ? 0 : READ_WRITE, capabilities = [] } = region ?? {};
    return { index, flags, size, offset, capabilities };
  }

  getRegionIoFds(index: number): readonly RegionIoEventFd[] {
    if (index >= VFIO_PCI_NUM_REGIONS) throw this.#error('VFIO_USER_DEVICE_GET_REGION_IO_FDS', 'EINVAL');
    return this.#init.regions?.[index]?.ioFds ?? [];
  }

  getIrqInfo(index: number): IrqInfo {
    if (index >= VFIO_PCI_NUM_IRQS) throw this.#error('VFIO_DEVICE_GET_IRQ_INFO', 'EINVAL');
    const irq = this.#init.irqs?.[index];
    return { index, count: irq?.count ?? 0, flags: irq?.flags ?? VFIO_IRQ_INFO_EVENTFD };
  }

  setIrqs(set: IrqSet): void {
    this.calls.push({ call: 'setIrqs', set });
    this.#mayFail('setIrqs');
    const { index, flags, start, count, data } = set;
    const info = this.getIrqInfo(index);
    if (start + count > info.count) throw this.#error('VFIO_DEVICE_SET_IRQS', 'EINVAL');
    if ((flags & VFIO_IRQ_SET_ACTION_TRIGGER) === 0) {
      if ((flags & VFIO_IRQ_SET_DATA_EVENTFD) !== 0) this.#mayFail('unmaskBy');
      if (!this.#triggers.has(index)) throw this.#error('VFIO_DEVICE_SET_IRQS', 'EINVAL');
      return;
    }
    if ((flags & VFIO_IRQ_SET_DATA_NONE) !== 0) {
      if (count === 0) this.#release(index);
      return;
    }
    const isInterrupt = (i: number): boolean => i >= VFIO_PCI_INTX_IRQ_INDEX && i <= VFIO_PCI_MSIX_IRQ_INDEX;
    const isOtherInUse = [...this.#triggers.keys()].some((i) => i !== index && isInterrupt(i));
    if (isInterrupt(index) && isOtherInUse) throw this.#error('VFIO_DEVICE_SET_IRQS', 'EINVAL');
    const { vectors = count } = this.#init;
    if (isInterrupt(index) && index !== VFIO_PCI_INTX_IRQ_INDEX && count > vectors)
      throw new VectorLimit(`${this.target}, irq index ${index}`, count, vectors);
    const fds = this.#triggers.get(index);
    const isGrowing = fds !== undefined && start + count > fds.length;
    if (isGrowing && (info.flags & VFIO_IRQ_INFO_NORESIZE) !== 0) {
      throw this.#error('VFIO_DEVICE_SET_IRQS', 'EINVAL');
    }
    const list = fds ?? [];
    this.#triggers.set(index, list);
    while (list.length < start + count) list.push(undefined);
    for (const [i, fd] of (data ?? []).entries()) {
      list[start + i]?.[Symbol.dispose]();
      list[start + i] = fd < 0 ? undefined : duplicateFd(fd, `irq ${index}.${start + i}`);
    }
  }

  reset(): void {
    this.calls.push({ call: 'reset' });
    this.#mayFail('reset');
    if (this.#init.hasNoReset) throw this.#error('VFIO_DEVICE_RESET', 'ENOTTY');
  }

  read(offset: number, data: Uint8Array): number {
    const { region, at, memory } = this.#locate(offset);
    this.calls.push({ call: 'read', region, at, bytes: data.length });
    this.#mayFail('read');
    const part = memory.subarray(at, at + data.length);
    data.set(part);
    return part.length;
  }

  write(offset: number, data: Uint8Array): number {
    const { region, at, memory } = this.#locate(offset);
    this.calls.push({ call: 'write', region, at, bytes: data.length });
    this.#mayFail('write');
    const bytes = Math.min(data.length, memory.length - at);
    const masks = region === VFIO_PCI_CONFIG_REGION_INDEX ? this.#init.configWritable : undefined;
    for (let i = 0; i < bytes; i++) {
      const mask = masks?.[at + i] ?? 0xff;
      memory[at + i] = ((memory[at + i] as number) & ~mask) | ((data[i] as number) & mask);
    }
    return bytes;
  }

  mmap(offset: number, bytes: number): Mapping {
    const { region, at } = this.#locate(offset);
    this.calls.push({ call: 'mmap', region, at, bytes });
    this.#mayFail('mmap');
    const info = this.getRegionInfo(region);
    if ((info.flags & VFIO_REGION_INFO_FLAG_MMAP) === 0 || at + bytes > info.size) {
      throw this.#error('mmap', 'EINVAL');
    }
    return Mapping.anonymous(bytes);
  }

  deviceFeature(): never {
    throw this.#error('VFIO_DEVICE_FEATURE', 'ENOTTY');
  }

  /** Closes the duplicated eventfds. */
  [Symbol.dispose](): void {
    for (const index of [...this.#triggers.keys()]) this.#release(index);
  }

  #release(index: number): void {
    for (const fd of this.#triggers.get(index) ?? []) fd?.[Symbol.dispose]();
    this.#triggers.delete(index);
  }

  #locate(offset: number): { region: number; at: number; memory: Uint8Array } {
    const { index, at } = regionPlace(offset);
    return { region: index, at, memory: this.region(index) };
  }

  #mayFail(call: DeviceCall['call'] | 'unmaskBy'): void {
    const code = this.failures.get(call);
    if (code !== undefined) throw this.#error(call, code);
  }

  #error(call: string, code: keyof typeof errno): SysError {
    return new SysError({ call, target: this.target, errno: errno[code] });
  }
}
