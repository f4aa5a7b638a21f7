import { describe, expect, it } from 'vitest';
import { BLOCK, NUMBER_HEIGHT, NUMBER_WIDTH, numberIn } from './frame-number.js';

/** As lab/l2/frames.c paints. */
function painted(number: number, stride: number): Uint8Array {
  const pixels = new Uint8Array(stride * NUMBER_HEIGHT);
  const bits = [number & 255, number >> 8, ~number & 255, (~number >> 8) & 255];
  for (let y = 0; y < NUMBER_HEIGHT; y++)
    for (let x = 0; x < NUMBER_WIDTH; x++) {
      const isSet = ((bits[Math.floor(y / BLOCK)] as number) >> Math.floor(x / BLOCK)) & 1;
      if (isSet) pixels.fill(255, y * stride + 4 * x, y * stride + 4 * x + 4);
    }
  return pixels;
}

describe('the number of a picture', () => {
  const stride = 4 * NUMBER_WIDTH + 12;

  it('is read as it was painted, whatever its 16 bits', () => {
    for (const number of [0, 1, 255, 256, 4660, 32768, 65535])
      expect(numberIn(painted(number, stride), stride)).toBe(number);
  });

  it('is not read from a picture of which one row of blocks belongs to another number', () => {
    for (let row = 0; row < 4; row++) {
      const pixels = painted(0x1234, stride);
      const other = painted(0x4321, stride);
      const [from, to] = [row * BLOCK * stride, (row + 1) * BLOCK * stride];
      pixels.set(other.subarray(from, to), from);
      expect(numberIn(pixels, stride)).toBeUndefined();
    }
  });

  it('is not read from one colour, from grey, or from too few pixels', () => {
    for (const level of [0, 128, 255])
      expect(numberIn(new Uint8Array(stride * NUMBER_HEIGHT).fill(level), stride)).toBeUndefined();
    expect(numberIn(painted(7, stride).subarray(0, stride * 20), stride)).toBeUndefined();
  });
});
