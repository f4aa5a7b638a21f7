/** Guest RAM as a sparse file: pages that hold only zeros are holes. */
import { fsyncSync, ftruncateSync, readSync, writeSync } from 'node:fs';
import { errno } from '../../sys/errno.js';
import { fromNodeError, SysError } from '../../sys/error.js';
import type { Fd } from '../../sys/fd.js';
import type { MemoryView } from '../../sys/mapping.js';

/** What is compared at once; small enough that it stays in the processor's cache. */
const PIECE_BYTES = 64 << 10;
const PAGE_BYTES = 4096;
const ZEROS = new Uint8Array(PIECE_BYTES);

const isZero = (bytes: Uint8Array): boolean => Buffer.compare(bytes, ZEROS.subarray(0, bytes.length)) === 0;

/**
 * Writes memory that nobody changes meanwhile, and flushes it to the disk. Returns how many bytes are no hole.
 * @throws SysError of the call that failed: ENOSPC
 */
export function writeMemory(file: Fd, memory: MemoryView): number {
  try {
    ftruncateSync(file.number, memory.bytes);
    let written = 0;
    for (let at = 0; at < memory.bytes; at += PIECE_BYTES) {
      const piece = memory.slice(at, Math.min(PIECE_BYTES, memory.bytes - at));
      if (isZero(piece)) continue;
      for (const [from, to] of runs(piece)) {
        writeAll(file.number, piece.subarray(from, to), at + from);
        written += to - from;
      }
    }
    fsyncSync(file.number);
    return written;
  } catch (error) {
    throw fromNodeError(error, 'write', file.target);
  }
}

/** The runs of pages that are not zero. */
function* runs(piece: Uint8Array): Generator<readonly [number, number]> {
  let from = -1;
  for (let at = 0; at < piece.length; at += PAGE_BYTES) {
    const isHole = isZero(piece.subarray(at, at + PAGE_BYTES));
    if (isHole && from >= 0) yield [from, at];
    if (isHole) from = -1;
    else if (from < 0) from = at;
  }
  if (from >= 0) yield [from, piece.length];
}

function writeAll(fd: number, bytes: Uint8Array, at: number): void {
  for (let done = 0; done < bytes.length; )
    done += writeSync(fd, bytes, done, bytes.length - done, at + done);
}

/**
 * Copies such a file into memory that holds zeros, without touching the pages that stay zero.
 * @throws SysError of read(2); EIO if it ends early
 */
export function readMemory(file: Fd, memory: MemoryView): void {
  const piece = new Uint8Array(PIECE_BYTES);
  try {
    for (let at = 0; at < memory.bytes; ) {
      const got = readSync(file.number, piece, 0, Math.min(PIECE_BYTES, memory.bytes - at), at);
      if (got === 0) {
        const hint = `it ends at byte ${at} of ${memory.bytes}`;
        throw new SysError({ call: 'read', target: file.target, errno: errno.EIO, hint });
      }
      const bytes = piece.subarray(0, got);
      if (!isZero(bytes)) memory.slice(at, got).set(bytes);
      at += got;
    }
  } catch (error) {
    throw fromNodeError(error, 'read', file.target);
  }
}
