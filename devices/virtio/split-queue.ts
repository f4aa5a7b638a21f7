import { PROT_READ, PROT_WRITE } from '../../sys/mapping.js';
import type { QueueSetup } from './queue-setup.js';
import {
  VIRTQ_AVAIL_F_NO_INTERRUPT,
  VIRTQ_DESC_BYTES,
  VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_NEXT,
  VIRTQ_DESC_F_WRITE,
  VIRTQ_USED_F_NO_NOTIFY,
} from './spec.js';

// Both rings begin with 16 bits of flags and 16 of index.
const RING_FLAGS = 0;
const RING_IDX = 1;
const DESC_WORDS = VIRTQ_DESC_BYTES / 4;
const PIECE = 4096;

const NO_U16 = new Uint16Array();
const NO_U32 = new Uint32Array();

/** Lengths of the parts of a queue of `size` descriptors. 2.7 */
export const ringBytes = (size: number) => ({
  descBytes: size * VIRTQ_DESC_BYTES,
  availBytes: 6 + 2 * size,
  usedBytes: 6 + 8 * size,
});

/** Whether `part` is the memory that `words` views. */
const isSame = (words: Uint16Array | Uint32Array, part: Uint8Array): boolean =>
  words.buffer === part.buffer && words.byteOffset === part.byteOffset;

/** Empties a list that is filled again: setting its length to 0 would have each next one allocate. */
export function empty(list: unknown[]): void {
  while (list.length > 0) list.pop();
}

/** Guest memory as a queue sees it. @see DmaTableReader */
export interface QueueMemory {
  /** Memory behind an IOVA range; undefined unless all of it is mapped here and allows the access (PROT_ bits). */
  slice(iova: number, bytes: number, prot: number): Uint8Array<ArrayBuffer> | undefined;
  /** Whether part of a range that {@link slice} refused is in another process. */
  isRemote(iova: number, bytes: number): boolean;
}

/** What a device does with the memory of a queue's chains: `both` is to read first parts and to write what follows. */
export type ChainDirection = 'read' | 'write' | 'both';

/**
 * The device's side of a split virtqueue (2.7). It reads
 * each word of the guest once, checks it, and then uses only the copy. A ring that violates the specification sets
 * {@link fault} and stops the queue. Make all calls between {@link DmaTableReader.enter} and `leave`, after {@link
 * map}. Used by one thread.
 */
export class SplitQueue {
  readonly index: number;
  /** The latest chain's memory, without the skipped bytes and up to the limit. */
  readonly parts: Uint8Array[] = [];
  /**
   * The latest chain's length without the skipped bytes, beyond the limit, too; negative if it is shorter than these.
   */
  bytes = 0;
  /** How many of {@link parts} the device reads; it writes the others. */
  readableParts = 0;
  /** The driver's violation, for a trace event; undefined if there is none. */
  fault: string | undefined;
  /**
   * Whether the queue has met memory of another process. It has then stopped before the chain at {@link position}, which
   * a {@link RemoteQueue} can take.
   */
  isRemote = false;

  readonly #setup: QueueSetup;
  readonly #memory: QueueMemory;
  readonly #direction: ChainDirection;
  readonly #mask: number;
  readonly #ringBytes: ReturnType<typeof ringBytes>;
  /** A private copy of the latest indirect table, viewed as words and as bytes. */
  readonly #indirect: Uint32Array;
  readonly #indirectBytes: Uint8Array;

  #desc = NO_U32;
  #avail = NO_U16;
  #usedWords = NO_U32;
  #used = NO_U16;

  #head = 0;
  #nextAvail = 0;
  #knownAvail = 0;
  #usedIdx = 0;
  #publishedIdx = 0;
  #isSuppressed = false;

