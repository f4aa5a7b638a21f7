import { constants, fdatasyncSync, fstatSync, ftruncateSync, readvSync, writevSync } from 'node:fs';
import { errno } from '../../sys/errno.js';
import { fromNodeError, SysError } from '../../sys/error.js';
import { Fd } from '../../sys/fd.js';
import { MOST_VECTORS } from '../../sys/io-ring.js';
import { ioctl, ior, type Request } from '../../sys/ioctl.js';
import * as libc from '../../sys/libc.js';
import { Scope } from '../../sys/scope.js';
import { SYSTEM_CALLS } from '../../sys/system-calls.js';
import { fillParts, lengthOf, sliceParts } from '../memory-parts.js';
import type { FileIo } from './file-io.js';
import type { Done } from './image.js';
import { lockImage } from './image-lock.js';
import { eachInTurn } from './joint.js';

// linux/falloc.h
const FALLOC_FL_KEEP_SIZE = 1;
const FALLOC_FL_PUNCH_HOLE = 2;
const FALLOC_FL_ZERO_RANGE = 16;

/** linux/fs.h */
const BLKGETSIZE64 = ior('BLKGETSIZE64', 0x12, 114, 8);

/** Requests of ioctl(2) that a disk needs. */
export const DISK_REQUESTS: readonly Request[] = [BLKGETSIZE64];

const ZEROES = new Uint8Array(65536);

const PUNCH = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
const ZERO_RANGE = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;

export interface ImageFileOptions {
  readonly io: FileIo;
  readonly isReadOnly: boolean;
  /** Create it, or empty what is there. */
  readonly isNew?: boolean;
}

/**
 * A regular file or block device that holds an image, locked as QEMU locks its own. Operations whose name begins with `begin`
 * go on while others do; the others block, and are for metadata. Used by one thread.
 */
export class ImageFile implements Disposable {
  readonly isReadOnly: boolean;
  #path: string;
  readonly #fd: Fd;
  readonly #io: FileIo;
  #bytes: number;
  /** Modes of fallocate(2) that this file system does not have. */
  readonly #missing = new Set<number>();

  private constructor(path: string, fd: Fd, bytes: number, { io, isReadOnly }: ImageFileOptions) {
    this.#io = io;
    this.#path = path;
    this.#fd = fd;
    this.#bytes = bytes;
    this.isReadOnly = isReadOnly;
  }

  /**
   * @throws SysError of open(2); EINVAL for what is neither a regular file nor a block device; EBUSY if another process
   * has it, and one of both writes
   */
  static open(path: string, options: ImageFileOptions): ImageFile {
    const { isReadOnly, isNew = false } = options;
    using scope = new Scope();
    // A pipe without a writer would hold up open(2).
    const access = isReadOnly ? constants.O_RDONLY : constants.O_RDWR;
    const create = isNew ? constants.O_CREAT : 0;
    const hints = isNew ? MAKE_HINTS : isReadOnly ? OPEN_HINTS : WRITE_HINTS;
    const fd = scope.own(openFd(path, access | create | constants.O_NONBLOCK, hints));
    const stat = fstatSync(fd.number);
    if (!stat.isFile() && !stat.isBlockDevice()) {
      throw new SysError({ call: 'open', target: path, errno: errno.EINVAL, hint: NO_DISK });
    }
    lockImage(fd.number, path, isReadOnly);
    if (isNew) ftruncateSync(fd.number);
    const bytes = isNew ? 0 : stat.isFile() ? stat.size : deviceBytes(fd);
    scope.move();
    return new ImageFile(path, fd, bytes, options);
  }

  get path(): string {
    return this.#path;
  }

  /** Says that the file has another name now. */
  renamed(path: string): this {
    this.#path = path;
    return this;
  }

