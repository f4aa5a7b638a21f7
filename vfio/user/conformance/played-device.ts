/** The device that the suite plays to a client: what it answers, and what it finds wrong with what it is asked. */
import { fstatSync, readlinkSync } from 'node:fs';
import { errno } from '../../../sys/errno.js';
import { SysError } from '../../../sys/error.js';
import type { Fd } from '../../../sys/fd.js';
import { createSharedMemory, fileKind, type SharedMemory } from '../../../sys/mapping.js';
import {
  VFIO_DEVICE_FLAGS_PCI,
  VFIO_DEVICE_FLAGS_RESET,
  VFIO_IRQ_INFO_AUTOMASKED,
  VFIO_IRQ_INFO_EVENTFD,
  VFIO_IRQ_INFO_MASKABLE,
  VFIO_IRQ_SET_DATA_BOOL,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_PCI_NUM_IRQS,
  VFIO_PCI_NUM_REGIONS,
  VFIO_REGION_INFO_CAP_SPARSE_MMAP,
  VFIO_REGION_INFO_FLAG_MMAP,
  VFIO_REGION_INFO_FLAG_READ,
  VFIO_REGION_INFO_FLAG_WRITE,
} from '../../uapi.js';
import type { Message } from '../channel.js';
import {
  encodeDeviceInfo,
  encodeIoFds,
  encodeIrqInfo,
  encodeRegionInfo,
  Reader,
  Writer,
} from '../message.js';
import * as protocol from '../protocol.js';
import type { Audit } from './client-audit.js';
import {
  BAR_BYTES,
  CONFIG_BYTES,
  configSpace,
  MAPPED_BAR,
  MSIX_BAR,
  REGISTERS,
  VECTORS,
} from './played-config.js';

const RW = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
export const CONFIG = 7;
const AREAS = [
  { offset: 0x1000, size: 0x1000 },
  { offset: 0x4000, size: 0x4000 },
] as const;
const REGION_SIZES: Readonly<Record<number, number>> = {
  [REGISTERS]: BAR_BYTES[REGISTERS],
  [MAPPED_BAR]: BAR_BYTES[MAPPED_BAR],
  [MSIX_BAR]: BAR_BYTES[MSIX_BAR],
  [CONFIG]: CONFIG_BYTES,
};
const INTX_FLAGS = VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED;
/** INTx, MSI, MSI-X, ERR and REQ. */
const IRQ_COUNTS = [1, 0, VECTORS, 1, 1] as const;

/** What the suite takes of maps: few are compared with each other. */
export const MAX_DMA_MAPS = 1024;
/** Descriptors of a client that are kept: of maps, and to signal. */
const MOST_KEPT_FDS = 64;
const ACCESS_BYTES = 16;
const SET_IRQS_BYTES = 20;
const DATA_MASK = 7;
const ACTION_MASK = 0x38;
const isOneBit = (bits: number): boolean => bits !== 0 && (bits & (bits - 1)) === 0;
const hex = (value: bigint | number): string => `0x${value.toString(16)}`;

/** How the device differs from one that has nothing against anything. */
export interface Traits {
  /** Of its reply to VFIO_USER_VERSION; of those by default, undefined leaves one out. */
  readonly capabilities?: Readonly<Record<string, unknown>>;
  readonly hasReset?: boolean;
}

const CAPABILITIES = {
  max_msg_fds: 8,
  max_data_xfer_size: 1 << 20,
  max_dma_maps: MAX_DMA_MAPS,
  pgsizes: 4096,
};

/** A map of the client's. */
export interface PlayedMap {
  readonly iova: bigint;
  readonly size: bigint;
  readonly flags: number;
  readonly offset: bigint;
  /** Present for memory that is in a file, unless there are too many of them. */
  readonly fd: Fd | undefined;
}

/** What a server answers: an errno, or a payload with descriptors. */
export type Answered =
  | { readonly errno: number }
  | { readonly payload: Uint8Array; readonly fds?: readonly number[] };

const NOTHING = { payload: new Uint8Array(0) };
const refusal = (code: keyof typeof errno): Answered => ({ errno: errno[code] });

export class PlayedDevice implements Disposable {
  readonly maps = new Map<bigint, PlayedMap>();
  readonly #audit: Audit;
  readonly #traits: Traits;
  /** The file of the region that can be mapped. */
  readonly #memory: SharedMemory;
  readonly #config = configSpace();
  /** Eventfds of the client's, by index and vector. */
  readonly #eventfds = new Map<string, Fd>();

  constructor(audit: Audit, traits: Traits) {
    this.#audit = audit;
    this.#traits = traits;
    this.#memory = createSharedMemory('conformance device', BAR_BYTES[MAPPED_BAR]);
  }

