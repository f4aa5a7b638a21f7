/** Bytes of a chain, which its parts hold one after the other. */
import { copyBytes } from '../net/bytes.js';
import { NET_HEADER_BYTES, NUM_BUFFERS_AT } from './spec.js';

/** The byte at an offset; 0 beyond the end. */
export function byteOf(parts: readonly Uint8Array[], at: number): number {
  let offset = at;
  for (let i = 0; i < parts.length; i++) {
    const part = parts[i] as Uint8Array;
    if (offset < part.length) return part[offset] as number;
    offset -= part.length;
  }
  return 0;
}

export function setByte(parts: readonly Uint8Array[], at: number, value: number): void {
  let offset = at;
  for (let i = 0; i < parts.length; i++) {
    const part = parts[i] as Uint8Array;
    if (offset < part.length) {
      part[offset] = value;
      return;
    }
    offset -= part.length;
  }
}

/** Writes num_buffers. */
export function setCount(parts: readonly Uint8Array[], chains: number): void {
  setByte(parts, NUM_BUFFERS_AT, chains & 0xff);
  setByte(parts, NUM_BUFFERS_AT + 1, chains >>> 8);
}

/** Clears the header, and adds the memory after it to `rest`. */
export function clearHeader(parts: readonly Uint8Array[], rest: Uint8Array[]): void {
  let left = NET_HEADER_BYTES;
  for (let i = 0; i < parts.length; i++) {
    const part = parts[i] as Uint8Array;
    const bytes = Math.min(part.length, left);
    for (let j = 0; j < bytes; j++) part[j] = 0;
    left -= bytes;
    if (bytes === 0) rest.push(part);
    else if (bytes < part.length) rest.push(part.subarray(bytes));
  }
}

export function copyToParts(
  parts: readonly Uint8Array[],
  source: Uint8Array,
  from: number,
  bytes: number,
): void {
  let done = 0;
  for (let i = 0; i < parts.length && done < bytes; i++) {
    const part = parts[i] as Uint8Array;
    const length = Math.min(part.length, bytes - done);
    copyBytes(part, 0, source, from + done, length);
    done += length;
  }
}
