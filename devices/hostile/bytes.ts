import type { Dice } from './decisions.js';

/** Up to four bytes from `at` on, little-endian. */
export function valueAt(data: Uint8Array, at: number): number {
  let value = 0;
  for (let i = Math.min(at + 4, data.length) - 1; i >= at; i--) value = value * 256 + (data[i] as number);
  return value;
}

/** Inverts a bit, and returns the byte that has it: its first of a word of four. */
export function flipBit(data: Uint8Array, dice: Dice): number {
  const bit = dice.below(data.length * 8);
  const at = bit >> 3;
  data[at] = (data[at] as number) ^ (1 << (bit & 7));
  return at & ~3;
}