  get capabilities(): Readonly<Record<string, unknown>> {
    return { ...CAPABILITIES, ...this.#traits.capabilities };
  }

  /** A limit that it has named, or the specification's if it has named none. */
  #limit(name: keyof typeof CAPABILITIES, byDefault: number): number {
    const value = this.capabilities[name];
    return typeof value === 'number' ? value : byDefault;
  }

  get #pageSize(): bigint {
    const mask = BigInt(this.#limit('pgsizes', protocol.DEFAULT_PGSIZES));
    return mask & -mask;
  }

  get eventfds(): readonly Fd[] {
    return [...this.#eventfds.values()];
  }

  /** @param message a command that is no VFIO_USER_VERSION; descriptors are taken out if they are kept */
  answer(message: Message): Answered {
    try {
      this.#checkDescriptors(message);
      return this.#answer(message);
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
      // A Reader's: the payload ends too early.
      this.#audit.check('payload-size', false, () => error.message.split('\n')[0] as string);
      return refusal('EINVAL');
    }
  }

  #checkDescriptors({ command, fds }: Message): void {
    if (fds.length === 0) return;
    const name = protocol.commandName(command);
    const most = this.#limit('max_msg_fds', protocol.DEFAULT_MAX_MSG_FDS);
    for (const rule of ['max-msg-fds', 'max-msg-fds-1', 'max-msg-fds-absent'])
      this.#audit.check(rule, fds.length <= most, () => `${name} with ${fds.length} descriptors`);
    const hasAny = command === protocol.VFIO_USER_DMA_MAP || command === protocol.VFIO_USER_DEVICE_SET_IRQS;
    this.#audit.check('descriptors', hasAny, () => `${name} with ${fds.length} descriptors`);
  }