  /**
   * @param setup validated by the registers: size a power of two, addresses aligned
   * @param direction of all chains
   * @param position index of the first chain to take and to return; not 0 if another one has served the queue
   */
  constructor(setup: QueueSetup, memory: QueueMemory, direction: ChainDirection, position = 0) {
    this.index = setup.index;
    this.#setup = setup;
    this.#memory = memory;
    this.#nextAvail = position;
    this.#knownAvail = position;
    this.#usedIdx = position;
    this.#publishedIdx = position;
    this.#direction = direction;
    this.#mask = setup.size - 1;
    this.#ringBytes = ringBytes(setup.size);
    this.#indirect = new Uint32Array(setup.hasIndirect ? setup.size * DESC_WORDS : 0);
    this.#indirectBytes = new Uint8Array(this.#indirect.buffer);
  }

  /** Descriptors, and so the most chains at a time. */
  get size(): number {
    return this.#setup.size;
  }

  /** Index of the next chain to take, 16 bits. */
  get position(): number {
    return this.#nextAvail;
  }

  /** The latest chain's first descriptor. */
  get head(): number {
    return this.#head;
  }

  /** Indexes of the first chain that is pushed and not published, and of the next one to push; 16 bits. */
  get unpublished(): { readonly from: number; readonly to: number } {
    return { from: this.#publishedIdx, to: this.#usedIdx };
  }

  /**
   * Locates the rings in guest memory, whose maps may have changed since the last burst. False, with a fault or because
   * the queue {@link isRemote}, if it fails.
   */
  map(): boolean {
    const { desc, driver, device } = this.#setup;
    const { descBytes, availBytes, usedBytes } = this.#ringBytes;
    const descPart = this.#slice(desc, descBytes, PROT_READ);
    const availPart = this.#slice(driver, availBytes, PROT_READ);
    const usedPart = this.#slice(device, usedBytes, PROT_WRITE);
    if (descPart === undefined) return this.#miss(desc, descBytes, 'a ring is not in memory');
    if (availPart === undefined) return this.#miss(driver, availBytes, 'a ring is not in memory');
    if (usedPart === undefined) return this.#miss(device, usedBytes, 'a ring is not in memory');
    return this.use(descPart, availPart, usedPart);
  }

  /** Uses these as the rings: guest memory or copies of it. False, with a fault, if they are not aligned. */
  use(
    descPart: Uint8Array<ArrayBuffer>,
    availPart: Uint8Array<ArrayBuffer>,
    usedPart: Uint8Array<ArrayBuffer>,
  ): boolean {
    const { size } = this.#setup;
    if (!isSame(this.#desc, descPart)) {
      if (descPart.byteOffset % 4 !== 0) return this.#break('a ring is in memory mapped off its alignment');
      this.#desc = new Uint32Array(descPart.buffer, descPart.byteOffset, size * DESC_WORDS);
    }
    if (!isSame(this.#avail, availPart)) {
      if (availPart.byteOffset % 2 !== 0) return this.#break('a ring is in memory mapped off its alignment');
      this.#avail = new Uint16Array(availPart.buffer, availPart.byteOffset, 3 + size);
    }
    if (!isSame(this.#used, usedPart)) {
      if (usedPart.byteOffset % 4 !== 0) return this.#break('a ring is in memory mapped off its alignment');
      this.#used = new Uint16Array(usedPart.buffer, usedPart.byteOffset, 3 + 4 * size);
      this.#usedWords = new Uint32Array(usedPart.buffer, usedPart.byteOffset, 1 + 2 * size);
    }
    return true;
  }

  /**
   * Takes the next available chain, and puts its memory in {@link parts}. False if there is none, on a fault, or if its
   * memory {@link isRemote}.
   * @param skip  bytes to omit at the start of the chain
   * @param limit most bytes in `parts`
   * @param cut   where to begin another part; 0 for nowhere. Who divides `parts` later makes garbage
   */
  next(skip: number, limit: number, cut = 0): boolean {
    if (this.#nextAvail === this.#knownAvail) {
      this.#knownAvail = Atomics.load(this.#avail, RING_IDX);
      const count = (this.#knownAvail - this.#nextAvail) & 0xffff;
      if (count === 0) return false;
      if (count > this.#setup.size) return this.#break(`${count} chains in a queue of ${this.#setup.size}`);
    }
    const head = this.#avail[2 + (this.#nextAvail & this.#mask)] as number;
    this.#nextAvail = (this.#nextAvail + 1) & 0xffff;
    this.#head = head;
    if (this.#follow(head, skip, limit, cut)) return true;
    if (this.isRemote) this.unpop();
    return false;
  }

  /** Returns the latest chains to the available ones: {@link next} takes them again. */
  unpop(chains = 1): void {
    this.#nextAvail = (this.#nextAvail - chains) & 0xffff;
  }

  /**
   * Adds a chain to the used ring, where {@link publish} shows it.
   * @param written bytes written into it
   * @param head its first descriptor; the latest chain if absent
   */
  push(written: number, head: number = this.#head): void {
    const at = 1 + 2 * (this.#usedIdx & this.#mask);
    this.#usedWords[at] = head;
    this.#usedWords[at + 1] = written;
    this.#usedIdx = (this.#usedIdx + 1) & 0xffff;
  }

  /** Takes the latest pushed chains, which have not been published, back from the used ring. */
  unpush(chains: number): void {
    this.#usedIdx = (this.#usedIdx - chains) & 0xffff;
  }

  /** Publishes pushed chains to the driver. Returns whether the driver requests an interrupt. 2.7.7 */
  publish(): boolean {
    const before = this.#publishedIdx;
    const now = this.#usedIdx;
    if (now === before) return false;
    this.#publishedIdx = now;
    // A full barrier: the elements are written before the index, and the driver's request is read after it.
    Atomics.store(this.#used, RING_IDX, now);
    if (!this.#setup.hasEventIdx) {
      return (Atomics.load(this.#avail, RING_FLAGS) & VIRTQ_AVAIL_F_NO_INTERRUPT) === 0;
    }
    const usedEvent = Atomics.load(this.#avail, 2 + this.#setup.size);
    return ((now - usedEvent - 1) & 0xffff) < ((now - before) & 0xffff);
  }

  /** Asks the driver not to ring the doorbell. 2.7.10 */
  suppressDoorbells(): void {
    // With event indexes the old index suffices: it is passed again only after 65536 chains.
    if (this.#isSuppressed || this.#setup.hasEventIdx) return;
    this.#isSuppressed = true;
    Atomics.store(this.#used, RING_FLAGS, VIRTQ_USED_F_NO_NOTIFY);
  }

  /**
   * Requests a doorbell for the next chain. Returns true if that chain is already available.
   * @param chains number of those at {@link position} that do not suffice; the next one is the one after them
   */
  wantDoorbells(chains = 0): boolean {
    this.#isSuppressed = false;
    const next = (this.#nextAvail + chains) & 0xffff;
    if (this.#setup.hasEventIdx) Atomics.store(this.#used, 2 + 4 * this.#setup.size, next);
    else Atomics.store(this.#used, RING_FLAGS, 0);
    return Atomics.load(this.#avail, RING_IDX) !== next;
  }

  /** A range cannot be accessed: the driver's fault, unless it is in another process. Returns false, as {@link #break}. */
  #miss(address: number, bytes: number, what: string): false {
    this.isRemote = address + bytes <= Number.MAX_SAFE_INTEGER && this.#memory.isRemote(address, bytes);
    empty(this.parts);
    return this.isRemote ? false : this.#break(what);
  }

  /** Stops the queue. Returns false, for the caller to return. */
  #break(what: string): false {
    this.fault = what;
    empty(this.parts);
    return false;
  }

  #follow(head: number, skip: number, limit: number, cut: number): boolean {
    const { size, hasIndirect } = this.#setup;
    empty(this.parts);
    this.bytes = -skip;
    this.readableParts = 0;
    let words: Uint32Array = this.#desc;
    let entries = size;
    let index = head;
    let isIndirect = false;
    let room = limit;
    let isWritable = this.#direction === 'write';
    for (let followed = 0; followed < size; ) {
      if (index >= entries) return this.#break(`descriptor ${index} of ${entries}`);
      const at = index * DESC_WORDS;
      let address = (words[at] as number) + (words[at + 1] as number) * 2 ** 32;
      let length = words[at + 2] as number;
      const tail = words[at + 3] as number;
      const next = tail >>> 16;
      if ((tail & VIRTQ_DESC_F_INDIRECT) !== 0) {
        // Allowed only as the last descriptor of a chain, and not in an indirect table. 2.7.5.3.1
        if (!hasIndirect) return this.#break('an indirect descriptor was not negotiated');
        if (isIndirect) return this.#break('an indirect descriptor in an indirect table');
        if ((tail & VIRTQ_DESC_F_NEXT) !== 0) return this.#break('an indirect descriptor with a next one');
        if (!this.#copyIndirect(address, length)) return false;
        isIndirect = true;
        words = this.#indirect;
        entries = length / VIRTQ_DESC_BYTES;
        index = 0;
        continue;
      }
      followed++;
      const wantsWrite = (tail & VIRTQ_DESC_F_WRITE) !== 0;
      if (wantsWrite !== isWritable) {
        // What the device writes follows what it reads. 2.7.4.2
        if (isWritable || this.#direction === 'read')
          return this.#break(`a descriptor of the wrong direction`);
        isWritable = true;
      }
      const skipped = Math.min(length, Math.max(0, -this.bytes));
      this.bytes += length;
      address += skipped;
      length = Math.min(length - skipped, room);
      const untilCut = cut - (limit - room);
      room -= length;
      const prot = isWritable ? PROT_WRITE : PROT_READ;
      if (untilCut > 0 && untilCut < length) {
        if (!this.#gather(address, untilCut, prot)) return this.#missBuffer(address, untilCut);
        address += untilCut;
        length -= untilCut;
      }
      if (length > 0 && !this.#gather(address, length, prot)) return this.#missBuffer(address, length);
      if (!isWritable) this.readableParts = this.parts.length;
      if ((tail & VIRTQ_DESC_F_NEXT) === 0) return true;
      index = next;
    }
    return this.#break(`a chain of more than ${size} descriptors`);
  }

  #missBuffer(address: number, length: number): false {
    return this.#miss(address, length, `a buffer at 0x${address.toString(16)} that is not in memory`);
  }

  #copyIndirect(address: number, length: number): boolean {
    if (length === 0 || length % VIRTQ_DESC_BYTES !== 0 || length > this.#indirectBytes.length) {
      return this.#break(`an indirect table of ${length} bytes`);
    }
    const table = this.#slice(address, length, PROT_READ);
    if (table !== undefined) {
      this.#indirectBytes.set(table);
      return true;
    }
    return this.#miss(
      address,
      length,
      `an indirect table at 0x${address.toString(16)} that is not in memory`,
    );
  }

  #gather(address: number, length: number, prot: number): boolean {
    const whole = this.#slice(address, length, prot);
    if (whole !== undefined) {
      this.parts.push(whole);
      return true;
    }
    const end = address + length;
    if (end > Number.MAX_SAFE_INTEGER) return false;
    // It may cross adjacent maps, which begin at page boundaries.
    for (let at = address; at < end; ) {
      const pieceEnd = Math.min(end, at - (at % PIECE) + PIECE);
      const piece = this.#slice(at, pieceEnd - at, prot);
      if (piece === undefined) return false;
      this.parts.push(piece);
      at = pieceEnd;
    }
    return true;
  }

  #slice(address: number, bytes: number, prot: number): Uint8Array<ArrayBuffer> | undefined {
    return address + bytes <= Number.MAX_SAFE_INTEGER ? this.#memory.slice(address, bytes, prot) : undefined;
  }
}
