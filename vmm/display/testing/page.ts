import { expect } from 'vitest';
import type { GfxPlaneInfo } from '../../../vfio/uapi.js';
import { MESSAGE } from '../changes.js';
import { toRgba } from '../pixels.js';
import type { Look } from '../screens.js';
import type { Watched } from '../view.js';

/** A picture with 32-bit pixels in this process's memory. @param gap padding bytes after each line */
export class Canvas {
  readonly plane: GfxPlaneInfo;
  readonly pixels: Uint8Array;

  constructor(width: number, height: number, gap = 0) {
    const stride = 4 * width + gap;
    this.pixels = new Uint8Array(stride * (height - 1) + 4 * width);
    this.plane = {
      ...{ drmFormat: 0x3432_5258, drmFormatMod: 0n, width, height, stride, size: this.pixels.length },
      ...{ xPos: 0, yPos: 0, xHot: 0, yHot: 0, regionIndex: 0, offset: 0 },
    };
  }

  /** @param colour 0xRRGGBB */
  fill(colour: number, x = 0, y = 0, width = this.plane.width, height = this.plane.height): void {
    for (let row = y; row < y + height; row++)
      for (let column = x; column < x + width; column++)
        this.pixels.set(
          [colour & 0xff, (colour >> 8) & 0xff, colour >> 16, 0],
          row * this.plane.stride + 4 * column,
        );
  }

  get look(): Look {
    return { slot: 3, name: '00:03.0 card', plane: this.plane, pixels: this.pixels };
  }

  get rgba(): Uint8Array {
    const { width, height } = this.plane;
    return toRgba(this.pixels, this.plane, { x: 0, y: 0, width, height });
  }
}

/** Applies messages like the page, without a browser. */
export class PageModel {
  kind: number = MESSAGE.unchanged;
  text = '';
  width = 0;
  height = 0;
  rgba = new Uint8Array(0);
  /** Number of pixels in the last message. */
  pixels = 0;

  take(message: Uint8Array): void {
    const words = new Uint32Array(Uint8Array.from(message.subarray(0, message.length & ~3)).buffer);
    const [kind = 0, width = 0, height = 0, count = 0] = words;
    this.kind = kind;
    this.pixels = 0;
    this.text = kind === MESSAGE.picture ? '' : Buffer.from(message.subarray(16)).toString();
    if (kind !== MESSAGE.picture) return;
    if (width !== this.width || height !== this.height) this.rgba = new Uint8Array(4 * width * height);
    Object.assign(this, { width, height });
    let at = 16 + 16 * count;
    for (let i = 0; i < count; i++) {
      const [x = 0, y = 0, w = 0, h = 0] = words.subarray(4 + 4 * i, 8 + 4 * i);
      expect(x + w <= width && y + h <= height && w > 0 && h > 0).toBe(true);
      for (let row = 0; row < h; row++, at += 4 * w)
        this.rgba.set(message.subarray(at, at + 4 * w), 4 * ((y + row) * width + x));
      this.pixels += w * h;
    }
    expect(at).toBe(message.length);
  }
}

/** A machine for a view: its picture is a canvas, an error, or none yet. */
export class FakeMachine implements Watched {
  picture: Canvas | Error;
  /** How often its picture was read. */
  looks = 0;
  readonly finished: Promise<void>;
  end!: () => void;

  constructor(picture: Canvas | Error) {
    this.picture = picture;
    this.finished = new Promise((resolve) => {
      this.end = resolve;
    });
  }

  async look<T>(_slot: number | undefined, use: (look: Look) => T): Promise<T> {
    this.looks++;
    if (this.picture instanceof Error) throw this.picture;
    return use(this.picture.look);
  }
}
