/** Memory in several parts, one after the other, as a chain of descriptors has it. */

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