  /** Its length. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Reads into the parts; what is beyond the end reads 0. @throws SysError */
  read(parts: readonly Uint8Array[], offset: number): void {
    const bytes = lengthOf(parts);
    let done = 0;
    while (done < bytes) {
      const rest = restOf(parts, done, bytes);
      let got: number;
      try {
        got = readvSync(this.#fd.number, rest, offset + done);
      } catch (error) {
        throw fromNodeError(error, 'preadv', this.path);
      }
      if (got === 0) {
        fillParts(sliceParts(parts, done, bytes - done), 0);
        return;
      }
      done += got;
    }
  }

  /** @throws SysError ENOSPC and others */
  write(parts: readonly Uint8Array[], offset: number): void {
    const bytes = lengthOf(parts);
    let done = 0;
    while (done < bytes) {
      const rest = restOf(parts, done, bytes);
      try {
        done += writevSync(this.#fd.number, rest, offset + done);
      } catch (error) {
        throw fromNodeError(error, 'pwritev', this.path);
      }
    }
    this.#bytes = Math.max(this.#bytes, offset + bytes);
  }

  /** fdatasync(2). @throws SysError */
  sync(): void {
    try {
      fdatasyncSync(this.#fd.number);
    } catch (error) {
      throw fromNodeError(error, 'fdatasync', this.path);
    }
  }

  /** Frees a range, which then reads 0; a file system that cannot leaves it as it is. @throws SysError */
  punch(offset: number, bytes: number): void {
    while (!this.#missing.has(PUNCH)) {
      const result = libc.syscall4(SYSTEM_CALLS.fallocate, this.#fd.number, PUNCH, offset, bytes);
      if (result >= 0) return;
      if (isMissing(result)) this.#missing.add(PUNCH);
      else if (result !== -errno.EINTR) throw this.#error('fallocate', result);
    }
  }

  /** As {@link read}. */
  beginRead(parts: readonly Uint8Array[], offset: number, done: Done): void {
    const bytes = lengthOf(parts);
    const go = (from: number): void => {
      const rest = restOf(parts, from, bytes);
      this.#io.read(this.#fd.number, rest, offset + from, (result) => {
        if (result === -errno.EINTR) return go(from);
        if (result < 0) return done(this.#error('preadv', result));
        if (result === 0) fillParts(sliceParts(parts, from, bytes - from), 0);
        if (result === 0 || from + result === bytes) return done();
        go(from + result);
      });
    };
    if (bytes === 0) done();
    else go(0);
  }

  /** As {@link write}. */
  beginWrite(parts: readonly Uint8Array[], offset: number, done: Done): void {
    const bytes = lengthOf(parts);
    const go = (from: number): void => {
      const rest = restOf(parts, from, bytes);
      this.#io.write(this.#fd.number, rest, offset + from, (result) => {
        if (result === -errno.EINTR) return go(from);
        if (result < 0) return done(this.#error('pwritev', result));
        if (result === 0) return done(this.#error('pwritev', -errno.EIO));
        this.#bytes = Math.max(this.#bytes, offset + from + result);
        if (from + result === bytes) return done();
        go(from + result);
      });
    };
    if (bytes === 0) done();
    else go(0);
  }

  /** As {@link sync}. */
  beginSync(done: Done): void {
    this.#io.sync(this.#fd.number, (result) => {
      if (result === -errno.EINTR) return this.beginSync(done);
      done(result < 0 ? this.#error('fdatasync', result) : undefined);
    });
  }

  /** As {@link punch}. */
  beginPunch(offset: number, bytes: number, done: Done): void {
    this.#beginAllocate([PUNCH], offset, bytes, done, () => done());
  }

  /** Makes a range within the file read 0. @param mayFree whether its space may be freed */
  beginZero(offset: number, bytes: number, mayFree: boolean, done: Done): void {
    const modes = mayFree ? [PUNCH, ZERO_RANGE] : [ZERO_RANGE];
    this.#beginAllocate(modes, offset, bytes, done, () => this.#beginZeroes(offset, bytes, done));
  }

  /** The first of these modes that the file system has, or `otherwise`. */
  #beginAllocate(
    [mode, ...others]: readonly number[],
    offset: number,
    bytes: number,
    done: Done,
    otherwise: () => void,
  ): void {
    if (mode === undefined) {
      otherwise();
      return;
    }
    if (this.#missing.has(mode)) {
      this.#beginAllocate(others, offset, bytes, done, otherwise);
      return;
    }
    this.#io.allocate(this.#fd.number, mode, offset, bytes, (result) => {
      if (result >= 0) return done();
      if (!isMissing(result) && result !== -errno.EINTR) return done(this.#error('fallocate', result));
      if (isMissing(result)) this.#missing.add(mode);
      this.#beginAllocate([mode, ...others], offset, bytes, done, otherwise);
    });
  }

  #beginZeroes(offset: number, bytes: number, done: Done): void {
    const write = (i: number, next: Done) => {
      const length = Math.min(ZEROES.length, bytes - i * ZEROES.length);
      this.beginWrite([ZEROES.subarray(0, length)], offset + i * ZEROES.length, next);
    };
    eachInTurn(Math.ceil(bytes / ZEROES.length), write, done);
  }

  #error(call: string, result: number): SysError {
    return new SysError({ call, target: this.path, errno: -result });
  }

  [Symbol.dispose](): void {
    this.#fd[Symbol.dispose]();
  }
}

/** Whether the file system has no such fallocate(2). */
const isMissing = (result: number): boolean =>
  result === -errno.EOPNOTSUPP || result === -errno.ENOSYS || result === -errno.ENODEV;

/** What is left of parts after some bytes, as far as one call takes it. */
function restOf(parts: readonly Uint8Array[], from: number, bytes: number): readonly Uint8Array[] {
  if (from === 0 && parts.length <= MOST_VECTORS) return parts;
  return (from === 0 ? parts : sliceParts(parts, from, bytes - from)).slice(0, MOST_VECTORS);
}

const NO_DISK = 'a disk is a regular file or a block device';
const NOT_WRITABLE = 'readonly, or overlay=FILE for what the guest writes, needs no right to write it';
const OPEN_HINTS: Readonly<Record<string, string>> = {
  ENOENT: 'no file has this name: `qemu-img create` makes an empty disk',
  EISDIR: NO_DISK,
};
const WRITE_HINTS: Readonly<Record<string, string>> = {
  ...OPEN_HINTS,
  EACCES: NOT_WRITABLE,
  EPERM: NOT_WRITABLE,
  EROFS: NOT_WRITABLE,
};
/** Of a file to be made. */
const MAKE_HINTS: Readonly<Record<string, string>> = { ENOENT: 'its folder does not exist' };

function openFd(path: string, flags: number, hints: Readonly<Record<string, string>>): Fd {
  try {
    return Fd.open(path, flags, undefined, 0o600);
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
    const hint = hints[error.code];
    if (hint === undefined) throw error;
    throw new SysError({ call: 'open', target: path, errno: error.errno, hint });
  }
}

function deviceBytes(fd: Fd): number {
  const size = new BigUint64Array(1);
  ioctl(fd, BLKGETSIZE64, new Uint8Array(size.buffer));
  return Number(size[0]);
}
