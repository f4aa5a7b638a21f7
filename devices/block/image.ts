/** A disk's contents, as a block device's queue uses them. */

/**
 * A disk image that is open. Offsets and lengths are bytes, multiples of 512 within {@link bytes}: the caller checks that.
 * All calls block, so they belong into a thread that may. Used by one thread.
 */
export interface BlockImage extends Disposable {
  /** Size of the disk, a multiple of 512. */
  readonly bytes: number;
  readonly isReadOnly: boolean;
  /** What discards are aligned to, in bytes; a smaller one has no effect. */
  readonly discardBytes: number;
  /** Reads into memory parts, one after the other. @throws SysError of the host; EIO for an image that is not valid */
  read(parts: readonly Uint8Array[], offset: number): void;
  /** Writes memory parts, one after the other. @throws SysError as {@link read}; ENOSPC */
  write(parts: readonly Uint8Array[], offset: number): void;
  /** Returns once what was written before survives a loss of power. @throws SysError */
  flush(): void;
  /** The contents of a range are no longer needed: it may be freed, and then reads 0. @throws SysError */
  discard(offset: number, bytes: number): void;
  /** Makes a range read 0. @param mayFree whether it may lose its space on the host @throws SysError */
  writeZeroes(offset: number, bytes: number, mayFree: boolean): void;
}

export const SECTOR_BYTES = 512;

/** Bytes that all parts have. */
export function lengthOf(parts: readonly Uint8Array[]): number {
  let bytes = 0;
  for (let i = 0; i < parts.length; i++) bytes += (parts[i] as Uint8Array).length;
  return bytes;
}

/** The parts of `bytes` bytes from `from` on, without copying. */
export function sliceParts(parts: readonly Uint8Array[], from: number, bytes: number): Uint8Array[] {
  const found: Uint8Array[] = [];
  let at = from;
  let left = bytes;
  for (let i = 0; i < parts.length && left > 0; i++) {
    const part = parts[i] as Uint8Array;
    if (at >= part.length) {
      at -= part.length;
      continue;
    }
    const length = Math.min(part.length - at, left);
    found.push(at === 0 && length === part.length ? part : part.subarray(at, at + length));
    at = 0;
    left -= length;
  }
  return found;
}

export function fillParts(parts: readonly Uint8Array[], value: number): void {
  for (let i = 0; i < parts.length; i++) (parts[i] as Uint8Array).fill(value);
}
