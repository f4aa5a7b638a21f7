import { fdatasyncSync, readvSync, writevSync } from 'node:fs';
import {
  IORING_FSYNC_DATASYNC,
  IORING_OP_FALLOCATE,
  IORING_OP_FSYNC,
  IORING_OP_READV,
  IORING_OP_WRITEV,
  type IoDone,
  IoRing,
} from '../../sys/io-ring.js';
import * as libc from '../../sys/libc.js';
import { SYSTEM_CALLS } from '../../sys/system-calls.js';
import { lengthOf } from '../memory-parts.js';
import type { Done } from './image.js';
import { Promptness } from './promptness.js';

/**
 * I/O on files. An operation may be done when the call that begins it returns; if not, {@link reap} calls back once it is.
 * Its result is that of the system call, or the negative errno. Used by one thread.
 */
export interface FileIo extends Disposable {
  /** preadv(2) of MOST_VECTORS parts at most. */
  read(fd: number, parts: readonly Uint8Array[], offset: number, done: IoDone): void;
  /** pwritev(2), the same. */
  write(fd: number, parts: readonly Uint8Array[], offset: number, done: IoDone): void;
  /** fdatasync(2) */
  sync(fd: number, done: IoDone): void;
  /** fallocate(2) */
  allocate(fd: number, mode: number, offset: number, bytes: number, done: IoDone): void;
  /** Readable when operations are done; undefined if each is when its call returns. */
  readonly pollFd: number | undefined;
  /** Operations that are not done. */
  readonly busy: number;
  /** Calls back what is done. */
  reap(): void;
  /** Blocks until something is done, and calls back; returns at once if nothing is {@link busy}. */
  wait(): void;
}

/** Begins an operation and waits until it is done; others go on meanwhile. @throws SysError its error */
export function finish(io: FileIo, begin: (done: Done) => void): void {
  let result: { readonly error: Error | undefined } | undefined;
  begin((error) => {
    result = { error };
  });
  while (result === undefined) io.wait();
  if (result.error !== undefined) throw result.error;
}

/** Negative errno of an error of node:fs. */
function resultOf(call: () => number): number {
  try {
    return call();
  } catch (error) {
    const { errno } = error as NodeJS.ErrnoException;
    if (typeof errno !== 'number') throw error;
    return -Math.abs(errno);
  }
}

/** Does each operation at once: for a host without io_uring, and where nothing else is to be done meanwhile. */
export class BlockingIo implements FileIo {
  readonly pollFd = undefined;
  readonly busy = 0;

  read(fd: number, parts: readonly Uint8Array[], offset: number, done: IoDone): void {
    done(resultOf(() => readvSync(fd, parts, offset)));
  }

  write(fd: number, parts: readonly Uint8Array[], offset: number, done: IoDone): void {
    done(resultOf(() => writevSync(fd, parts, offset)));
  }

  sync(fd: number, done: IoDone): void {
    done(
      resultOf(() => {
        fdatasyncSync(fd);
        return 0;
      }),
    );
  }

  allocate(fd: number, mode: number, offset: number, bytes: number, done: IoDone): void {
    done(libc.syscall4(SYSTEM_CALLS.fallocate, fd, mode, offset, bytes));
  }

  reap(): void {}
  wait(): void {}
  [Symbol.dispose](): void {}
}

/** Most operations that the kernel has at a time. */
const ENTRIES = 128;
/** How much longer than at its best an inline read may take, by factor and in milliseconds: a disk takes more. */
const READ_LIMIT = { factor: 8, ms: 0.01 };
/** A write goes to the host's cache; one that takes this long has been held up until others are on the disk. */
const WRITE_LIMIT = { factor: 8, ms: 2 };

/**
 * Leaves to the kernel what may take long (io_uring), and does the rest at once, as that is several times as fast: reads of
 * what the host has in its cache, and writes to it. Whether it has is not known beforehand: as long as they are prompt, it is
 * taken for granted.
 */
export class RingIo implements FileIo {
  readonly #ring: IoRing;
  readonly #reads = new Promptness(READ_LIMIT);
  readonly #writes = new Promptness(WRITE_LIMIT);
  /** Operations for which writes may have to wait. */
  #slow = 0;

  private constructor(ring: IoRing) {
    this.#ring = ring;
  }

  /** Undefined if the host has no io_uring for this process. */
  static open(): RingIo | undefined {
    const ring = IoRing.open(ENTRIES);
    return ring && new RingIo(ring);
  }

  get pollFd(): number {
    return this.#ring.fd;
  }

  get busy(): number {
    return this.#ring.busy;
  }

  read(fd: number, parts: readonly Uint8Array[], offset: number, done: IoDone): void {
    if (this.#reads.isExpected()) {
      const bytes = lengthOf(parts);
      const begun = performance.now();
      const result = resultOf(() => readvSync(fd, parts, offset));
      this.#reads.note(performance.now() - begun, bytes);
      done(result);
    } else this.#ring.begin({ opcode: IORING_OP_READV, fd, offset, parts, done });
  }

  write(fd: number, parts: readonly Uint8Array[], offset: number, done: IoDone): void {
    if (this.#slow === 0 && this.#writes.isExpected()) {
      const bytes = lengthOf(parts);
      const begun = performance.now();
      const result = resultOf(() => writevSync(fd, parts, offset));
      this.#writes.note(performance.now() - begun, bytes);
      done(result);
    } else this.#ring.begin({ opcode: IORING_OP_WRITEV, fd, offset, parts, done });
  }

  sync(fd: number, done: IoDone): void {
    this.#ring.begin({
      ...{ opcode: IORING_OP_FSYNC, fd, offset: 0, flags: IORING_FSYNC_DATASYNC },
      done: this.#slowly(done),
    });
  }

  allocate(fd: number, mode: number, offset: number, bytes: number, done: IoDone): void {
    // The fields are those of io_prep_fallocate().
    this.#ring.begin({
      ...{ opcode: IORING_OP_FALLOCATE, fd, offset, address: bytes, length: mode },
      done: this.#slowly(done),
    });
  }

  #slowly(done: IoDone): IoDone {
    this.#slow++;
    return (result) => {
      this.#slow--;
      done(result);
    };
  }

  reap(): void {
    if (this.#ring.busy === 0) return;
    this.#ring.submit();
    this.#ring.reap();
  }

  wait(): void {
    this.#ring.wait();
  }

  [Symbol.dispose](): void {
    this.#ring[Symbol.dispose]();
  }
}
