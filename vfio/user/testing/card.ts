/** A device for tests of vfio-user: registers, mappable memory, an interrupt, a doorbell, and DMA of 64 bytes. */
import { readSync, writeSync } from 'node:fs';
import { type Iova, iova } from '../../../sys/address.js';
import { errno } from '../../../sys/errno.js';
import { SysError } from '../../../sys/error.js';
import { signalEventfd } from '../../../sys/eventfd.js';
import { duplicateFd, Fd } from '../../../sys/fd.js';
import * as libc from '../../../sys/libc.js';
import { createSharedMemory, Mapping } from '../../../sys/mapping.js';
import { Scope } from '../../../sys/scope.js';
import { VfioCore } from '../../core/core.js';
import type { DeviceDma, DmaLoggingOps, MigrationOps, OpenDevice, VfioDeviceOps } from '../../driver.js';
import {
  type MigrationData,
  VFIO_DEVICE_STATE_PRE_COPY,
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_STOP_COPY,
  VFIO_MIGRATION_PRE_COPY,
  VFIO_MIGRATION_STOP_COPY,
} from '../../feature.js';
import {
  type DeviceInfo,
  type IrqInfo,
  type IrqSet,
  type RegionInfo,
  type RegionIoEventFd,
  VFIO_DEVICE_FLAGS_PCI,
  VFIO_DEVICE_FLAGS_RESET,
  VFIO_IRQ_INFO_EVENTFD,
  VFIO_IRQ_SET_DATA_BOOL,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_REGION_INFO_CAP_SPARSE_MMAP,
  VFIO_REGION_INFO_FLAG_MMAP,
  VFIO_REGION_INFO_FLAG_READ,
  VFIO_REGION_INFO_FLAG_WRITE,
} from '../../uapi.js';
import { openForClient } from '../server/server.js';
import type { ServedDevice } from '../server/session.js';

const F_DUPFD_CLOEXEC = 1030;
const RW = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
export const REGISTERS = 0;
/** Region of 3 pages, of which the first and last can be mapped. */
export const MEMORY = 2;
export const CONFIG = 7;
export const REGISTER_BYTES = 4096;
export const MEMORY_BYTES = 3 * 4096;
/** A write of an IOVA (8 bytes) here makes the card add 1 to each of 64 bytes there, and raise interrupt 0 of MSI-X. */
export const KICK = 0x100;
export const DOORBELL = 0x200;
export const DMA_BYTES = 64;
/** Bytes of the registers that are read in PRE_COPY. */
const PRE_COPIED_BYTES = 100;
export const MSIX = 2;
export const VECTORS = 4;

export class Card implements VfioDeviceOps, Disposable {
  readonly name = 'card';
  /** Its registers are its state. */
  readonly migration: MigrationOps;
  /** Every other page was written. */
  readonly dmaLogging: DmaLoggingOps = {
    start: (_ranges, pageSize) => pageSize,
    stop: () => {},
    readAndClear: (_range, _pageSize, bitmap) => void bitmap.fill(0x55),
  };
  #state = VFIO_DEVICE_STATE_RUNNING;
  #incoming: Fd | undefined;
  readonly registers = new Uint8Array(REGISTER_BYTES);
  readonly doorbell = Fd.eventfd('doorbell');
  resets = 0;
  opens = 0;
  readonly #memory = createSharedMemory('card', MEMORY_BYTES);
  #open: OpenDevice | undefined;
  readonly #vectors: (Fd | undefined)[] = [];

  /** While it is open. */
  get dma(): DeviceDma | undefined {
    return this.#open?.dma;
  }

  /** @param hasPreCopy whether its first registers can be read while it runs */
  constructor(hasPreCopy = false) {
    this.migration = {
      flags: VFIO_MIGRATION_STOP_COPY | (hasPreCopy ? VFIO_MIGRATION_PRE_COPY : 0),
      getState: () => this.#state,
      getDataSize: () => BigInt(REGISTER_BYTES),
      mostResumeBytes: REGISTER_BYTES,
      arc: (from, to) => this.#arc(from, to),
    };
  }

  openDevice(open: OpenDevice): void {
    this.#open = open;
    this.registers.fill(0);
    this.opens++;
  }

