import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { type BlockImage, type Done, SECTOR_BYTES } from './image.js';
import type { ImageFile } from './image-file.js';

/** What fallocate(2) can free on most file systems. */
const PAGE_BYTES = 4096;

/** An image whose bytes are the disk's: a raw file or a block device. Owns the file. */
export class RawImage implements BlockImage {
  readonly bytes: number;
  readonly discardBytes = PAGE_BYTES;
  readonly #file: ImageFile;

  /** @throws SysError EINVAL for a file shorter than a sector. Bytes after the last whole sector are not the disk's. */
  constructor(file: ImageFile) {
    this.#file = file;
    this.bytes = file.bytes - (file.bytes % SECTOR_BYTES);
    if (this.bytes === 0) {
      const hint = `a disk has at least ${SECTOR_BYTES} bytes: truncate -s 1G ${file.path}`;
      throw new SysError({ call: 'open', target: file.path, errno: errno.EINVAL, hint });
    }
  }

  get isReadOnly(): boolean {
    return this.#file.isReadOnly;
  }

  read(parts: readonly Uint8Array[], offset: number, done: Done): void {
    this.#file.beginRead(parts, offset, done);
  }

  write(parts: readonly Uint8Array[], offset: number, done: Done): void {
    this.#file.beginWrite(parts, offset, done);
  }

  flush(done: Done): void {
    this.#file.beginSync(done);
  }

  discard(offset: number, bytes: number, done: Done): void {
    this.#file.beginPunch(offset, bytes, done);
  }

  writeZeroes(offset: number, bytes: number, mayFree: boolean, done: Done): void {
    this.#file.beginZero(offset, bytes, mayFree, done);
  }

  [Symbol.dispose](): void {
    this.#file[Symbol.dispose]();
  }
}
