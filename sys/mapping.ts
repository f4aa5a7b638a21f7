import { ftruncateSync, readlinkSync, statfsSync } from 'node:fs';
import { type Hva, hva } from './address.js';
import { errno } from './errno.js';
import { fromNodeError, SysError } from './error.js';
import { checked, Fd } from './fd.js';
import { checkHugePages, hugePageFlags, hugePageHint, populateHugePages } from './huge-pages.js';
import * as libc from './libc.js';
import { Scope } from './scope.js';

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
const SIZE_SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
const MADV_DONTFORK = 10;
const MADV_HUGEPAGE = 14;
/** A huge page on x86-64. */
const HUGE_PAGE = 2 ** 21;

const WINDOW = 2 ** 31;
const STRIDE = 2 ** 30;

/**
 * Memory of this process at a fixed address, accessed through 2 GiB windows that overlap by half, so that every access
 * of up to 1 GiB lies in one window. Does not own the memory: any thread may create a view from the same address and
 * size, and must not use it after the owner unmaps.
 */
export class MemoryView {
  /** First byte, as a number: user addresses are below 2^47. */
  readonly address: number;
  /** Length in bytes. */
  readonly bytes: number;
  #windows: Uint8Array<ArrayBuffer>[] = [];

  constructor(address: number, bytes: number) {
    this.address = address;
    this.bytes = bytes;
  }

  /**
   * Bytes `at` to `at + length`, without copying. Access words that others write with typed array elements or Atomics:
   * DataView and Buffer accessors tear.
   * @throws RangeError outside the memory, or if longer than 1 GiB
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

/** How to map a file: see {@link Mapping.file}. */
export interface MapOptions {
  /** Offset in the file, a multiple of the page size. */
  readonly offset?: number;
  /** Whether to map it for writing; true by default. */
  readonly isWritable?: boolean;
  /** Names the mapping in errors. */
  readonly target?: string;
  /**
   * Whether other threads of this process access it, too. While any of them may still hold a view, the thread that owns
   * the mapping can defer the munmap(2).
   */
  readonly isSeenByThreads?: boolean;
  /** Whether the file may be passed on to another process although it is no memfd of this process's own. */
  readonly isShareable?: boolean;
  /** Whether to reserve huge pages for it, so that mmap(2) fails (ENOMEM) and no access does, if the host has too few. */
  readonly isReserved?: boolean;
  /** What the user can do if it fails. */
  readonly hint?: string;
}

/** The memory file behind a mapping, and the mapping's offset in it. */
export interface MappedFile {
  /** The number must not be read after the owner closes it. */
  readonly fd: { readonly number: number };
  /** Offset of the mapping in the file, in bytes. */
  readonly offset: number;
}

const live = new Set<Mapping>();
let deferred: MappedRange[] | undefined;

/** A range of host memory, as plain numbers that can be passed between threads. */
export interface MappedRange {
  /** First byte, as a number: host addresses are below 2^47. */
  readonly address: number;
  /** Length in bytes. */
  readonly bytes: number;
}

/** Owns a memory mapping of this process. */
export class Mapping implements Disposable {
  /** The memory; do not use after dispose. */
  readonly view: MemoryView;
  /** Whether it is mapped for writing: a store to a read-only mapping kills the process. */
  readonly isWritable: boolean;
  /** For mapping it in another process; undefined for private memory, and for files that are more than memory. */
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

  /** Wraps writable memory that another thread has mapped and will unmap; dispose this one first. */
  static borrow({ address, bytes }: MappedRange, fd?: number): Mapping {
    const file = fd === undefined ? undefined : { fd: { number: fd }, offset: 0 };
    return new Mapping(new MemoryView(address, bytes), true, 'leave', file);
  }

