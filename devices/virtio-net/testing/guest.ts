/**
 * A guest for tests: memory, and a virtio driver written from the specification's text, without a line of the device's
 * code.
 */
import type { Iova } from '../../../sys/address.js';
import { errno } from '../../../sys/errno.js';
import { SysError } from '../../../sys/error.js';
import type { Fd } from '../../../sys/fd.js';
import { createSharedMemory, type SharedMemory } from '../../../sys/mapping.js';
import { createDmaTable, type DmaTableBuffer, DmaTableWriter, dmaProt } from '../../../vfio/dma-table.js';
import type { DeviceDma, OpenDevice, VfioDeviceOps } from '../../../vfio/driver.js';
import type { UnmappedMemory } from '../../../vfio/uapi.js';

const MIB = 1 << 20;

/** One DMA map of {@link GuestMemory}: its IOVA and its offset in the memory. */
export interface GuestMap {
  readonly iova: number;
  readonly bytes: number;
  readonly at: number;
  readonly isWritable: boolean;
  /** Whether it is in another process, which {@link GuestMemory.rw} stands for. */
  readonly isRemote?: boolean;
}

/** `main` and `next` meet in the device's eyes, but not in memory; what lies between and around is nobody's. */
export const maps = {
  main: { iova: 0x10_0000, bytes: 2 * MIB, at: 0x1000, isWritable: true },
  next: { iova: 0x30_0000, bytes: MIB, at: 0x24_0000, isWritable: true },
  readOnly: { iova: 0x8000_0000, bytes: 0x10000, at: 0x38_0000, isWritable: false },
} as const satisfies Record<string, GuestMap>;

const MEMORY_BYTES = 4 * MIB;

/** Guest memory behind a DMA table. */
export class GuestMemory implements DeviceDma, Disposable {
  readonly #shared: SharedMemory = createSharedMemory('guest', MEMORY_BYTES);
  /** The memory's file, sealed against shrinking. */
  get file(): Fd {
    return this.#shared.fd;
  }
  /** All of it, mapped for the device or not. */
  readonly bytes: Uint8Array = this.#shared.mapping.view.slice(0, MEMORY_BYTES);
  readonly words: DataView = new DataView(this.bytes.buffer, this.bytes.byteOffset, MEMORY_BYTES);
  readonly #writer = new DmaTableWriter(createDmaTable(16));
  #list: readonly GuestMap[] = [];
  /** Accesses by {@link rw}, in order. */
  readonly accesses: { readonly at: number; readonly bytes: number; readonly isWrite: boolean }[] = [];
  /** Called before each access by {@link rw}: throws if the memory's owner is to refuse it. */
  onAccess: ((at: number, bytes: number, isWrite: boolean) => void) | undefined;

  /** @see DeviceDma.unmapped */
  unmapped: UnmappedMemory | undefined;

  constructor() {
    this.mapAll();
  }

  get table(): DmaTableBuffer {
    return this.#writer.buffer;
  }

  get open(): OpenDevice {
    return { kvm: undefined, dma: this };
  }

  /** vfio_dma_rw, of all that is mapped. */
  rw(at: Iova, data: Uint8Array, isWrite: boolean): void {
    const address = Number(at);
    this.onAccess?.(address, data.length, isWrite);
    this.accesses.push({ at: address, bytes: data.length, isWrite });
    for (let done = 0; done < data.length; ) {
      const from = address + done;
      const map = this.#list.find((m) => from >= m.iova && from < m.iova + m.bytes);
      if (map === undefined || (isWrite && !map.isWritable)) throw this.#refused(from, map);
      const place = map.at + from - map.iova;
      const length = Math.min(data.length - done, map.iova + map.bytes - from);
      if (isWrite) this.bytes.set(data.subarray(done, done + length), place);
      else data.set(this.bytes.subarray(place, place + length), done);
      done += length;
    }
  }

  #refused(at: number, map: GuestMap | undefined): SysError {
    const code = map === undefined ? errno.EFAULT : errno.EPERM;
    return new SysError({ call: 'vfio_dma_rw', target: `0x${at.toString(16)}`, errno: code });
  }

  /** Lets the device reach all of {@link maps}. */
  mapAll(): void {
    this.map(Object.values(maps));
  }

  /** What the device can reach from now on. */
  map(list: readonly GuestMap[]): void {
    this.#list = list;
    const entries = list.map((map) => ({
      iova: map.iova,
      bytes: map.bytes,
      address: map.isRemote ? 0 : this.#shared.mapping.view.address + map.at,
      prot: map.isRemote ? 0 : dmaProt(true, map.isWritable),
    }));
    this.#writer.replace(entries.sort((a, b) => a.iova - b.iova));
  }

  /** Where an I/O virtual address lies in {@link bytes}. */
  at(address: number): number {
    const map = Object.values(maps).find((m) => address >= m.iova && address < m.iova + m.bytes);
    if (map === undefined) throw new RangeError(`0x${address.toString(16)} is not mapped`);
    return map.at + address - map.iova;
  }

  [Symbol.dispose](): void {
    this.#shared[Symbol.dispose]();
  }
}

