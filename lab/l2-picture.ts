/** What L2's check `picture` leaves on a screen, and whether that is what can be seen from outside. */
import { PNG } from 'pngjs';

const MOST_LOOKS = 40;

/** What the check `picture` writes to a screen, with a line's end, again and again: 13 bytes, so that lines differ. */
export const PICTURE_TEXT = 'tsvisor, lab';

/** The mode that the check `picture` found. @throws Error if it found none */
export function parseL2Picture(output: string): { width: number; height: number; stride: number } {
  const match = /^L2-PICTURE \S+ (\d+),(\d+) (\d+)\r?$/m.exec(output);
  if (match === null) throw new Error(`L2 says nothing of a picture:\n${output}`);
  const [width = 0, height = 0, stride = 0] = match.slice(1).map(Number);
  return { width, height, stride };
}

/** Red, green, blue, 255 of each pixel: the text as DRM_FORMAT_XRGB8888. */
function expectedPixels(width: number, height: number, stride: number): Buffer {
  const text = Buffer.from(`${PICTURE_TEXT}\n`);
  const at = (i: number) => text[i % text.length] as number;
  const pixels = Buffer.alloc(4 * width * height, 0xff);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      for (let channel = 0; channel < 3; channel++)
        pixels[4 * (y * width + x) + channel] = at(y * stride + 4 * x + 2 - channel);
  return pixels;
}

/**
 * Compares PNGs with what L2 wrote until one is right: the driver draws a little later than it is asked.
 * @param take returns the next one
 * @returns how many bytes of the last one are wrong
 */
export async function wrongBytes(output: string, take: () => Promise<Buffer>): Promise<number> {
  const { width, height, stride } = parseL2Picture(output);
  const expected = expectedPixels(width, height, stride);
  for (let look = 1; ; look++) {
    const picture = PNG.sync.read(await take());
    if (picture.width !== width || picture.height !== height)
      throw new Error(
        `the picture has ${picture.width} x ${picture.height}, the guest ${width} x ${height} pixels`,
      );
    const wrong = picture.data.reduce((sum, byte, i) => sum + Number(byte !== expected[i]), 0);
    if (wrong === 0 || look === MOST_LOOKS) return wrong;
  }
}
