/**
 * Asynchronous I/O on files by io_uring(7): the kernel does what it can at once, waits for the disk without a thread of ours,
 * and does in threads of its own what blocks (fdatasync, a file system that cannot do otherwise).
 */
import { errno } from './errno.js';
import { SysError } from './error.js';
import { checked, Fd } from './fd.js';
import * as libc from './libc.js';
import { MemoryView } from './mapping.js';
import { Scope } from './scope.js';

// System calls of x86-64, for which glibc has no functions.
const SYS_io_uring_setup = 425;
const SYS_io_uring_enter = 426;

// struct io_uring_params, from linux/io_uring.h
const PARAMS_BYTES = 120;
const FEATURES_AT = 20;
const SQ_OFFSETS_AT = 40;
const CQ_OFFSETS_AT = 80;
const IORING_FEAT_SINGLE_MMAP = 1 << 0;
const IORING_FEAT_NODROP = 1 << 1;
const IORING_FEAT_SUBMIT_STABLE = 1 << 2;
/** Came with the operations that are used here, in Linux 5.6. */
const IORING_FEAT_RW_CUR_POS = 1 << 3;
const NEEDED =
  IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_RW_CUR_POS;
const IORING_OFF_SQES = 0x1000_0000;

const PROT_READ_WRITE = 3;
const MAP_SHARED_POPULATE = 0x8001;
const POLLIN = 1;

const SQE_WORDS = 16;
const CQE_WORDS = 4;
const IOVEC_BYTES = 16;
/** Memory for vectors of the operations that are not yet submitted. */
const VECTORS = 4096;
/** UIO_MAXIOV. */
export const MOST_VECTORS = 1024;

/** Operations, under the names of enum io_uring_op. */
export const IORING_OP_READV = 1;
export const IORING_OP_WRITEV = 2;
export const IORING_OP_FSYNC = 3;
export const IORING_OP_FALLOCATE = 17;
export const IORING_OP_READ = 22;
export const IORING_OP_WRITE = 23;
export const IORING_FSYNC_DATASYNC = 1;

/** Result of an operation: as that of the system call, or the negative errno. */
export type IoDone = (result: number) => void;

/** Fields of struct io_uring_sqe. */
export interface IoOperation {
  readonly opcode: number;
  readonly fd: number;
  readonly offset: number;
  /** Memory to read into or to write, MOST_VECTORS parts at most. Valid until it is done. */
  readonly parts?: readonly Uint8Array[];
  /** In place of parts. */
  readonly address?: number;
  readonly length?: number;
  /** `rw_flags`, `fsync_flags`. */
  readonly flags?: number;
  readonly done: IoDone;
}

function mapped(scope: Scope, fd: Fd, bytes: number, offset: number): Uint32Array {
  const at = checked(
    libc.mmap(0, bytes, PROT_READ_WRITE, MAP_SHARED_POPULATE, fd.number, offset),
    'mmap',
    fd.target,
  );
  scope.defer(() => void libc.munmap(at, bytes));
  return new Uint32Array(new MemoryView(at, bytes).slice(0, bytes).buffer);
}

/**
 * A ring of operations. Used by the thread that opened it. Its descriptor is readable when some are done; {@link reap} calls
 * back. The memory of an operation is the kernel's until then.
 */
export class IoRing implements Disposable {
  readonly #scope: Scope;
  readonly #fd: Fd;
  readonly #entries: number;
  readonly #sqes: Uint32Array;
  readonly #ring: Uint32Array;
  // Where these words are in the ring.
  readonly #sqHead: number;
  readonly #sqTail: number;
  readonly #cqHead: number;
  readonly #cqTail: number;
  readonly #cqes: number;
  readonly #cqMask: number;
  readonly #vectors: libc.PinnedBytes;
  readonly #vectorWords: Uint32Array;
  #usedVectors = 0;
  #tail = 0;
  /** By `user_data`. */
  readonly #running: (IoOperation | undefined)[];
  readonly #free: number[] = [];
  /** What has no place in the ring yet. */
  readonly #waiting: IoOperation[] = [];

