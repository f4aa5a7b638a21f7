import { ftruncateSync } from 'node:fs';
import { type Hva, hva } from './address.js';
import { errno } from './errno.js';
import { fromNodeError, SysError } from './error.js';
import { checked, Fd } from './fd.js';
import * as libc from './libc.js';

export const PROT_READ = 1;
export const PROT_WRITE = 2;
const MAP_SHARED = 0x01;
const MAP_PRIVATE = 0x02;
const MAP_ANONYMOUS = 0x20;
const MAP_NORESERVE = 0x4000;
const MFD_ALLOW_SEALING = 2;
const F_ADD_SEALS = 1033;
const F_GET_SEALS = 1034;
const F_SEAL_SEAL = 1;
const F_SEAL_SHRINK = 2;
const F_SEAL_GROW = 4;
const MADV_DONTFORK = 10;
const MADV_HUGEPAGE = 14;
/** A huge page of x86-64. */
const HUGE_PAGE = 2 ** 21;

const WINDOW = 2 ** 31;
const STRIDE = 2 ** 30;

/**
 * Memory of this process at a fixed address, seen through windows of 2 GiB that overlap by half, so that every access
 * of up to 1 GiB lies in one window. It owns nothing: any thread may build its own from the same two numbers, and must
 * not touch it after the owner has unmapped.
 */
export class MemoryView {
  /** First byte, as a number: host addresses are below 2^47. */
  readonly address: number;
  readonly bytes: number;
  #windows: Uint8Array<ArrayBuffer>[] = [];

  constructor(address: number, bytes: number) {
    this.address = address;
    this.bytes = bytes;
  }

  /**
   * Bytes `at` to `at + length`, without copying. Use the elements of typed arrays or Atomics on words that somebody
   * else writes: DataView and Buffer accessors tear.
   * @throws RangeError outside the memory, or past 1 GiB in length
   */
  slice(at: number, length: number): Uint8Array<ArrayBuffer> {
    if (at < 0 || length < 0 || at + length > this.bytes || length > STRIDE) {
      throw new RangeError(`bytes ${at}..${at + length} of a mapping of ${this.bytes}`);
    }
    const index = Math.floor(at / STRIDE);
    const start = at - index * STRIDE;
    return this.#window(index).subarray(start, start + length);
  }

  #window(index: number): Uint8Array<ArrayBuffer> {
    const known = this.#windows[index];
    if (known !== undefined) return known;
    const start = index * STRIDE;
    const made = new Uint8Array(libc.memoryAt(this.address + start, Math.min(WINDOW, this.bytes - start)));
    this.#windows[index] = made;
    return made;
  }
}

/** How a {@link Mapping} is made. */
export interface MapOptions {
  /** Byte in the file where it starts, a multiple of the page size. */
  readonly offset?: number;
  readonly isWritable?: boolean;
  /** For messages. */
  readonly target?: string;
  /** Other threads of this process look at it too: see {@link deferUnmapping}. */
  readonly isSeenByThreads?: boolean;
}

/** The memory file behind a mapping, and where in it the mapping begins. */
export interface MappedFile {
  /** Its number is gone when whoever owns it has closed it. */
  readonly fd: { readonly number: number };
  readonly offset: number;
}

const live = new Set<Mapping>();
let deferred: MappedRange[] | undefined;

/** Host memory as numbers, to be handed from thread to thread. */
export interface MappedRange {
  readonly address: number;
  readonly bytes: number;
}

/** Owns an mmap of this process. */
export class Mapping implements Disposable {
  /** The memory; not to be used after dispose. */
  readonly view: MemoryView;
  readonly isWritable: boolean;
  /** For passing it on to another process; undefined for memory of this one alone, and for what is more than memory. */
  readonly file: MappedFile | undefined;
  readonly #end: 'unmap' | 'defer' | 'leave';
  #isMapped = true;

  private constructor(
    view: MemoryView,
    isWritable: boolean,
    end: 'unmap' | 'defer' | 'leave' = 'unmap',
    file?: MappedFile,
  ) {
    this.file = file;
    this.view = view;
    this.isWritable = isWritable;
    this.#end = end;
    live.add(this);
  }

  /** Writable memory that another thread of this process has mapped, and unmaps after this one has disposed it. */
  static borrow({ address, bytes }: MappedRange, fd?: number): Mapping {
    const file = fd === undefined ? undefined : { fd: { number: fd }, offset: 0 };
    return new Mapping(new MemoryView(address, bytes), true, 'leave', file);
  }

  /**
   * Maps `bytes` of an open file, shared with whoever else maps it.
   * @throws SysError EACCES, ENODEV, ENOMEM, EINVAL as mmap(2)
   */
  static file(fd: Fd, bytes: number, options: MapOptions = {}): Mapping {
    const isWritable = options.isWritable ?? true;
    const prot = isWritable ? PROT_READ | PROT_WRITE : PROT_READ;
    const target = options.target ?? fd.target;
    const flags = MAP_SHARED | MAP_NORESERVE;
    const at = checked(libc.mmap(0, bytes, prot, flags, fd.number, options.offset ?? 0), 'mmap', target);
    const end = options.isSeenByThreads ? 'defer' : 'unmap';
    // The file of a device would hand on the device.
    const file = fd.isMemfd ? { fd, offset: options.offset ?? 0 } : undefined;
    return new Mapping(new MemoryView(at, bytes), isWritable, end, file);
  }

