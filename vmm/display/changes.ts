import { type Area, toRgba } from './pixels.js';
import type { Look } from './screens.js';

/** Kinds of messages to the page; view.html uses the same numbers. */
export const MESSAGE = { unchanged: 0, picture: 1, nothing: 2, ended: 3 } as const;

const TILE_WIDTH = 64;
const TILE_HEIGHT = 32;
const HEADER_WORDS = 4;
const AREA_WORDS = 4;

/** A message without pixels: its kind, and a text to display. */
export function textMessage(kind: number, text = ''): Uint8Array {
  const words = new Uint32Array([kind, 0, 0, 0]);
  return Buffer.concat([new Uint8Array(words.buffer), Buffer.from(text)]);
}

/**
 * Tracks what changed in a picture since the last message to one page. A message consists of little-endian 32-bit
 * words: kind, width, height, number of areas; x, y, width, height of each area; then the areas' pixels as red, green,
 * blue, 255.
 */
export class Changes {
  #now = new Uint8Array(0);
  #told = new Uint8Array(0);
  #shape = '';

  /** Makes the next message contain the whole picture. */
  forget(): void {
    this.#shape = '';
  }

  /** The message that updates the page; undefined if nothing changed. @throws SysError EINVAL for an unknown format */
  message(look: Look): Uint8Array | undefined {
    const { plane, pixels, name, slot } = look;
    const { width, height, stride, drmFormat } = plane;
    const shape = [slot, width, height, stride, drmFormat].join();
    if (this.#now.length !== pixels.length) {
      this.#now = new Uint8Array(pixels.length);
      this.#told = new Uint8Array(pixels.length);
    }
    // The guest keeps drawing: compare and send the same copy.
    this.#now.set(pixels);
    const whole: Area[] = [{ x: 0, y: 0, width, height }];
    const areas = shape === this.#shape ? this.#changed(width, height, stride, drmFormat) : whole;
    if (areas.length === 0) return undefined;
    const message = encode(width, height, areas, (area) => toRgba(this.#now, plane, area, name));
    [this.#now, this.#told] = [this.#told, this.#now];
    this.#shape = shape;
    return message;
  }

  /** The tiles that differ, merged along rows. */
  #changed(width: number, height: number, stride: number, drmFormat: number): Area[] {
    const bytes = (this.#now.length - (height - 1) * stride) / width;
    if (!Number.isInteger(bytes)) throw new RangeError(`format ${drmFormat} has ${bytes} bytes a pixel`);
    const areas: Area[] = [];
    for (let y = 0; y < height; y += TILE_HEIGHT) {
      const rows = Math.min(TILE_HEIGHT, height - y);
      const from = y * stride;
      if (this.#isSame(from, from + (rows - 1) * stride + width * bytes)) continue;
      for (let x = 0; x < width; x += TILE_WIDTH) {
        const columns = Math.min(TILE_WIDTH, width - x);
        if (this.#isSameTile(from + x * bytes, rows, stride, columns * bytes)) continue;
        const last = areas.at(-1);
        if (last?.y === y && last.x + last.width === x)
          areas[areas.length - 1] = { ...last, width: last.width + columns };
        else areas.push({ x, y, width: columns, height: rows });
      }
    }
    return areas;
  }

  #isSameTile(from: number, rows: number, stride: number, bytes: number): boolean {
    for (let row = 0, at = from; row < rows; row++, at += stride)
      if (!this.#isSame(at, at + bytes)) return false;
    return true;
  }

  #isSame(from: number, to: number): boolean {
    return Buffer.compare(this.#now.subarray(from, to), this.#told.subarray(from, to)) === 0;
  }
}

function encode(
  width: number,
  height: number,
  areas: readonly Area[],
  pixelsOf: (area: Area) => Uint8Array,
): Uint8Array {
  const pixels = areas.reduce((sum, area) => sum + area.width * area.height, 0);
  const head = HEADER_WORDS + AREA_WORDS * areas.length;
  const words = new Uint32Array(head + pixels);
  words.set([MESSAGE.picture, width, height, areas.length]);
  const bytes = new Uint8Array(words.buffer);
  let at = 4 * head;
  for (const [i, area] of areas.entries()) {
    words.set([area.x, area.y, area.width, area.height], HEADER_WORDS + AREA_WORDS * i);
    bytes.set(pixelsOf(area), at);
    at += 4 * area.width * area.height;
  }
  return bytes;
}
