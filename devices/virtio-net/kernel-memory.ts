/** What of a device's maps the kernel is given, where a queue's rings are in it, and what it writes there. */
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { PROT_READ, PROT_WRITE } from '../../sys/mapping.js';
import { type DmaTableBuffer, type DmaTableEntry, DmaTableReader } from '../../vfio/dma-table.js';
import type { WrittenPages } from '../../vfio/written-pages.js';
import type { KernelQueues, KernelRegion } from '../net/index.js';
import type { QueueSetup } from '../virtio/queue-setup.js';
import { ringBytes } from '../virtio/split-queue.js';
import { KERNEL_LOG_END, KernelLog } from './kernel-log.js';

const READ_WRITE = PROT_READ | PROT_WRITE;

/**
 * The maps that may be given to the kernel, whose regions have no rights of their own: those that the device may both read and
 * write, and that are in this process.
 */
export const givenMaps = (maps: readonly DmaTableEntry[]): DmaTableEntry[] =>
  maps.filter(({ address, prot }) => address !== 0 && (prot & READ_WRITE) === READ_WRITE);

/** As few regions as the maps, sorted by IOVA, can be merged to. */
export function regionsOf(maps: readonly DmaTableEntry[]): KernelRegion[] {
  const regions: KernelRegion[] = [];
  for (const { iova, bytes, address } of maps) {
    const last = regions.at(-1);
    const meets =
      last !== undefined && last.iova + last.bytes === iova && last.address + last.bytes === address;
    if (meets) regions[regions.length - 1] = { ...last, bytes: last.bytes + bytes };
    else regions.push({ iova, bytes, address });
  }
  return regions;
}

/** Of I/O virtual addresses. */
export interface IovaRange {
  readonly iova: number;
  readonly bytes: number;
}

/** Addresses of a queue's rings in this process. */
export interface RingAddresses {
  readonly desc: number;
  readonly avail: number;
  readonly used: number;
}

/** The rings' I/O virtual addresses and lengths. */
export function ringsOf({ size, desc, driver, device }: QueueSetup) {
  const { descBytes, availBytes, usedBytes } = ringBytes(size);
  // The two events lie behind the rings; 2.7.6, 2.7.8
  return [
    { iova: desc, bytes: descBytes },
    { iova: driver, bytes: availBytes },
    { iova: device, bytes: usedBytes },
  ] as const;
}

/** Where a queue's rings are; undefined unless each of them is whole in one region. */
export function locateRings(setup: QueueSetup, regions: readonly KernelRegion[]): RingAddresses | undefined {
  const [desc, avail, used] = ringsOf(setup).map(({ iova, bytes }) => {
    const region = regions.find((each) => iova >= each.iova && iova + bytes <= each.iova + each.bytes);
    return region === undefined ? undefined : region.address + iova - region.iova;
  });
  if (desc === undefined || avail === undefined || used === undefined) return undefined;
  return { desc, avail, used };
}

/** Whether a range meets another one. */
export const overlaps = (a: IovaRange, b: IovaRange): boolean =>
  a.iova < b.iova + b.bytes && b.iova < a.iova + a.bytes;

/** Memory that the kernel cannot be given: the message says why. */
export class BeyondKernel extends Error {}

const BEYOND_LOG = `its memory reaches beyond ${KERNEL_LOG_END / 2 ** 40} TiB, where what it writes cannot be logged`;

const isBeyondLog = ({ iova, bytes }: IovaRange): boolean => iova + bytes > KERNEL_LOG_END;

/**
 * The memory that the kernel accesses for a device, and the log of what it writes there. Its calls throw the SysError of the kernel's
 * refusal, after which the kernel's file has to be closed; {@link lose} follows. Event thread only.
 */
export class KernelMemory {
  readonly #kernel: KernelQueues;
  /** Of the device's maps; undefined while it is not attached to any. */
  #reader: DmaTableReader | undefined;
  /** Of these, the kernel's regions are made. */
  #maps: readonly DmaTableEntry[] = [];
  /** Present while the device logs what it writes; also of a kernel that does nothing now, but has. */
  #log: { readonly marks: KernelLog; readonly written: WrittenPages } | undefined;

