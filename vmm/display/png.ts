import { toRgba } from './pixels.js';
import type { Look } from './screens.js';

/** A copied picture. */
export interface Picture {
  /** Pixels. */
  readonly width: number;
  /** Pixels. */
  readonly height: number;
  /** Red, green, blue and 255 per pixel, line by line. */
  readonly rgba: Uint8Array;
}

/** @throws SysError EINVAL for an unknown format */
export function toPicture({ plane, pixels, name }: Look): Picture {
  const { width, height } = plane;
  return { width, height, rgba: toRgba(pixels, plane, { x: 0, y: 0, width, height }, name) };
}

const COLOUR_RGB = 2;
/** Encodes a line as the difference to the one above: screens are mostly repetition. */
const FILTER_UP = 2;

/** Compresses in Node's thread pool. */
export async function encodePng({ width, height, rgba }: Picture): Promise<Uint8Array> {
  const { PNG } = await import('pngjs'); // loaded here, as most machines never need it
  const png = new PNG({
    width,
    height,
    colorType: COLOUR_RGB,
    deflateLevel: 6,
    deflateStrategy: 0,
    filterType: FILTER_UP,
  });
  png.data = Buffer.from(rgba.buffer, rgba.byteOffset, rgba.length);
  const pieces: Buffer[] = [];
  return new Promise((resolve, reject) => {
    png.on('data', (piece: Buffer) => pieces.push(piece));
    png.on('end', () => resolve(Buffer.concat(pieces)));
    png.on('error', reject);
    png.pack();
  });
}