  private constructor(owned: Scope, fd: Fd, params: Uint32Array, entries: number) {
    using scope = owned;
    const at = (byte: number) => params[byte / 4] as number;
    const ringBytes = Math.max(
      at(SQ_OFFSETS_AT + 24) + entries * 4,
      at(CQ_OFFSETS_AT + 20) + at(4) * CQE_WORDS * 4,
    );
    this.#ring = mapped(scope, fd, ringBytes, 0);
    this.#sqes = mapped(scope, fd, entries * SQE_WORDS * 4, IORING_OFF_SQES);
    this.#sqHead = at(SQ_OFFSETS_AT) / 4;
    this.#sqTail = at(SQ_OFFSETS_AT + 4) / 4;
    this.#cqHead = at(CQ_OFFSETS_AT) / 4;
    this.#cqTail = at(CQ_OFFSETS_AT + 4) / 4;
    this.#cqMask = this.#ring[at(CQ_OFFSETS_AT + 8) / 4] as number;
    this.#cqes = at(CQ_OFFSETS_AT + 20) / 4;
    const array = at(SQ_OFFSETS_AT + 24) / 4;
    for (let i = 0; i < entries; i++) this.#ring[array + i] = i;
    this.#vectors = scope.own(new libc.PinnedBytes(VECTORS * IOVEC_BYTES));
    this.#vectorWords = new Uint32Array(this.#vectors.bytes.buffer);
    this.#running = new Array(entries).fill(undefined);
    for (let slot = entries - 1; slot >= 0; slot--) this.#free.push(slot);
    this.#entries = entries;
    this.#fd = fd;
    this.#scope = scope.move();
  }

  /**
   * Undefined if the host has no io_uring, or not for this process (`kernel.io_uring_disabled`, a container's or a sandbox's
   * filter, Linux before 5.6), or no memory for it.
   * @param entries most operations that the kernel has at a time, a power of two
   */
  static open(entries: number): IoRing | undefined {
    const params = new Uint32Array(PARAMS_BYTES / 4);
    const number = libc.withAddress(new Uint8Array(params.buffer), (address) =>
      libc.syscall(SYS_io_uring_setup, entries, address, 0),
    );
    if (number < 0) return undefined;
    using scope = new Scope();
    const fd = scope.own(Fd.adopt(number, 'io_uring'));
    if (((params[FEATURES_AT / 4] as number) & NEEDED) !== NEEDED) return undefined;
    try {
      return new IoRing(scope.move(), fd, params, params[0] as number);
    } catch (error) {
      if (error instanceof SysError) return undefined;
      throw error;
    }
  }

  /** For epoll. */
  get fd(): number {
    return this.#fd.number;
  }

  /** Operations whose callback has not been called. */
  get busy(): number {
    return this.#entries - this.#free.length + this.#waiting.length;
  }