  constructor(kernel: KernelQueues) {
    this.#kernel = kernel;
  }

  get isAttached(): boolean {
    return this.#reader !== undefined;
  }

  /** Whether the kernel has none. */
  get isEmpty(): boolean {
    return this.#maps.length === 0;
  }

  attach(table: DmaTableBuffer): void {
    this.#reader = new DmaTableReader(table);
  }

  detach(): void {
    this.#reader = undefined;
  }

  /** Gives the kernel what it can have of the device's maps. Returns whether that is not what it had. @throws BeyondKernel, too */
  follow(): boolean {
    const before = JSON.stringify(this.#maps);
    this.#give(givenMaps(this.#read((reader) => reader.entries())));
    return JSON.stringify(this.#maps) !== before;
  }

  /** Whether the kernel has something of a range. */
  meets(range: IovaRange): boolean {
    return this.#maps.some((map) => overlaps(map, range));
  }

  /** Takes the maps that meet a range: when it returns, the kernel does not access them. */
  take(range: IovaRange): void {
    this.#give(this.#maps.filter((map) => !overlaps(map, range)));
  }

  /** Takes all. */
  clear(): void {
    this.#give([]);
  }

  /** The kernel's file is closed, and it has nothing. */
  lose(): void {
    this.#maps = [];
  }

  /** Where a queue's rings are; undefined if the kernel cannot access one of them. */
  locate(setup: QueueSetup): RingAddresses | undefined {
    return locateRings(setup, regionsOf(this.#maps));
  }

  /** The index of a queue's used ring; undefined if it is not in memory of this process. */
  usedIndexOf(setup: QueueSetup): number | undefined {
    return this.#read((reader) => {
      const [, , { iova, bytes }] = ringsOf(setup);
      const used =
        iova + bytes <= Number.MAX_SAFE_INTEGER ? reader.slice(iova, bytes, PROT_WRITE) : undefined;
      if (used === undefined || used.byteOffset % 2 !== 0) return undefined;
      return Atomics.load(new Uint16Array(used.buffer, used.byteOffset, 2), 1);
    });
  }

  /**
   * Logs the pages that the kernel writes, if it can log. {@link stopLog} and {@link dropLog} follow, also if it throws.
   * @throws SysError ENOMEM, too; E2BIG if its memory reaches beyond what can be logged
   */
  startLog(written: WrittenPages): void {
    if (this.#kernel.setLog === undefined) return;
    if (this.#maps.some(isBeyondLog)) {
      const call = 'VFIO_DEVICE_FEATURE_DMA_LOGGING_START';
      throw new SysError({ call, target: 'vhost-net', errno: errno.E2BIG, hint: BEYOND_LOG });
    }
    this.#log = { marks: new KernelLog(), written };
    this.#kernel.setLog(this.#log.marks.address);
  }

  /** Has the kernel mark no more pages. */
  stopLog(): void {
    if (this.#log !== undefined) this.#kernel.setLog?.(0);
  }

  /** The kernel marks no more: it has said so, or its file is closed. */
  dropLog(): void {
    this.#log?.marks[Symbol.dispose]();
    this.#log = undefined;
  }

  /** Marks the pages of a range in the log that the kernel has written since the last call. */
  gatherLog(iova: number, bytes: number): void {
    this.#log?.marks.moveTo(this.#log.written, iova, bytes);
  }

  #read<T>(use: (reader: DmaTableReader) => T): T {
    const reader = this.#reader as DmaTableReader;
    reader.enter();
    try {
      return use(reader);
    } finally {
      reader.leave();
    }
  }

  #give(maps: readonly DmaTableEntry[]): void {
    const regions = regionsOf(maps);
    const { mostRegions } = this.#kernel;
    if (regions.length > mostRegions)
      throw new BeyondKernel(
        `its memory is in ${regions.length} pieces, and it takes ${mostRegions} ` +
          '(max_mem_regions of the module vhost)',
      );
    if (this.#log !== undefined && regions.some(isBeyondLog)) throw new BeyondKernel(BEYOND_LOG);
    this.#kernel.setMemory(regions);
    this.#maps = maps;
  }
}