  #answer(message: Message): Answered {
    const reader = new Reader(message.command, message.payload);
    switch (message.command) {
      case protocol.VFIO_USER_DMA_MAP:
        return this.#map(reader, message.fds);
      case protocol.VFIO_USER_DMA_UNMAP:
        return this.#unmap(reader, message.payload.slice(0, 24));
      case protocol.VFIO_USER_DEVICE_GET_INFO:
        return this.#deviceInfo(reader);
      case protocol.VFIO_USER_DEVICE_GET_REGION_INFO:
        return this.#regionInfo(reader);
      case protocol.VFIO_USER_DEVICE_GET_REGION_IO_FDS:
        return this.#ioFds(reader);
      case protocol.VFIO_USER_DEVICE_GET_IRQ_INFO:
        return this.#irqInfo(reader);
      case protocol.VFIO_USER_DEVICE_SET_IRQS:
        return this.#setIrqs(reader, message.fds);
      case protocol.VFIO_USER_REGION_READ:
      case protocol.VFIO_USER_REGION_WRITE:
        return this.#access(reader, message.command === protocol.VFIO_USER_REGION_WRITE);
      case protocol.VFIO_USER_DEVICE_RESET:
        return this.#reset();
      case protocol.VFIO_USER_REGION_WRITE_MULTI:
        this.#audit.check('write-multi-unasked', false, () => 'VFIO_USER_REGION_WRITE_MULTI');
        return refusal('EINVAL');
      // It has no state to migrate.
      default:
        return refusal('EINVAL');
    }
  }

  /** argsz, which names the structure's bytes at least. */
  #argsz(reader: Reader, atLeast: number): number {
    this.#audit.check('payload-size', reader.left >= atLeast, () => `${reader.left} bytes of ${atLeast}`);
    const argsz = reader.u32();
    this.#audit.check('argsz', argsz >= atLeast, () => `argsz ${argsz} for ${atLeast} bytes`);
    return argsz;
  }

  #map(reader: Reader, fds: Fd[]): Answered {
    const audit = this.#audit;
    this.#argsz(reader, 32);
    const [flags, offset, iova, size] = [reader.u32(), reader.u64(), reader.u64(), reader.u64()];
    const range = `IOVA ${hex(iova)}, ${hex(size)} bytes`;
    const known = protocol.VFIO_USER_F_DMA_REGION_READ | protocol.VFIO_USER_F_DMA_REGION_WRITE;
    audit.check('dma-map-flags', (flags & ~known) === 0, () => `${range}, flags ${hex(flags)}`);
    const isRange = size > 0n && iova + size <= 1n << 64n;
    audit.check('dma-map-range', isRange, () => range);
    const isAligned = (iova | size) % this.#pageSize === 0n;
    for (const rule of ['dma-map-pages', 'pgsizes-64k']) audit.check(rule, isAligned, () => range);
    const other = [...this.maps.values()].find((map) => map.iova < iova + size && iova < map.iova + map.size);
    const isFree = other === undefined;
    audit.check('dma-map-overlap', isFree, () => `${range}, over IOVA ${hex(other?.iova ?? 0n)}`);
    const isFew = this.maps.size < this.#limit('max_dma_maps', protocol.DEFAULT_MAX_DMA_MAPS);
    const problem = fds.length === 0 ? undefined : fileProblem(fds, offset, size);
    if (fds.length > 0)
      audit.check('dma-map-descriptor', problem === undefined, () => `${range}: ${problem}`);
    for (const rule of ['max-dma-maps', 'max-dma-maps-1'])
      audit.check(rule, isFew, () => `${this.maps.size + 1} maps`);
    if (!isFree) return refusal('EEXIST');
    if (!isFew || this.maps.size >= MAX_DMA_MAPS) return refusal('ENOSPC');
    if (!isRange || !isAligned || problem !== undefined) return refusal('EINVAL');
    const [fd] = this.maps.size < MOST_KEPT_FDS ? fds.splice(0, 1) : [];
    this.maps.set(iova, { iova, size, flags, offset, fd });
    return NOTHING;
  }

  #unmap(reader: Reader, echo: Uint8Array): Answered {
    this.#argsz(reader, 24);
    const [flags, iova, size] = [reader.u32(), reader.u64(), reader.u64()];
    const isAll = (flags & protocol.VFIO_USER_F_DMA_UNMAP_ALL) !== 0;
    const map = this.maps.get(iova);
    const isExact = isAll || map?.size === size;
    this.#audit.check('dma-unmap', isExact, () => `IOVA ${hex(iova)}, ${hex(size)} bytes, which is no map`);
    if (!isExact) return refusal('ENOENT');
    for (const each of isAll ? [...this.maps.values()] : [map as PlayedMap]) {
      this.maps.delete(each.iova);
      each.fd?.[Symbol.dispose]();
    }
    return { payload: echo };
  }

  #deviceInfo(reader: Reader): Answered {
    this.#argsz(reader, 16);
    const reset = this.#traits.hasReset === false ? 0 : VFIO_DEVICE_FLAGS_RESET;
    const flags = VFIO_DEVICE_FLAGS_PCI | reset;
    return {
      payload: encodeDeviceInfo({ flags, numRegions: VFIO_PCI_NUM_REGIONS, numIrqs: VFIO_PCI_NUM_IRQS }),
    };
  }

  #regionInfo(reader: Reader): Answered {
    const argsz = this.#argsz(reader, 32);
    reader.u32();
    const index = reader.u32();
    if (!this.#audit.check('region-info-index', index < VFIO_PCI_NUM_REGIONS, () => `region ${index}`))
      return refusal('EINVAL');
    const size = REGION_SIZES[index] ?? 0;
    if (index !== MAPPED_BAR) {
      const flags = size === 0 ? 0 : RW;
      return { payload: encodeRegionInfo({ index, flags, size, fdOffset: 0, capabilities: [] }, argsz) };
    }
    const flags = RW | VFIO_REGION_INFO_FLAG_MMAP;
    const capabilities = [{ id: VFIO_REGION_INFO_CAP_SPARSE_MMAP, areas: AREAS }] as const;
    const payload = encodeRegionInfo({ index, flags, size, fdOffset: 0, capabilities }, argsz);
    return payload.length > 32 ? { payload, fds: [this.#memory.fd.number] } : { payload };
  }

  #ioFds(reader: Reader): Answered {
    const argsz = this.#argsz(reader, 16);
    reader.u32();
    const index = reader.u32();
    if (!this.#audit.check('region-info-index', index < VFIO_PCI_NUM_REGIONS, () => `region ${index}`))
      return refusal('EINVAL');
    return { payload: encodeIoFds(index, [], argsz) };
  }

  #irqInfo(reader: Reader): Answered {
    this.#argsz(reader, 16);
    reader.u32();
    const index = reader.u32();
    if (!this.#audit.check('irq-info-index', index < VFIO_PCI_NUM_IRQS, () => `interrupts ${index}`))
      return refusal('EINVAL');
    const count = IRQ_COUNTS[index] as number;
    const flags = count === 0 ? 0 : index === 0 ? INTX_FLAGS : VFIO_IRQ_INFO_EVENTFD;
    return { payload: encodeIrqInfo({ index, flags, count }) };
  }

  #setIrqs(reader: Reader, fds: Fd[]): Answered {
    const audit = this.#audit;
    this.#argsz(reader, SET_IRQS_BYTES);
    const [flags, index, start, count] = [reader.u32(), reader.u32(), reader.u32(), reader.u32()];
    const isOne = isOneBit(flags & DATA_MASK) && isOneBit(flags & ACTION_MASK) && flags <= 0x3f;
    audit.check('set-irqs-flags', isOne, () => `flags ${hex(flags)}`);
    const range = `${count} interrupts from ${start} of index ${index}`;
    const isInside = index < VFIO_PCI_NUM_IRQS && start + count <= (IRQ_COUNTS[index] ?? 0);
    // To silence an index that has none is what a reset does.
    const isNothing = start === 0 && count === 0 && index < VFIO_PCI_NUM_IRQS;
    audit.check('set-irqs-range', isInside || isNothing, () => range);
    const isEventfd = (flags & VFIO_IRQ_SET_DATA_EVENTFD) !== 0;
    if (fds.length > 0 || isEventfd) {
      const isAsMany = fds.length === 0 || (isEventfd && fds.length === count);
      const kind = fds.map(({ number }) => readlinkSync(`/proc/self/fd/${number}`)).find(isNoEventfd);
      audit.check('set-irqs-descriptors', isAsMany, () => `${fds.length} descriptors for ${range}`);
      audit.check('set-irqs-descriptors', kind === undefined, () => `${kind} for ${range}`);
      if (!isAsMany || kind !== undefined) return refusal('EINVAL');
    }
    if ((flags & VFIO_IRQ_SET_DATA_BOOL) !== 0)
      audit.check('set-irqs-bools', reader.left === count, () => `${reader.left} bytes for ${range}`);
    if (!isOne || (!isInside && !isNothing)) return refusal('EINVAL');
    if (isEventfd && (flags & ACTION_MASK) === 0x20) this.#keep(index, start, count, fds);
    return NOTHING;
  }

  #keep(index: number, start: number, count: number, fds: Fd[]): void {
    for (let vector = start; vector < start + count; vector++) {
      const place = `${index}.${vector}`;
      this.#eventfds.get(place)?.[Symbol.dispose]();
      this.#eventfds.delete(place);
      const fd = this.#eventfds.size < MOST_KEPT_FDS ? fds.shift() : undefined;
      if (fd !== undefined) this.#eventfds.set(place, fd);
    }
  }

  #access(reader: Reader, isWrite: boolean): Answered {
    const audit = this.#audit;
    audit.check('payload-size', reader.left >= ACCESS_BYTES, () => `${reader.left} bytes of ${ACCESS_BYTES}`);
    const [offset, region, count] = [reader.u64(), reader.u32(), reader.u32()];
    const what = `${count} bytes at ${hex(offset)} of region ${region}`;
    const size = REGION_SIZES[region] ?? 0;
    const isInside = offset + BigInt(count) <= BigInt(size);
    audit.check('region-access-inside', isInside, () => `${what}, which has ${size}`);
    const most = this.#limit('max_data_xfer_size', protocol.DEFAULT_MAX_DATA_XFER_SIZE);
    for (const rule of ['max-data-xfer-size', 'max-data-xfer-size-128'])
      audit.check(rule, count <= most, () => what);
    if (isWrite)
      audit.check(
        'region-write-data',
        reader.left === count,
        () => `${reader.left} bytes of data for ${what}`,
      );
    if (!isInside || count > most) return refusal('EINVAL');
    const answer = new Writer(ACCESS_BYTES + (isWrite ? 0 : count)).u64(offset).u32(region).u32(count);
    const at = Number(offset);
    if (isWrite) {
      const data = reader.bytes(Math.min(count, reader.left));
      if (region === CONFIG) this.#config.write(at, data);
      return { payload: answer.bytes };
    }
    return {
      payload: answer.data(region === CONFIG ? this.#config.read(at, count) : new Uint8Array(count)).bytes,
    };
  }

  #reset(): Answered {
    const isRight = this.#traits.hasReset !== false;
    this.#audit.check('reset-right', isRight, () => 'VFIO_USER_DEVICE_RESET');
    return isRight ? NOTHING : refusal('EINVAL');
  }

  [Symbol.dispose](): void {
    for (const { fd } of this.maps.values()) fd?.[Symbol.dispose]();
    this.maps.clear();
    for (const fd of this.#eventfds.values()) fd[Symbol.dispose]();
    this.#eventfds.clear();
    this.#memory[Symbol.dispose]();
  }
}

const isNoEventfd = (link: string): boolean => !link.startsWith('anon_inode:[eventfd]');

/** What is wrong with the descriptors of a map. */
function fileProblem(fds: readonly Fd[], offset: bigint, size: bigint): string | undefined {
  const [fd] = fds;
  if (fd === undefined || fds.length > 1) return `${fds.length} descriptors`;
  const kind = fileKind(fd);
  if (kind === 'other') return 'its descriptor is no file';
  // A file's file system decides how long that takes; shared memory is the kernel's.
  const bytes = kind === 'file' && !isMemory(fd) ? undefined : BigInt(fstatSync(fd.number).size);
  return bytes !== undefined && offset + size > bytes ? `its file has ${hex(bytes)} bytes` : undefined;
}

const isMemory = ({ number }: Fd): boolean => readlinkSync(`/proc/self/fd/${number}`).startsWith('/memfd:');
