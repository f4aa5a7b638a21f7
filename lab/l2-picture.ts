/** The picture that L2's check `picture` draws, and its comparison with a screenshot. */
import { PNG } from 'pngjs';

const MOST_LOOKS = 40;

/** The line that the check `picture` writes to the screen repeatedly: 13 bytes, so that lines differ. */
export const PICTURE_TEXT = 'tsvisor, lab';

/** The mode that the check `picture` found. @throws Error if it found none */
export function parseL2Picture(output: string): { width: number; height: number; stride: number } {
  const match = /^L2-PICTURE \S+ (\d+),(\d+) (\d+)\r?$/m.exec(output);
  if (match === null) throw new Error(`L2 printed no picture mode:\n${output}`);
  const [width = 0, height = 0, stride = 0] = match.slice(1).map(Number);
  return { width, height, stride };
}

/** Red, green, blue, 255 per pixel: the text as DRM_FORMAT_XRGB8888. */
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
 * Compares PNGs with the expected picture until one matches: the driver draws with some delay.
 * @param take returns the next PNG
 * @returns how many bytes of the last one differ
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
