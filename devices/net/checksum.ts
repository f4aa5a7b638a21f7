import { get16 } from './bytes.js';

/**
 * Adds bytes `start`..`end` to an unfolded ones' complement sum; an odd last byte is the high half of a word. The sum
 * stays below 2^31 for anything up to a jumbo frame, so V8 keeps it in a register.
 * @see RFC 1071
 */
export function addBytes(sum: number, bytes: Uint8Array, start: number, end: number): number {
  let total = sum;
  let at = start;
  for (const last = end - 7; at < last; at += 8) {
    total +=
      ((bytes[at]! + bytes[at + 2]! + bytes[at + 4]! + bytes[at + 6]!) << 8) +
      (bytes[at + 1]! + bytes[at + 3]! + bytes[at + 5]! + bytes[at + 7]!);
  }
  for (; at + 1 < end; at += 2) total += (bytes[at]! << 8) | bytes[at + 1]!;
  if (at < end) total += bytes[at]! << 8;
  return total;
}

/** Unfolded sum of the pseudo header covered by UDP and TCP checksums. @see RFC 768, RFC 9293 section 3.1 */
export function pseudoHeaderSum(
  source: number,
  destination: number,
  protocol: number,
  length: number,
): number {
  return (
    (source >>> 16) + (source & 0xffff) + (destination >>> 16) + (destination & 0xffff) + protocol + length
  );
}

/** Folds a sum to 16 bits. The result is 0xffff over data that includes its own correct checksum. */
export function fold(sum: number): number {
  let folded = (sum >>> 16) + (sum & 0xffff);
  folded = (folded >>> 16) + (folded & 0xffff);
  return folded;
}

/** The checksum field for a sum computed with that field as zero. */
export function checksum(sum: number): number {
  return ~fold(sum) & 0xffff;
}

/**
 * Updates the checksum field at `at` for one 16-bit word that changed from `before` to `after`. Adds the complement
 * instead of complementing the sum, so that all-zero data yields ffff, not 0.
 * @see RFC 1624, equation 4
 */
export function adjustChecksum(bytes: Uint8Array, at: number, before: number, after: number): number {
  return fold(get16(bytes, at) + before + (~after & 0xffff));
}
