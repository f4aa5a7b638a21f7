import { MemoryView, PROT_READ, PROT_WRITE } from '../sys/mapping.js';

/**
 * The maps of one address space in shared memory, through which a device's data path in another thread accesses guest
 * memory. Each buffer has one writer (type1 or an IOAS, in the machine thread), and a reader in each thread of the data path.
 *
 *   Int32  [0] sequence: odd while the writer changes the table, else counts changes
 *          [1] how many readers are between enter and leave
 *          [2] number of entries
 *   Float64 from byte 16: iova, bytes, host address, prot, per entry, sorted by iova (all exact below 2^53)
 */
export type DmaTableBuffer = SharedArrayBuffer;

const SEQUENCE = 0;
const READERS = 1;
const COUNT = 2;
const HEADER_BYTES = 16;
const ENTRY = 4;

export interface DmaTableEntry {
  readonly iova: number;
  readonly bytes: number;
  /** 0 for memory of another process. */
  readonly address: number;
  /** PROT_READ if the device may read, PROT_WRITE if it may write. */
  readonly prot: number;
}

export function createDmaTable(capacity: number): DmaTableBuffer {
  return new SharedArrayBuffer(HEADER_BYTES + capacity * ENTRY * 8);
}

/** The writer's side. Machine thread only. */
export class DmaTableWriter {
  readonly buffer: DmaTableBuffer;
  readonly #words: Int32Array;
  readonly #entries: Float64Array;

  constructor(buffer: DmaTableBuffer) {
    this.buffer = buffer;
    this.#words = new Int32Array(buffer, 0, HEADER_BYTES / 4);
    this.#entries = new Float64Array(buffer, HEADER_BYTES);
  }

  get capacity(): number {
    return this.#entries.length / ENTRY;
  }