  /** Maps zeroed memory that belongs to this process alone. @throws SysError ENOMEM */
  static anonymous(bytes: number): Mapping {
    const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    const at = checked(
      libc.mmap(0, bytes, PROT_READ | PROT_WRITE, flags, -1, 0),
      'mmap',
      `${bytes} bytes of memory`,
    );
    return new Mapping(new MemoryView(at, bytes), true);
  }

  /**
   * Zeroed memory that all threads of this process see, and no other process: it starts where a huge page can, and is made
   * of those where the host has them (`/sys/kernel/mm/transparent_hugepage`). A child process does not inherit it, as
   * that would make each page be copied when it is next written, away from under a device's DMA.
   * @throws SysError ENOMEM
   */
  static huge(bytes: number): Mapping {
    const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    const roomy = bytes + HUGE_PAGE;
    const prot = PROT_READ | PROT_WRITE;
    const room = checked(libc.mmap(0, roomy, prot, flags, -1, 0), 'mmap', `${bytes} bytes of memory`);
    const at = Math.ceil(room / HUGE_PAGE) * HUGE_PAGE;
    const ends = [
      { address: room, bytes: at - room },
      { address: at + bytes, bytes: room + roomy - at - bytes },
    ];
    unmap(ends.filter((end) => end.bytes > 0));
    libc.madvise(at, bytes, MADV_DONTFORK);
    libc.madvise(at, bytes, MADV_HUGEPAGE); // a wish: without it there are 4 KiB pages
    return new Mapping(new MemoryView(at, bytes), true, 'defer');
  }

  get hva(): Hva {
    return hva(BigInt(this.view.address));
  }

  get bytes(): number {
    return this.view.bytes;
  }

  [Symbol.dispose](): void {
    if (!this.#isMapped) return;
    this.#isMapped = false;
    live.delete(this);
    if (this.#end === 'leave') return;
    const range = { address: this.view.address, bytes: this.view.bytes };
    if (deferred === undefined || this.#end === 'unmap') unmap([range]);
    else deferred.push(range);
  }
}

/** Memory with a file behind it, for what other processes, threads and the kernel shall map too. */
export interface SharedMemory extends Disposable {
  readonly fd: Fd;
  readonly mapping: Mapping;
}

/**
 * Its size is sealed: whoever else maps it need not fear that it is cut short under their feet.
 * @throws SysError ENOMEM, EMFILE, EFBIG
 */
export function createSharedMemory(name: string, bytes: number): SharedMemory {
  const fd = Fd.memfd(name, MFD_ALLOW_SEALING);
  try {
    ftruncateSync(fd.number, bytes);
    checked(
      libc.fcntl(fd.number, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL),
      'fcntl F_ADD_SEALS',
      fd.target,
    );
    const mapping = Mapping.file(fd, bytes, { isSeenByThreads: true });
    return {
      fd,
      mapping,
      [Symbol.dispose]() {
        mapping[Symbol.dispose]();
        fd[Symbol.dispose]();
      },
    };
  } catch (error) {
    fd[Symbol.dispose]();
    throw fromNodeError(error, 'ftruncate', fd.target);
  }
}

/** Whether nobody can make a memory file smaller: an access behind its end kills the process that makes it. */
export function isSealed({ number }: Fd): boolean {
  const seals = libc.fcntl(number, F_GET_SEALS, 0);
  return seals >= 0 && (seals & F_SEAL_SHRINK) !== 0;
}

/** The live mapping of this thread that holds all of `bytes` at `address`, if one does. */
export function findMapping(address: Hva, bytes: bigint): Mapping | undefined {
  for (const mapping of live) {
    const start = mapping.hva;
    if (address >= start && address + bytes <= start + BigInt(mapping.bytes)) return mapping;
  }
  return undefined;
}

/** Number of mappings this thread owns now: tests compare it before and after. */
export const liveMappings = (): number => live.size;

/**
 * From now on, disposing a mapping that other threads see only notes it: one of them may still hold a view, and a late
 * access would kill the process. (A device's BAR goes at once: while it is mapped, its file is open.) Whoever knows that all such threads have ended takes the list and
 * calls {@link unmap}.
 */
export function deferUnmapping(): { take(): readonly MappedRange[]; end(): void } {
  deferred = [];
  return {
    take() {
      const ranges = deferred ?? [];
      deferred = [];
      return ranges;
    },
    end() {
      deferred = undefined;
    },
  };
}

export function unmap(ranges: readonly MappedRange[]): void {
  for (const { address, bytes } of ranges)
    checked(libc.munmap(address, bytes), 'munmap', `0x${address.toString(16)}`);
}

/** @throws SysError EFAULT if no live mapping of this thread holds the range */
export function viewOf(address: Hva, bytes: bigint, call: string): { view: MemoryView; at: number } {
  const mapping = findMapping(address, bytes);
  if (mapping === undefined) {
    const target = `host address 0x${address.toString(16)}, ${bytes} bytes`;
    throw new SysError({ call, target, errno: errno.EFAULT, hint: 'the range must lie in one live Mapping' });
  }
  return { view: mapping.view, at: Number(address - mapping.hva) };
}