  /** Begins an operation, of which the kernel hears by {@link submit}. */
  begin(operation: IoOperation): void {
    if (this.#free.length === 0) this.#waiting.push(operation);
    else this.#place(operation);
  }

  /**
   * Gives the kernel what has been begun. Some of it is done when this returns.
   * @throws SysError of io_uring_enter(2): the ring is then of no further use
   */
  submit(): void {
    for (;;) {
      const count = (this.#tail - Atomics.load(this.#ring, this.#sqHead)) >>> 0;
      if (count === 0) break;
      Atomics.store(this.#ring, this.#sqTail, this.#tail);
      // Without IORING_ENTER_GETEVENTS the kernel does not look at the arguments that are not passed here.
      const result = libc.syscall4(SYS_io_uring_enter, this.#fd.number, count, 0, 0);
      if (result >= 0 || result === -errno.EINTR) continue;
      // Too much is done and not yet taken, or there is no memory: what runs makes room.
      if (result !== -errno.EAGAIN && result !== -errno.EBUSY) checked(result, 'io_uring_enter', 'a disk');
      this.#takeAll();
    }
    this.#usedVectors = 0;
  }

  /** Calls back what is done. A callback may begin further operations, which are submitted. */
  reap(): void {
    while (this.#takeAll() > 0) this.submit();
  }

  /** Blocks until something is done, and calls back. */
  wait(): void {
    this.submit();
    if (this.busy === 0) return;
    const pollfd = new Uint32Array([this.#fd.number, POLLIN]);
    // EINTR: a signal, or the kernel had to finish an operation in this thread.
    checkedOrInterrupted(libc.poll(new Uint8Array(pollfd.buffer), 1, -1));
    this.reap();
  }

  #takeAll(): number {
    const ring = this.#ring;
    let taken = 0;
    for (let head = ring[this.#cqHead] as number; head !== Atomics.load(ring, this.#cqTail); taken++) {
      const at = this.#cqes + (head & this.#cqMask) * CQE_WORDS;
      const slot = ring[at] as number;
      const result = (ring[at + 2] as number) | 0;
      head = (head + 1) >>> 0;
      // Before the callback, which may come back here.
      Atomics.store(ring, this.#cqHead, head);
      const operation = this.#running[slot] as IoOperation;
      this.#running[slot] = undefined;
      this.#free.push(slot);
      const next = this.#waiting.shift();
      if (next !== undefined) this.#place(next);
      operation.done(result);
      head = ring[this.#cqHead] as number;
    }
    return taken;
  }

  #place(operation: IoOperation): void {
    const { opcode, fd, offset, parts, flags = 0 } = operation;
    let { address = 0, length = 0 } = operation;
    let code = opcode;
    if (parts?.length === 1) {
      const [part] = parts as [Uint8Array];
      code = opcode === IORING_OP_READV ? IORING_OP_READ : IORING_OP_WRITE;
      address = libc.heldMemory.of(part);
      length = part.length;
    } else if (parts !== undefined) {
      if (this.#usedVectors + parts.length > VECTORS) this.submit();
      address = this.#vector(parts);
      length = parts.length;
    }
    const slot = this.#free.pop() as number;
    this.#running[slot] = operation;
    const at = (this.#tail & (this.#entries - 1)) * SQE_WORDS;
    this.#tail = (this.#tail + 1) >>> 0;
    const sqes = this.#sqes;
    sqes.fill(0, at, at + SQE_WORDS);
    sqes[at] = code;
    sqes[at + 1] = fd;
    sqes[at + 2] = offset >>> 0;
    sqes[at + 3] = offset / 2 ** 32;
    sqes[at + 4] = address >>> 0;
    sqes[at + 5] = address / 2 ** 32;
    sqes[at + 6] = length;
    sqes[at + 7] = flags;
    sqes[at + 8] = slot;
  }

  /** Writes vectors, which the kernel reads once, when they are submitted. */
  #vector(parts: readonly Uint8Array[]): number {
    const address = this.#vectors.address + this.#usedVectors * IOVEC_BYTES;
    const words = this.#vectorWords;
    let at = (this.#usedVectors * IOVEC_BYTES) / 4;
    for (let i = 0; i < parts.length; i++) {
      const part = parts[i] as Uint8Array;
      const from = libc.heldMemory.of(part);
      words[at] = from >>> 0;
      words[at + 1] = from / 2 ** 32;
      words[at + 2] = part.length;
      words[at + 3] = 0;
      at += IOVEC_BYTES / 4;
    }
    this.#usedVectors += parts.length;
    return address;
  }

  /** Waits for what the kernel has: the memory of these operations is theirs until then. */
  [Symbol.dispose](): void {
    try {
      while (this.busy > 0) this.wait();
    } finally {
      this.#scope[Symbol.dispose]();
    }
  }
}

function checkedOrInterrupted(result: number): void {
  if (result !== -errno.EINTR) checked(result, 'poll', 'io_uring');
}