  /**
   * Maps `bytes` of an open file, MAP_SHARED.
   * @throws SysError EACCES, ENODEV, ENOMEM or EINVAL from mmap(2)
   */
  static file(fd: Fd, bytes: number, options: MapOptions = {}): Mapping {
    const isWritable = options.isWritable ?? true;
    const prot = isWritable ? PROT_READ | PROT_WRITE : PROT_READ;
    const target = options.target ?? fd.target;
    const flags = options.isReserved ? MAP_SHARED : MAP_SHARED | MAP_NORESERVE;
    const mapped = libc.mmap(0, bytes, prot, flags, fd.number, options.offset ?? 0);
    const at = checked(mapped, 'mmap', target, options.hint);
    const end = options.isSeenByThreads ? 'defer' : 'unmap';
    // Passing on a device's file would grant access to the device.
    const file = fd.isMemfd || options.isShareable ? { fd, offset: options.offset ?? 0 } : undefined;
    return new Mapping(new MemoryView(at, bytes), isWritable, end, file);
  }

  /**
   * Maps `bytes` of an open file for all threads of this process, MAP_PRIVATE: a page is read when it is touched, and copied when it
   * is written, which the file never sees. The file may be closed, and must not be truncated while it is mapped. Child processes do
   * not inherit it, as with {@link huge}.
   * @throws SysError EACCES, ENODEV, ENOMEM or EINVAL from mmap(2)
   */
  static privateFile(fd: Fd, bytes: number): Mapping {
    const flags = MAP_PRIVATE | MAP_NORESERVE;
    const at = checked(libc.mmap(0, bytes, PROT_READ | PROT_WRITE, flags, fd.number, 0), 'mmap', fd.target);
    libc.madvise(at, bytes, MADV_DONTFORK);
    return new Mapping(new MemoryView(at, bytes), true, 'defer');
  }

  /** Maps private zeroed memory, which child processes do not inherit. @throws SysError ENOMEM */
  static anonymous(bytes: number): Mapping {
    const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    const at = checked(
      libc.mmap(0, bytes, PROT_READ | PROT_WRITE, flags, -1, 0),
      'mmap',
      `${bytes} bytes of memory`,
    );
    // A copy-on-write fault would move pages away from what the kernel writes to.
    libc.madvise(at, bytes, MADV_DONTFORK);
    return new Mapping(new MemoryView(at, bytes), true);
  }

  /**
   * Maps private zeroed memory for all threads of this process, aligned for huge pages, and backed by them where the
   * host allows (`/sys/kernel/mm/transparent_hugepage`). Child processes do not inherit it: a copy-on-write fault would
   * move pages away from a device's DMA.
   * @param options `isSeenByThreads` is true by default
   * @throws SysError ENOMEM
   */
  static huge(bytes: number, { isSeenByThreads = true }: Pick<MapOptions, 'isSeenByThreads'> = {}): Mapping {
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
    libc.madvise(at, bytes, MADV_HUGEPAGE); // best effort: otherwise 4 KiB pages
    return new Mapping(new MemoryView(at, bytes), true, isSeenByThreads ? 'defer' : 'unmap');
  }

  /** First byte as an address of this process. */
  get hva(): Hva {
    return hva(BigInt(this.view.address));
  }

  /** Length in bytes. */
  get bytes(): number {
    return this.view.bytes;
  }

