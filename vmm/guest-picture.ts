import type { Picture } from './display/png.js';

const BARS = [0xffffff, 0xffff00, 0x00ffff, 0x00ff00, 0xff00ff, 0xff0000, 0x0000ff, 0x000000] as const;
const NOISE_WIDTH = 64;
const NOISE_HEIGHT = 32;

/**
 * The picture that the built-in guest draws (vmm/guest/abi.h), for comparison with a screenshot.
 * @param width in pixels, at least 64
 * @param height in pixels, at least 32
 */
export function guestPicture(width: number, height: number): Picture {
  const rgba = new Uint8Array(4 * width * height);
  const put = (x: number, y: number, colour: number) =>
    rgba.set([colour >> 16, (colour >> 8) & 0xff, colour & 0xff, 255], 4 * (y * width + x));
  const middle = Math.floor(height / 2);
  const third = (i: number) => middle + Math.floor(((height - middle) * i) / 3);
  for (let x = 0; x < width; x++) {
    const bar = BARS[Math.floor((8 * x) / width)] as number;
    const shade = Math.floor((255 * x) / (width - 1));
    for (let y = 0; y < middle; y++) put(x, y, bar);
    for (let y = middle; y < height; y++) put(x, y, shade << (y < third(1) ? 16 : y < third(2) ? 8 : 0));
  }
  const left = Math.floor((width - NOISE_WIDTH) / 2);
  const top = Math.floor((height - NOISE_HEIGHT) / 2);
  let state = width | (height << 16);
  for (let i = 0; i < NOISE_WIDTH * NOISE_HEIGHT; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    put(left + (i % NOISE_WIDTH), top + Math.floor(i / NOISE_WIDTH), state & 0xffffff);
  }
  return { width, height, rgba };
}
