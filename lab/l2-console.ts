/** What the kernel's console shows in L2's check `console`, and its comparison with a screen. */
import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ScreenPicture } from './l2-screens.js';
import { slowdown } from './patience.js';

const MOST_MS = 30_000;
/** The check prints lines in eight colours, on backgrounds of four. */
const LEAST_COLOURS = 8;

/** The console's frame buffer. */
export interface L2Console {
  readonly width: number;
  readonly height: number;
  /** Bytes of a line. */
  readonly stride: number;
  /** MD5 of its bytes, as the guest reads them. */
  readonly md5: string;
}

/** What the check has printed. @throws Error if it found no console */
export function parseL2Console(output: string): L2Console {
  const match = /^L2-CONSOLE \S+ (\d+),(\d+) (\d+) ([\da-f]{32})\r?$/m.exec(output);
  if (match === null) throw new Error(`L2 printed no console:\n${output}`);
  const [width = 0, height = 0, stride = 0] = match.slice(1).map(Number);
  return { width, height, stride, md5: match[4] as string };
}

/** Looks at a screen until it shows the console, pixel for pixel. Returns what is wrong with the last look; undefined if nothing is. */
export async function wrongConsole(
  output: string,
  look: () => Promise<ScreenPicture>,
): Promise<string | undefined> {
  const wanted = parseL2Console(output);
  for (const end = performance.now() + MOST_MS * slowdown(); ; await sleep(100)) {
    const wrong = await look().then(
      (picture) => difference(picture, wanted),
      (error: Error) => error.message,
    );
    if (wrong === undefined || performance.now() > end) return wrong;
  }
}

function difference(picture: ScreenPicture, { width, height, stride, md5 }: L2Console): string | undefined {
  if (picture.width !== width || picture.height !== height)
    return `${picture.width} x ${picture.height} pixels, where the console has ${width} x ${height}`;
  const pixels = asGuestBytes(picture, stride);
  const colours = new Set(new Uint32Array(pixels.buffer)).size;
  if (colours < LEAST_COLOURS) return `${colours} colours, as if there were no text`;
  const seen = createHash('md5').update(pixels).digest('hex');
  return seen === md5 ? undefined : `pixels of the checksum ${seen}, where the console has ${md5}`;
}

/** The guest's bytes of it: DRM_FORMAT_XRGB8888, 0 in what is no colour. */
export function asGuestBytes(
  { width, height, rgba }: ScreenPicture,
  stride: number,
): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(stride * height);
  for (let y = 0; y < height; y++)
    for (let x = 0, from = 4 * y * width, to = y * stride; x < width; x++, from += 4, to += 4) {
      bytes[to] = rgba[from + 2] as number;
      bytes[to + 1] = rgba[from + 1] as number;
      bytes[to + 2] = rgba[from] as number;
    }
  return bytes;
}