  /** Unmaps the memory, which ends all views of it. A second dispose does nothing. */
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

/**
 * A memfd and its mapping, for memory that other processes, threads or the kernel map too. Dispose it once no other thread
 * uses this mapping: tasks are stopped, DMA maps are gone. A device that comes and goes leaves nothing behind then.
 */
export interface SharedMemory extends Disposable {
  /** The memfd; closes with dispose. */
  readonly fd: Fd;
  /** The memory mapped into this process; unmapped by dispose. */
  readonly mapping: Mapping;
}

/** How to make memory: see {@link createSharedMemory}. */
export interface SharedMemoryOptions {
  /**
   * Size of the huge pages (hugetlbfs) that it is made of, in bytes: `2 << 20`, `1 << 30`. They are reserved and populated at
   * once, so that no later access can fail for want of one, in whatever process.
   */
  readonly hugePageBytes?: number;
}

/**
 * Creates a memfd whose size is sealed, so that no peer can truncate it under another's mapping, and maps it.
 * @throws SysError ENOMEM, EMFILE, EFBIG; with huge pages: EINVAL unless `bytes` is a multiple of them; ENOMEM or EFAULT with the
 *   command that makes room if the host has too few; ENODEV or EINVAL if it has none of this size
 */
export function createSharedMemory(
  name: string,
  bytes: number,
  { hugePageBytes }: SharedMemoryOptions = {},
): SharedMemory {
  if (hugePageBytes === undefined) return createSealedMemory(name, bytes, 0, {});
  const target = `memfd ${name}`;
  checkHugePages(bytes, hugePageBytes, target);
  const options = { isReserved: true, hint: hugePageHint(bytes, hugePageBytes) };
  using scope = new Scope();
  const memory = scope.own(createSealedMemory(name, bytes, hugePageFlags(hugePageBytes), options));
  populateHugePages(memory.mapping.view.address, bytes, hugePageBytes, target);
  scope.move();
  return memory;
}

/** @param flags of memfd_create(2), besides those of every memfd */
function createSealedMemory(name: string, bytes: number, flags: number, options: MapOptions): SharedMemory {
  using scope = new Scope();
  const fd = scope.own(Fd.memfd(name, MFD_ALLOW_SEALING | flags, options.hint));
  try {
    ftruncateSync(fd.number, bytes);
  } catch (error) {
    throw fromNodeError(error, 'ftruncate', fd.target, options.hint);
  }
  checked(libc.fcntl(fd.number, F_ADD_SEALS, SIZE_SEALS), 'fcntl F_ADD_SEALS', fd.target);
  const mapping = scope.own(Mapping.file(fd, bytes, options));
  const owned = scope.move();
  return { fd, mapping, [Symbol.dispose]: () => owned[Symbol.dispose]() };
}

/**
 * What another process's descriptor is:
 * `sealed`: memory that can never shrink, so that no access to a mapping of it faults: holes are filled.
 * `huge`: huge pages, where an access faults if the host has none left, whatever is sealed.
 * `file`: what can be cut short, or whose file system decides what an access does.
 * `other`: no file: a socket, a pipe, an eventfd.
 */
export type FileKind = 'sealed' | 'huge' | 'file' | 'other';

/** From linux/magic.h. */
const HUGETLBFS_MAGIC = 0x9584_58f6;

/** Examines a descriptor that another process has sent. Never blocks. */
export function fileKind({ number }: Fd): FileKind {
  // Only shmem and hugetlbfs have seals, so a call to their file system below does not leave the kernel.
  const seals = libc.fcntl(number, F_GET_SEALS, 0);
  const path = `/proc/self/fd/${number}`;
  if (seals < 0) return readlinkSync(path).startsWith('/') ? 'file' : 'other';
  if (statfsSync(path).type === HUGETLBFS_MAGIC) return 'huge';
  return (seals & F_SEAL_SHRINK) === 0 ? 'file' : 'sealed';
}

/** The live mapping of this thread that contains the whole range, if any. */
export function findMapping(address: Hva, bytes: bigint): Mapping | undefined {
  for (const mapping of live) {
    const start = mapping.hva;
    if (address >= start && address + bytes <= start + BigInt(mapping.bytes)) return mapping;
  }
  return undefined;
}

/** Number of mappings that this thread owns; tests compare it before and after. */
export const liveMappings = (): number => live.size;

/**
 * From now on, disposing a mapping that other threads access only queues it: one of them may still hold a view, and a
 * late access would kill the process. Once all such threads have ended, take the list and {@link unmap} it. Mappings
 * without `isSeenByThreads`, such as a device's BAR, are still unmapped at once: the mapping would keep the device's
 * file open.
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
