import { toRgba } from './pixels.js';
import type { Look } from './screens.js';

/** A picture of one's own. */
export interface Picture {
  /** Pixels. */
  readonly width: number;
  /** Pixels. */
  readonly height: number;
  /** Red, green, blue and 255, line by line. */
  readonly rgba: Uint8Array;
}

/** @throws SysError EINVAL for a format that is not known */
export function toPicture({ plane, pixels, name }: Look): Picture {
  const { width, height } = plane;
  return { width, height, rgba: toRgba(pixels, plane, { x: 0, y: 0, width, height }, name) };
}

const COLOUR_RGB = 2;
/** The filter that takes a line's difference to the one above: screens are mostly repetition. */
const FILTER_UP = 2;

/** Compressed in a thread of Node's. */
export async function encodePng({ width, height, rgba }: Picture): Promise<Uint8Array> {
  const { PNG } = await import('pngjs'); // here, as most machines never need it
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