  /** Replaces all entries. @see splice */
  replace(entries: readonly DmaTableEntry[]): void {
    this.splice(0, Atomics.load(this.#words, COUNT), entries);
  }

  /**
   * Replaces `removed` entries at `index`, and returns once no reader uses the old ones: after an unmap the device must not
   * access the memory.
   * @throws RangeError, without a change, if the table cannot hold the entries
   */
  splice(index: number, removed: number, added: readonly DmaTableEntry[]): void {
    const count = Atomics.load(this.#words, COUNT);
    const next = count - removed + added.length;
    if (next > this.capacity) throw new RangeError(`${next} maps in a table of ${this.capacity}`);
    this.exclusively(() => {
      this.#entries.copyWithin((index + added.length) * ENTRY, (index + removed) * ENTRY, count * ENTRY);
      for (const [i, { iova, bytes, address, prot }] of added.entries()) {
        this.#entries.set([iova, bytes, address, prot], (index + i) * ENTRY);
      }
      Atomics.store(this.#words, COUNT, next);
    });
  }

  /** Calls `act` while no reader is in a burst: whatever memory one had taken, it has done with, and takes anew. */
  exclusively(act: () => void): void {
    Atomics.add(this.#words, SEQUENCE, 1);
    for (let left = this.#readers; left > 0; left = this.#readers)
      Atomics.wait(this.#words, READERS, left, 100);
    try {
      act();
    } finally {
      Atomics.add(this.#words, SEQUENCE, 1);
      Atomics.notify(this.#words, SEQUENCE);
    }
  }

  get #readers(): number {
    return Atomics.load(this.#words, READERS);
  }
}

/**
 * Views that are kept, as queues access the same rings and often the same buffers: a new view each time is garbage. A
 * power of two, several times the buffers of a device's queues; about 0.5 MB when full.
 */
const KEPT_VIEWS = 4096;
const KEY_WORDS = 3;
const HASH_SHIFT = 32 - Math.log2(KEPT_VIEWS);

/** Where to keep the view of a range. Buffers are a power of two apart: multiplying spreads them. */
function slotOf(iova: number, bytes: number): number {
  const low = iova | 0; // modulo 2^32, which is all that spreading needs
  return Math.imul(low ^ Math.imul(bytes, 0x85eb_ca6b), 0x9e37_79b1) >>> HASH_SHIFT;
}

interface Window {
  readonly iova: number;
  readonly end: number;
  readonly prot: number;
  readonly view: MemoryView;
}

/**
 * A reader's side. All accesses to guest memory happen between {@link enter} and {@link leave}, in bursts of bounded
 * length, so that an unmap waits for a bounded time. Used by one thread.
 */
export class DmaTableReader {
  readonly #words: Int32Array;
  readonly #entries: Float64Array;
  #windows: Window[] = [];
  #seen = 0;
  #last: Window | undefined;
  readonly #views: (Uint8Array<ArrayBuffer> | undefined)[] = new Array(KEPT_VIEWS).fill(undefined);
  /** Of each of these: iova, bytes, prot. */
  readonly #keys = new Float64Array(KEPT_VIEWS * KEY_WORDS);

  /** Is told of memory that is taken for writing; undefined while nobody asks. */
  log: { mark(iova: number, bytes: number): void } | undefined;

  constructor(buffer: DmaTableBuffer) {
    this.#words = new Int32Array(buffer, 0, HEADER_BYTES / 4);
    this.#entries = new Float64Array(buffer, HEADER_BYTES);
  }

  /**
   * Begins a burst: views from {@link slice} are valid until {@link leave}. Waits while the writer changes the table.
   */
  enter(): void {
    for (;;) {
      Atomics.add(this.#words, READERS, 1);
      const sequence = Atomics.load(this.#words, SEQUENCE);
      if (sequence % 2 === 0) {
        if (sequence !== this.#seen) this.#reload(sequence);
        return;
      }
      this.leave();
      Atomics.wait(this.#words, SEQUENCE, sequence, 100);
    }
  }

  /** Whether the table has changed since {@link enter}, or its writer waits for {@link leave} to change it. */
  get isOutdated(): boolean {
    return Atomics.load(this.#words, SEQUENCE) !== this.#seen;
  }

  /**
   * Ends the burst: views from {@link slice} are no longer valid, and a waiting unmap proceeds.
   */
  leave(): void {
    Atomics.sub(this.#words, READERS, 1);
    Atomics.notify(this.#words, READERS);
  }

  /**
   * The memory behind an IOVA range; undefined unless one map contains all of it and allows the access.
   * @param prot PROT_READ if the device reads the memory, PROT_WRITE if it writes it
   */
  slice(iova: number, bytes: number, prot: number): Uint8Array<ArrayBuffer> | undefined {
    if (this.log !== undefined && (prot & PROT_WRITE) !== 0) this.log.mark(iova, bytes);
    const slot = slotOf(iova, bytes);
    const keys = this.#keys;
    const key = slot * KEY_WORDS;
    if (keys[key] === iova && keys[key + 1] === bytes) {
      const view = this.#views[slot];
      if (view !== undefined && ((keys[key + 2] as number) & prot) === prot) return view;
    }
    const window = this.#find(iova);
    if (window === undefined || (window.prot & prot) !== prot || iova + bytes > window.end) return undefined;
    const view = window.view.slice(iova - window.iova, bytes);
    this.#views[slot] = view;
    keys[key] = iova;
    keys[key + 1] = bytes;
    keys[key + 2] = window.prot;
    return view;
  }

  /** All maps, sorted by IOVA: a copy, for one who passes them on. @internal */
  entries(): DmaTableEntry[] {
    return this.#windows.map(({ iova, end, prot, view }) => ({
      iova,
      bytes: end - iova,
      address: view.address,
      prot,
    }));
  }

  /** As {@link slice}, up to the end of the map that contains `iova`, so that it may be shorter. */
  piece(iova: number, most: number, prot: number): Uint8Array<ArrayBuffer> | undefined {
    const window = this.#find(iova);
    if (window === undefined || (window.prot & prot) !== prot) return undefined;
    return window.view.slice(iova - window.iova, Math.min(most, window.end - iova));
  }

  /**
   * Whether part of an IOVA range is in another process, which DeviceDma.rw asks for it. A range that
   * {@link slice} refuses without that is not mapped, or not for this direction.
   */
  isRemote(iova: number, bytes: number): boolean {
    for (let at = iova; at < iova + bytes; ) {
      const window = this.#find(at);
      if (window === undefined) return false;
      if (window.view.address === 0) return true;
      at = window.end;
    }
    return false;
  }

  #find(iova: number): Window | undefined {
    const last = this.#last;
    if (last !== undefined && iova >= last.iova && iova < last.end) return last;
    let low = 0;
    let high = this.#windows.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#windows[middle] as Window).end <= iova) low = middle + 1;
      else high = middle;
    }
    const window = this.#windows[low];
    if (window === undefined || iova < window.iova) return undefined;
    this.#last = window;
    return window;
  }

  #reload(sequence: number): void {
    const known = new Map(this.#windows.map((w) => [`${w.view.address}:${w.view.bytes}`, w.view]));
    const count = Atomics.load(this.#words, COUNT);
    this.#windows = [];
    this.#last = undefined;
    this.#views.fill(undefined);
    for (let i = 0; i < count; i++) {
      const [iova, bytes, address, prot] = this.#entries.subarray(i * ENTRY, (i + 1) * ENTRY) as unknown as [
        number,
        number,
        number,
        number,
      ];
      const view = known.get(`${address}:${bytes}`) ?? new MemoryView(address, bytes);
      this.#windows.push({ iova, end: iova + bytes, prot, view });
    }
    this.#seen = sequence;
  }
}

/** Converts the directions of a DMA map to {@link DmaTableEntry.prot}. */
export const dmaProt = (canRead: boolean, canWrite: boolean): number =>
  (canRead ? PROT_READ : 0) | (canWrite ? PROT_WRITE : 0);
