import { PNG } from 'pngjs';
import { expect, test } from 'vitest';
import { encodePng } from './png.js';

test('a PNG holds the picture, pixel for pixel, and no transparency', async () => {
  const rgba = Uint8Array.from({ length: 7 * 5 * 4 }, (_, i) => (i % 4 === 3 ? 255 : (i * 37) & 0xff));
  const file = await encodePng({ width: 7, height: 5, rgba });
  const read = PNG.sync.read(Buffer.from(file));
  expect([read.width, read.height]).toEqual([7, 5]);
  expect(Uint8Array.from(read.data)).toEqual(rgba);
  expect(file[25]).toBe(2); // IHDR: truecolour
});
