import { PROT_READ } from '../../sys/mapping.js';
import type { QueueSetup } from './queue-setup.js';
import { type ChainDirection, type QueueMemory, ringBytes, SplitQueue } from './split-queue.js';

/** Copies between `data` and IOVA. @throws SysError if the range is not mapped, or its owner refuses */
export type RemoteAccess = (iova: number, data: Uint8Array, isWrite: boolean) => void;

const IDX_AT = 2;
const RING_AT = 4;
const USED_ELEMENT = 8;

const fenceWord = new Int32Array(new SharedArrayBuffer(4));
/** A full barrier, for the parts of the memory that are mapped here: messages are barriers themselves. */
const fence = (): number => Atomics.exchange(fenceWord, 0, 0);

/**
 * The device's side of a split virtqueue, some of whose memory is in another process. {@link SplitQueue} works on copies
 * of the rings; this class copies in the order that the specification prescribes: the index before what it covers when
 * reading, and after it when writing. Each call may wait for the memory's owner, and throws SysError if that refuses;
 * the queue is then of no further use. Machine thread only.
 */
export class RemoteQueue {
  readonly #setup: QueueSetup;
  readonly #access: RemoteAccess;
  readonly #queue: SplitQueue;
  readonly #desc: Uint8Array<ArrayBuffer>;
  readonly #avail: Uint8Array<ArrayBuffer>;
  readonly #used: Uint8Array<ArrayBuffer>;
  readonly #indexes: Uint16Array;
  /** Where the buffers of device-writable chains are, in the order of the latest chain's parts. */
  #places: number[] = [];
  /** Whether used.flags may suppress doorbells: whoever served the queue before may have set them. */
  #isSuppressed = true;
  /** Position at which a doorbell has been requested; -1 if none has. */
  #wantedAt = -1;

  /** @param position index of the first chain; the queue before it has been served */
  constructor(setup: QueueSetup, access: RemoteAccess, direction: ChainDirection, position: number) {
    this.#setup = setup;
    this.#access = access;
    const { descBytes, availBytes, usedBytes } = ringBytes(setup.size);
    this.#desc = new Uint8Array(descBytes);
    this.#avail = new Uint8Array(availBytes);
    this.#used = new Uint8Array(usedBytes);
    this.#indexes = new Uint16Array(this.#avail.buffer, 0, 2);
    this.#indexes[1] = position;
    const memory: QueueMemory = {
      slice: (iova, bytes, prot) => this.#slice(iova, bytes, prot),
      isRemote: () => false,
    };
    this.#queue = new SplitQueue(setup, memory, direction, position);
    this.#queue.use(this.#desc, this.#avail, this.#used);
  }

  get index(): number {
    return this.#queue.index;
  }

  /** @see SplitQueue.position */
  get position(): number {
    return this.#queue.position;
  }

  /** @see SplitQueue.fault */
  get fault(): string | undefined {
    return this.#queue.fault;
  }

  /** Stops the queue for a violation that its user has found. */
  fail(what: string): void {
    this.#queue.fault ??= what;
  }

  /** @see SplitQueue.bytes */
  get bytes(): number {
    return this.#queue.bytes;
  }

  get head(): number {
    return this.#queue.head;
  }

  /** Whether chains are available, of those that the latest {@link fetch} has found. */
  get hasChains(): boolean {
    return this.#indexes[1] !== this.#queue.position;
  }

  /** Reads the available ring and the descriptors, unless chains are left. Returns whether there are any. */
  fetch(): boolean {
    if (this.hasChains) return true;
    const { driver, desc } = this.#setup;
    this.#access(driver, this.#avail.subarray(0, RING_AT), false);
    if (!this.hasChains) return false;
    // The driver wrote these before the index that has been read.
    fence();
    this.#access(driver + RING_AT, this.#avail.subarray(RING_AT), false);
    this.#access(desc, this.#desc, false);
    return true;
  }

  /** As {@link SplitQueue.next}, of the chains that have been fetched. The parts are copies. */
  next(skip: number, limit: number): boolean {
    this.#places = [];
    return this.hasChains && this.#queue.next(skip, limit);
  }

  /** The bytes of a chain that the device reads. */
  take(): Uint8Array {
    const parts = this.#queue.parts.slice(0, this.#queue.readableParts);
    if (parts.length === 1) return parts[0] as Uint8Array;
    const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
    let done = 0;
    for (const part of parts) {
      whole.set(part, done);
      done += part.length;
    }
    return whole;
  }

  /** The buffers of the latest chain that the device writes, for {@link write}. */
  get buffers(): readonly RemoteBuffer[] {
    const parts = this.#queue.parts.slice(this.#queue.readableParts);
    return parts.map((part, i) => ({ at: this.#places[i] as number, bytes: part.length }));
  }

  /** Writes data to the buffers of a chain, which have room for it. */
  write(buffers: readonly RemoteBuffer[], data: Uint8Array): void {
    let done = 0;
    for (const { at, bytes } of buffers) {
      if (done === data.length) return;
      const piece = data.subarray(done, done + bytes);
      this.#access(at, piece, true);
      done += piece.length;
    }
  }

  /** @see SplitQueue.unpop */
  unpop(chains: number): void {
    this.#queue.unpop(chains);
  }

  /** @see SplitQueue.push */
  push(written: number, head: number): void {
    this.#queue.push(written, head);
  }

  /** As {@link SplitQueue.publish}: when it returns, the driver can see the chains. */
  publish(): boolean {
    const { from, to } = this.#queue.unpublished;
    const { size, driver, device, hasEventIdx } = this.#setup;
    const count = (to - from) & 0xffff;
    if (count === 0) return false;
    const first = from & (size - 1);
    const untilEnd = Math.min(count, size - first);
    this.#writeUsed(RING_AT + USED_ELEMENT * first, USED_ELEMENT * untilEnd);
    if (count > untilEnd) this.#writeUsed(RING_AT, USED_ELEMENT * (count - untilEnd));
    fence();
    this.#access(device + IDX_AT, Uint8Array.of(to & 0xff, to >>> 8), true);
    fence();
    // What the driver requests is read after it can see the chains: else both would wait for each other.
    const request = hasEventIdx ? RING_AT + 2 * size : 0;
    this.#access(driver + request, this.#avail.subarray(request, request + 2), false);
    return this.#queue.publish();
  }

  /** As {@link SplitQueue.wantDoorbells}, and fetches the chains that are already available. */
  wantDoorbells(): boolean {
    const { position } = this.#queue;
    const { size, hasEventIdx } = this.#setup;
    if (hasEventIdx ? this.#wantedAt === position : !this.#isSuppressed) return false;
    this.#queue.wantDoorbells();
    if (hasEventIdx) this.#writeUsed(RING_AT + USED_ELEMENT * size, 2);
    else this.#writeUsed(0, 2);
    this.#wantedAt = position;
    this.#isSuppressed = false;
    fence();
    return this.fetch();
  }

  #writeUsed(at: number, bytes: number): void {
    this.#access(this.#setup.device + at, this.#used.subarray(at, at + bytes), true);
  }

  #slice(iova: number, bytes: number, prot: number): Uint8Array<ArrayBuffer> {
    const copy = new Uint8Array(bytes);
    if (prot === PROT_READ) this.#access(iova, copy, false);
    else this.#places.push(iova);
    return copy;
  }
}

/** A buffer in guest memory. */
export interface RemoteBuffer {
  readonly at: number;
  readonly bytes: number;
}