/** A descriptor as the driver writes it. */
export interface ChainBuffer {
  readonly address: number;
  readonly length: number;
  readonly isDeviceWritable?: boolean;
}

export interface Used {
  readonly id: number;
  readonly length: number;
}

const DESC_F_NEXT = 1;
const DESC_F_WRITE = 2;
const DESC_F_INDIRECT = 4;

/** Driver's side of one split virtqueue. Descriptors are taken in order and never reused while the queue is young. */
export class GuestQueue {
  readonly memory: GuestMemory;
  readonly size: number;
  readonly desc: number;
  readonly avail: number;
  readonly used: number;
  #freeDescriptor = 0;
  #seenUsed = 0;

  /** @param base address of a free page-aligned area of 16 KiB */
  constructor(memory: GuestMemory, size: number, base: number) {
    this.memory = memory;
    this.size = size;
    this.desc = base;
    this.avail = base + 0x1000;
    this.used = base + 0x2000;
    memory.bytes.fill(0, memory.at(base), memory.at(base) + 0x3000);
  }

  get #words(): DataView {
    return this.memory.words;
  }

  writeDescriptor(at: number, address: number, length: number, flags: number, next: number): void {
    this.#words.setBigUint64(this.memory.at(at), BigInt(address), true);
    this.#words.setUint32(this.memory.at(at + 8), length, true);
    this.#words.setUint16(this.memory.at(at + 12), flags, true);
    this.#words.setUint16(this.memory.at(at + 14), next, true);
  }

  /** Offers one chain. @param table where to put an indirect table, if there shall be one */
  add(buffers: readonly ChainBuffer[], table?: number): number {
    const flagsOf = (buffer: ChainBuffer, i: number) =>
      (buffer.isDeviceWritable ? DESC_F_WRITE : 0) | (i < buffers.length - 1 ? DESC_F_NEXT : 0);
    const head = this.#freeDescriptor;
    if (table === undefined) {
      for (const [i, buffer] of buffers.entries()) {
        const index = (head + i) % this.size;
        const next = (index + 1) % this.size;
        this.writeDescriptor(this.desc + 16 * index, buffer.address, buffer.length, flagsOf(buffer, i), next);
      }
      this.#freeDescriptor = (head + buffers.length) % this.size;
    } else {
      for (const [i, buffer] of buffers.entries()) {
        this.writeDescriptor(table + 16 * i, buffer.address, buffer.length, flagsOf(buffer, i), i + 1);
      }
      this.writeDescriptor(this.desc + 16 * head, table, 16 * buffers.length, DESC_F_INDIRECT, 0);
      this.#freeDescriptor = (head + 1) % this.size;
    }
    this.offer(head);
    return head;
  }

  /** Puts a head into the available ring. */
  offer(head: number): void {
    const index = this.availIndex;
    this.#words.setUint16(this.memory.at(this.avail + 4 + 2 * (index % this.size)), head, true);
    this.availIndex = index + 1;
  }

  get availIndex(): number {
    return this.#words.getUint16(this.memory.at(this.avail + 2), true);
  }

  set availIndex(value: number) {
    this.#words.setUint16(this.memory.at(this.avail + 2), value & 0xffff, true);
  }

  set availFlags(value: number) {
    this.#words.setUint16(this.memory.at(this.avail), value, true);
  }

  set usedEvent(value: number) {
    this.#words.setUint16(this.memory.at(this.avail + 4 + 2 * this.size), value & 0xffff, true);
  }

  get usedIndex(): number {
    return this.#words.getUint16(this.memory.at(this.used + 2), true);
  }

  get usedFlags(): number {
    return this.#words.getUint16(this.memory.at(this.used), true);
  }

  get availEvent(): number {
    return this.#words.getUint16(this.memory.at(this.used + 4 + 8 * this.size), true);
  }

  /** Whether the driver has to ring the doorbell for the chains since `from`, with EVENT_IDX or without. 2.7.10 */
  needsDoorbell(from: number, hasEventIdx: boolean): boolean {
    if (!hasEventIdx) return (this.usedFlags & 1) === 0;
    return ((this.availIndex - this.availEvent - 1) & 0xffff) < ((this.availIndex - from) & 0xffff);
  }

  /** What the device has returned since the last call. */
  reap(): Used[] {
    const list: Used[] = [];
    for (; this.#seenUsed !== this.usedIndex; this.#seenUsed = (this.#seenUsed + 1) & 0xffff) {
      const at = this.memory.at(this.used + 4 + 8 * (this.#seenUsed % this.size));
      list.push({ id: this.#words.getUint32(at, true), length: this.#words.getUint32(at + 4, true) });
    }
    return list;
  }
}

export const STATUS = {
  acknowledge: 1,
  driver: 2,
  driverOk: 4,
  featuresOk: 8,
  needsReset: 64,
  failed: 128,
} as const;
/** Offsets in the common configuration structure. */
export const COMMON = {
  deviceFeatureSelect: 0x00,
  deviceFeature: 0x04,
  driverFeatureSelect: 0x08,
  driverFeature: 0x0c,
  configVector: 0x10,
  numQueues: 0x12,
  status: 0x14,
  generation: 0x15,
  queueSelect: 0x16,
  queueSize: 0x18,
  queueVector: 0x1a,
  queueEnable: 0x1c,
  queueNotifyOff: 0x1e,
  queueDesc: 0x20,
  queueDriver: 0x28,
  queueDevice: 0x30,
} as const;

export const FEATURE = {
  csum: 1n << 0n,
  guestCsum: 1n << 1n,
  guestTso4: 1n << 7n,
  guestTso6: 1n << 8n,
  hostTso4: 1n << 11n,
  hostTso6: 1n << 12n,
  mergeable: 1n << 15n,
  guestUso4: 1n << 54n,
  guestUso6: 1n << 55n,
  hostUso: 1n << 56n,
  mtu: 1n << 3n,
  mac: 1n << 5n,
  status: 1n << 16n,
  ctrlVq: 1n << 17n,
  mq: 1n << 22n,
  indirect: 1n << 28n,
  eventIdx: 1n << 29n,
  version1: 1n << 32n,
  accessPlatform: 1n << 33n,
} as const;

const CONFIG_REGION = 7;
const BAR4 = 4;

interface Structure {
  readonly offset: number;
  readonly length: number;
  readonly extra: number;
}

/** What {@link GuestDriver.start} may be told. */
export interface StartOptions {
  /** Features to accept of those offered. */
  readonly features?: bigint;
  readonly queueSize?: number;
  /** Vectors of the configuration and of both queues. */
  readonly vectors?: readonly [number, number, number];
}

/** Driver's side of the function: finds its structures by the capability list, and brings the device up (3.1.1). */
export class GuestDriver {
  readonly ops: VfioDeviceOps;
  readonly memory: GuestMemory;
  readonly #structures = new Map<number, Structure>();
  rx!: GuestQueue;
  tx!: GuestQueue;

  constructor(ops: VfioDeviceOps, memory: GuestMemory) {
    this.ops = ops;
    this.memory = memory;
    for (let at = this.config(0x34, 1); at !== 0; at = this.config(at + 1, 1)) {
      if (this.config(at, 1) !== 9) continue;
      const extra = this.config(at + 2, 1) > 16 ? this.config(at + 16, 4) : 0;
      this.#structures.set(this.config(at + 3, 1), {
        offset: this.config(at + 8, 4),
        length: this.config(at + 12, 4),
        extra,
      });
    }
  }

  config(offset: number, bytes: number): number {
    return this.#read(CONFIG_REGION, offset, bytes);
  }

  configWrite(offset: number, bytes: number, value: number): void {
    this.#write(CONFIG_REGION, offset, bytes, value);
  }

  common(offset: number, bytes: number): number {
    return this.#read(BAR4, this.structure(1).offset + offset, bytes);
  }

  commonWrite(offset: number, bytes: number, value: number): void {
    this.#write(BAR4, this.structure(1).offset + offset, bytes, value);
  }

  structure(type: number): Structure {
    const found = this.#structures.get(type);
    if (found === undefined) throw new Error(`no virtio capability of type ${type}`);
    return found;
  }

  get isr(): number {
    return this.#read(BAR4, this.structure(3).offset, 1);
  }

  deviceConfig(offset: number, bytes: number): number {
    return this.#read(BAR4, this.structure(4).offset + offset, bytes);
  }

  get status(): number {
    return this.common(COMMON.status, 1);
  }

  set status(value: number) {
    this.commonWrite(COMMON.status, 1, value);
  }

  get offered(): bigint {
    return this.#features(COMMON.deviceFeatureSelect, COMMON.deviceFeature);
  }

  get accepted(): bigint {
    return this.#features(COMMON.driverFeatureSelect, COMMON.driverFeature);
  }

  accept(features: bigint): void {
    for (const select of [0, 1]) {
      this.commonWrite(COMMON.driverFeatureSelect, 4, select);
      this.commonWrite(COMMON.driverFeature, 4, Number((features >> BigInt(32 * select)) & 0xffffffffn));
    }
  }

  setBusMaster(isOn: boolean): void {
    const command = this.config(4, 2);
    this.configWrite(4, 2, isOn ? command | 4 : command & ~4);
  }

  setUpQueue(index: number, queue: GuestQueue, vector = 0xffff): void {
    this.commonWrite(COMMON.queueSelect, 2, index);
    this.commonWrite(COMMON.queueSize, 2, queue.size);
    this.commonWrite(COMMON.queueVector, 2, vector);
    for (const [at, value] of [
      [COMMON.queueDesc, queue.desc],
      [COMMON.queueDriver, queue.avail],
      [COMMON.queueDevice, queue.used],
    ] as const) {
      this.commonWrite(at, 4, value >>> 0);
      this.commonWrite(at + 4, 4, Math.floor(value / 2 ** 32));
    }
    this.commonWrite(COMMON.queueEnable, 2, 1);
  }

  /** Resets the device and brings it to FEATURES_OK. */
  negotiate(features: bigint = this.offered): void {
    this.setBusMaster(true);
    this.status = 0;
    if (this.status !== 0) throw new Error('reset has not finished');
    this.status = STATUS.acknowledge;
    this.status |= STATUS.driver;
    this.accept(features);
    this.status |= STATUS.featuresOk;
    if ((this.status & STATUS.featuresOk) === 0) throw new Error('features refused');
  }

  /** The whole initialisation, to DRIVER_OK. */
  start({ features = this.offered, queueSize = 256, vectors = [0, 1, 2] }: StartOptions = {}): void {
    this.negotiate(features);
    this.commonWrite(COMMON.configVector, 2, vectors[0]);
    this.rx = new GuestQueue(this.memory, queueSize, maps.main.iova);
    this.tx = new GuestQueue(this.memory, queueSize, maps.main.iova + 0x4000);
    this.setUpQueue(0, this.rx, vectors[1]);
    this.setUpQueue(1, this.tx, vectors[2]);
    this.status |= STATUS.driverOk;
  }

  /** Rings a queue's doorbell by a trapped write. */
  ring(index: number): void {
    this.commonWrite(COMMON.queueSelect, 2, index);
    const { offset, extra } = this.structure(2);
    this.#write(BAR4, offset + this.common(COMMON.queueNotifyOff, 2) * extra, 2, index);
  }

  /** Puts a frame with its header (zeroes unless given) at an address and offers it, in one piece. */
  send(frame: Uint8Array, address = maps.main.iova + 0x10000, header = new Uint8Array(12)): void {
    this.memory.bytes.set(header, this.memory.at(address));
    this.memory.bytes.set(frame, this.memory.at(address + 12));
    this.tx.add([{ address, length: 12 + frame.length }]);
  }

  /** Offers a receive buffer. */
  provide(address: number, length = 2048): number {
    return this.rx.add([{ address, length, isDeviceWritable: true }]);
  }

  /** A received frame without its header. */
  frame(address: number, used: Used): Uint8Array {
    const at = this.memory.at(address);
    return this.memory.bytes.slice(at + 12, at + used.length);
  }

  #features(select: number, feature: number): bigint {
    return [0, 1].reduce((bits, i) => {
      this.commonWrite(select, 4, i);
      return bits | (BigInt(this.common(feature, 4)) << BigInt(32 * i));
    }, 0n);
  }

  #read(region: number, offset: number, bytes: number): number {
    const data = new Uint8Array(bytes);
    this.ops.read(region, offset, data);
    return data.reduceRight((value, byte) => value * 256 + byte, 0);
  }

  #write(region: number, offset: number, bytes: number, value: number): void {
    const data = Uint8Array.from({ length: bytes }, (_, i) => Math.floor(value / 256 ** i) % 256);
    this.ops.write(region, offset, data);
  }
}
