import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { fromNodeError } from '../../sys/error.js';
import { GuestImageError } from '../boot-elf.js';

/** An initial RAM disk in a file, which is read directly into guest memory. */
export interface Initrd {
  readonly path: string;
  readonly bytes: bigint;
  /**
   * Reads the whole file into `target`, which has {@link bytes} bytes.
   * @throws SysError from read(2); GuestImageError if the file has shrunk since
   */
  copyTo(target: Uint8Array): void;
}

/** Maximum bytes per read call. */
const MOST_PER_READ = 2 ** 30;

/** Checks the file; {@link Initrd.copyTo} reads it later. @throws SysError naming the path; GuestImageError if empty */
export function openInitrd(path: string): Initrd {
  const bytes = withFile(path, (fd) => fstatSync(fd).size);
  if (bytes === 0) throw new GuestImageError(path, 'is an empty initrd', 'leave it out, or give another one');
  return {
    path,
    bytes: BigInt(bytes),
    copyTo: (target) => withFile(path, (fd) => readAll(path, fd, target)),
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

function withFile<T>(path: string, use: (fd: number) => T): T {
  try {
    const fd = openSync(path, 'r');
    try {
      return use(fd);
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    throw fromNodeError(error, 'open', `initrd ${path}`, 'give the path of an initramfs image, or omit it');
  }
}
