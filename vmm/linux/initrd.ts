import { readSync } from 'node:fs';
import { GuestImageError } from '../boot-elf.js';
import { withInputFile } from '../input-file.js';

/** An initial RAM disk in a file, which is read directly into guest memory. */
export interface Initrd {
  readonly path: string;
  readonly bytes: bigint;
  /**
   * Reads the whole file into `target`, which has {@link bytes} bytes.
   * @throws InputFileError; GuestImageError if the file has shrunk since
   */
  copyTo(target: Uint8Array): void;
}

/** Maximum bytes per read call. */
const MOST_PER_READ = 2 ** 30;

/** Guest memory, which has to hold it, is what limits its size. */
const MOST_BYTES = Number.MAX_SAFE_INTEGER;

/** Checks the file; {@link Initrd.copyTo} reads it later. @throws InputFileError; GuestImageError if empty */
export function openInitrd(path: string): Initrd {
  const bytes = withInputFile(path, MOST_BYTES, (_fd, size) => size);
  if (bytes === 0) throw new GuestImageError(path, 'is an empty initrd', 'leave it out, or give another one');
  return {
    path,
    bytes: BigInt(bytes),
    copyTo: (target) => withInputFile(path, MOST_BYTES, (fd) => readAll(path, fd, target)),
  };
}

function readAll(path: string, fd: number, target: Uint8Array): void {
  for (let at = 0; at < target.length; ) {
    const count = readSync(fd, target, at, Math.min(target.length - at, MOST_PER_READ), at);
    if (count === 0)
      throw new GuestImageError(path, `has shrunk to ${at} of ${target.length} bytes`, 'try again');
    at += count;
  }
}