  closeDevice(): void {
    for (const fd of this.#vectors.splice(0)) fd?.[Symbol.dispose]();
    this.#incoming?.[Symbol.dispose]();
    this.#incoming = undefined;
    this.#state = VFIO_DEVICE_STATE_RUNNING;
    this.#open = undefined;
  }

  getInfo(): DeviceInfo {
    return { flags: VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET, numRegions: 9, numIrqs: 5 };
  }

  getRegionInfo(index: number): Omit<RegionInfo, 'offset'> {
    if (index === REGISTERS) return { index, flags: RW, size: REGISTER_BYTES, capabilities: [] };
    if (index === CONFIG) return { index, flags: RW, size: 256, capabilities: [] };
    if (index !== MEMORY) return { index, flags: 0, size: 0, capabilities: [] };
    const areas = [
      { offset: 0, size: 4096 },
      { offset: 8192, size: 4096 },
    ];
    const capabilities = [{ id: VFIO_REGION_INFO_CAP_SPARSE_MMAP, areas }] as const;
    return { index, flags: RW | VFIO_REGION_INFO_FLAG_MMAP, size: MEMORY_BYTES, capabilities };
  }

  getRegionIoFds(index: number): readonly RegionIoEventFd[] {
    return index === REGISTERS ? [{ offset: DOORBELL, size: 4, fd: this.doorbell.number }] : [];
  }

  getIrqInfo(index: number): IrqInfo {
    return { index, flags: VFIO_IRQ_INFO_EVENTFD, count: index === MSIX ? VECTORS : 0 };
  }

  setIrqs({ flags, start, count, data = [] }: IrqSet): void {
    if ((flags & VFIO_IRQ_SET_DATA_EVENTFD) === 0 && count > 0) {
      const isMeant = (i: number) => (flags & VFIO_IRQ_SET_DATA_BOOL) === 0 || data[i] === 1;
      for (const [i, fd] of this.#vectors.slice(start, start + count).entries())
        if (fd !== undefined && isMeant(i)) signalEventfd(fd.number);
      return;
    }
    if (count === 0) for (const fd of this.#vectors.splice(0)) fd?.[Symbol.dispose]();
    for (let i = start; i < start + count; i++) {
      const number = (flags & VFIO_IRQ_SET_DATA_EVENTFD) === 0 ? -1 : (data[i - start] ?? -1);
      this.#vectors[i]?.[Symbol.dispose]();
      this.#vectors[i] = number < 0 ? undefined : duplicateFd(number, `vector ${i}`);
    }
  }

  #arc(from: number, to: number): number | MigrationData | undefined {
    this.#state = to;
    if (to === VFIO_DEVICE_STATE_PRE_COPY) return this.#preCopy();
    if (from === VFIO_DEVICE_STATE_PRE_COPY) return undefined;
    if (from === VFIO_DEVICE_STATE_RESUMING) {
      if (this.#incoming !== undefined) readSync(this.#incoming.number, this.registers, { position: 0 });
      this.#incoming?.[Symbol.dispose]();
      this.#incoming = undefined;
    }
    if (to !== VFIO_DEVICE_STATE_STOP_COPY && to !== VFIO_DEVICE_STATE_RESUMING) return undefined;
    using data = Fd.memfd('card state');
    if (to === VFIO_DEVICE_STATE_STOP_COPY) writeSync(data.number, this.registers, 0, REGISTER_BYTES, 0);
    else this.#incoming = data.duplicate();
    // The number goes to whoever asked, who closes it.
    return libc.fcntl(data.number, F_DUPFD_CLOEXEC, 0);
  }

  /** The first registers, and the others once it has stopped. */
  #preCopy(): MigrationData {
    let at = 0;
    return {
      read: (data) => {
        const isStopped = this.#state === VFIO_DEVICE_STATE_STOP_COPY;
        if (at >= PRE_COPIED_BYTES && !isStopped)
          throw new SysError({ call: 'read', target: 'card', errno: errno.ENOMSG });
        const end = isStopped ? REGISTER_BYTES : PRE_COPIED_BYTES;
        const piece = this.registers.subarray(at, Math.min(at + data.length, end));
        data.set(piece);
        at += piece.length;
        return piece.length;
      },
      write: () => {
        throw new SysError({ call: 'write', target: 'card', errno: errno.EBADF });
      },
      precopyInfo: () => ({ initialBytes: BigInt(Math.max(PRE_COPIED_BYTES - at, 0)), dirtyBytes: 0n }),
      [Symbol.dispose]: () => {},
    };
  }

  reset(): void {
    this.resets++;
    this.#incoming?.[Symbol.dispose]();
    this.#incoming = undefined;
    this.#state = VFIO_DEVICE_STATE_RUNNING;
    this.registers.fill(0);
  }

  #bytes(index: number): Uint8Array {
    return index === MEMORY ? this.#memory.mapping.view.slice(0, MEMORY_BYTES) : this.registers;
  }

  read(index: number, offset: number, data: Uint8Array): number {
    data.set(this.#bytes(index).subarray(offset, offset + data.length));
    return data.length;
  }

  write(index: number, offset: number, data: Uint8Array): number {
    this.#bytes(index).set(data, offset);
    if (index === REGISTERS && offset === KICK && data.length === 8) this.#kick();
    return data.length;
  }

  #kick(): void {
    const at: Iova = iova(new DataView(this.registers.buffer).getBigUint64(KICK, true));
    const data = new Uint8Array(DMA_BYTES);
    try {
      this.#open?.dma.rw(at, data, false);
      this.#open?.dma.rw(
        at,
        data.map((byte) => byte + 1),
        true,
      );
    } catch {
      this.registers[KICK + 8] = 1;
    }
    const [vector] = this.#vectors;
    if (vector !== undefined) signalEventfd(vector.number);
  }

  mmap(_index: number, offset: number, bytes: number): Mapping {
    return Mapping.file(this.#memory.fd, bytes, { offset });
  }

  [Symbol.dispose](): void {
    this.#memory[Symbol.dispose]();
    this.doorbell[Symbol.dispose]();
  }
}

/** A card of a core of its own, as a server opens it for a client. */
export interface CardHost extends Disposable {
  readonly card: Card;
  open(): ServedDevice;
}

/** @param hasPreCopy as {@link Card} */
export function hostCard(hasPreCopy = false): CardHost {
  using scope = new Scope();
  const core = scope.own(new VfioCore());
  const card = new Card(hasPreCopy);
  core.registerVendorDriver(
    {
      name: 'card',
      types: [{ name: 'card', description: 'a card', deviceApi: 'vfio-pci', maxInstances: 1 }],
      create: () => ({ ops: card, [Symbol.dispose]: () => card[Symbol.dispose]() }),
    },
    {
      eventThread: {
        run: () => {
          throw new RangeError('a card has no data path of its own');
        },
      },
    },
  );
  const device = scope.own(core.provider.resolve('card', {}));
  const owned = scope.move();
  return {
    card,
    open: () => openForClient(core.provider, device),
    [Symbol.dispose]: () => owned[Symbol.dispose](),
  };
}
