import { littleEndian } from '../pci/config-space.js';
import type { Dice } from './decisions.js';

/** Up to four bytes from `at` on, little-endian. */
export const valueAt = (data: Uint8Array, at: number): number =>
  littleEndian(data, at, Math.min(4, data.length - at));

/** Inverts a bit, and returns the byte that has it: its first of a word of four. */
export function flipBit(data: Uint8Array, dice: Dice): number {
  const bit = dice.below(data.length * 8);
  const at = bit >> 3;
  data[at] = (data[at] as number) ^ (1 << (bit & 7));
  return at & ~3;
}
