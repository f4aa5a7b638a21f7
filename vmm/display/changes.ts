import { type Area, toRgba } from './pixels.js';
import type { Look } from './screens.js';

const TILE_WIDTH = 64;
const TILE_HEIGHT = 32;

type GrowingArea = { -readonly [K in keyof Area]: Area[K] };

/** The part of a picture that changed. */
export interface Update {
  /** Passed to the next {@link Changes.since}. */
  readonly version: number;
  /** Size of the whole picture, pixels. */
  readonly width: number;
  readonly height: number;
  readonly areas: readonly Area[];
  /** When the last of it was not drawn yet, milliseconds of performance.now(); undefined if unknown. */
  readonly drawnAfter: number | undefined;
}

/**
 * The last picture of a display, and when each tile of it changed. It serves any number of pages, each of which keeps one
 * number: the version that it has.
 */
export class Changes {
  #look: Look | undefined;
  #spare = new Uint8Array(0);
  #tiles = new Uint32Array(0);
  #version = 0;
  #drawnAfter: number | undefined;

  /** What was taken last; undefined before. */
  get look(): Look | undefined {
    return this.#look;
  }

  /** Memory for the next picture, until that is taken. */
  get spare(): Uint8Array {
    return this.#spare;
  }

  /**
   * Takes the next picture, whose pixels it keeps.
   * @param drawnAfter when what is new in it was not drawn yet, milliseconds of performance.now(); undefined if unknown
   * @throws SysError EINVAL for an unknown format
   */
  take(look: Look, drawnAfter?: number): void {
    const last = this.#look;
    if (look === last) return;
    this.#look = look;
    if (last === undefined || shapeOf(last) !== shapeOf(look)) {
      const { width, height } = look.plane;
      this.#tiles = new Uint32Array(Math.ceil(width / TILE_WIDTH) * Math.ceil(height / TILE_HEIGHT));
      this.#tiles.fill(++this.#version);
      this.#spare = new Uint8Array(look.pixels.length);
      this.#drawnAfter = drawnAfter;
      return;
    }
    this.#spare = last.pixels as Uint8Array<ArrayBuffer>;
    const changed = this.#compare(last.pixels, look);
    if (changed.length === 0) return;
    this.#version++;
    this.#drawnAfter = drawnAfter;
    for (const tile of changed) this.#tiles[tile] = this.#version;
  }

  /** What changed since a version; undefined if nothing did. Version 0 has nothing. */
  since(version: number): Update | undefined {
    if (this.#look === undefined || version === this.#version) return undefined;
    const { width, height } = this.#look.plane;
    const areas = this.#areas(version, width, height);
    return { version: this.#version, width, height, areas, drawnAfter: this.#drawnAfter };
  }

  /** Red, green, blue and 255 of each pixel in an area, line by line. @throws SysError EINVAL for an unknown format */
  pixelsOf(area: Area): Uint8Array {
    if (this.#look === undefined) throw new RangeError('there is no picture');
    const { pixels, plane, name } = this.#look;
    return toRgba(pixels, plane, area, name);
  }

  /** The tiles that are newer than a version, merged along rows, and then with equal ones below. */
  #areas(version: number, width: number, height: number): Area[] {
    const areas: GrowingArea[] = [];
    let above: GrowingArea[] = [];
    let tile = 0;
    for (let y = 0; y < height; y += TILE_HEIGHT) {
      const row: GrowingArea[] = [];
      for (let x = 0; x < width; x += TILE_WIDTH) {
        if ((this.#tiles[tile++] as number) <= version) continue;
        const columns = Math.min(TILE_WIDTH, width - x);
        const last = row.at(-1);
        if (last !== undefined && last.x + last.width === x) last.width += columns;
        else row.push({ x, y, width: columns, height: Math.min(TILE_HEIGHT, height - y) });
      }
      above = row.map((area) => {
        const upper = above.find((each) => each.x === area.x && each.width === area.width);
        if (upper === undefined) areas.push(area);
        else upper.height += area.height;
        return upper ?? area;
      });
    }
    return areas;
  }

  /** Indices of the tiles that differ. */
  #compare(before: Uint8Array, { plane, pixels }: Look): number[] {
    const { width, height, stride } = plane;
    const bytes = (pixels.length - (height - 1) * stride) / width;
    const isSame = (from: number, to: number) =>
      Buffer.compare(before.subarray(from, to), pixels.subarray(from, to)) === 0;
    const changed: number[] = [];
    const across = Math.ceil(width / TILE_WIDTH);
    for (let y = 0, first = 0; y < height; y += TILE_HEIGHT, first += across) {
      const rows = Math.min(TILE_HEIGHT, height - y);
      const from = y * stride;
      if (isSame(from, from + (rows - 1) * stride + width * bytes)) continue;
      for (let i = 0; i < across; i++) {
        const at = from + i * TILE_WIDTH * bytes;
        const line = Math.min(TILE_WIDTH, width - i * TILE_WIDTH) * bytes;
        let row = 0;
        while (row < rows && isSame(at + row * stride, at + row * stride + line)) row++;
        if (row < rows) changed.push(first + i);
      }
    }
    return changed;
  }
}

const shapeOf = ({ slot, plane: { width, height, stride, drmFormat }, pixels }: Look): string =>
  [slot, width, height, stride, drmFormat, pixels.length].join();
