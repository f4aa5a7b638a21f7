/** A disk's contents, as a block device's queue uses them. */
import type { SysError } from '../../sys/error.js';

/** Called once an operation is done, in the thread that began it, maybe before the call that begins it returns. */
export type Done = (error?: SysError) => void;

/**
 * A disk image that is open. Offsets and lengths are bytes, multiples of 512 within {@link bytes}: the caller checks that, and
 * keeps parts of memory until an operation is done. Operations go on at the same time, in any order: one that is begun after
 * another one is done sees what that did. Errors are those of the host, EIO for an image that is not valid, ENOSPC. Used by
 * one thread, whose {@link FileIo} finishes what was begun.
 */
export interface BlockImage extends Disposable {
  /** Size of the disk, a multiple of 512. */
  readonly bytes: number;
  readonly isReadOnly: boolean;
  /** What discards are aligned to, in bytes; a smaller one has no effect. */
  readonly discardBytes: number;
  /** Reads into memory parts, one after the other. */
  read(parts: readonly Uint8Array[], offset: number, done: Done): void;
  /** Writes memory parts, one after the other. */
  write(parts: readonly Uint8Array[], offset: number, done: Done): void;
  /** Done once all writes that were done when it began survive a loss of power. */
  flush(done: Done): void;
  /** The contents of a range are no longer needed: it may be freed, and then reads 0. */
  discard(offset: number, bytes: number, done: Done): void;
  /** Makes a range read 0. @param mayFree whether it may lose its space on the host */
  writeZeroes(offset: number, bytes: number, mayFree: boolean, done: Done): void;
}

export const SECTOR_BYTES = 512;
