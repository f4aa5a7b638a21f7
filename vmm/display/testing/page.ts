import { expect } from 'vitest';
import type { GfxPlaneInfo } from '../../../vfio/uapi.js';
import type { FrameHead } from '../frame-head.js';
import type { DisplayName } from '../messages.js';
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

/** What a page has of one display. */
interface Shown {
  name: string;
  text: string;
  width: number;
  height: number;
  rgba: Uint8Array;
  /** Of the last message that had something new. */
  drawnBeforeMs?: number | undefined;
}

/** Applies messages like the page, without a browser. */
export class PageModel {
  /** By slot. */
  readonly displays = new Map<number, Shown>();
  ended: string | undefined;
  /** Number of pixels in the last message. */
  pixels = 0;

  take(message: Uint8Array): void {
    const buffer = Buffer.from(message);
    const bytes = buffer.readUInt32LE();
    expect(bytes % 4).toBe(0);
    const head = JSON.parse(buffer.subarray(4, 4 + bytes).toString()) as FrameHead;
    this.ended = head.ended;
    this.pixels = 0;
    let at = 4 + bytes;
    for (const { slot, name, text, width = 0, height = 0, areas, drawnBeforeMs } of head.displays) {
      const shown = this.displays.get(slot) ?? {
        name,
        text: '',
        width: 0,
        height: 0,
        rgba: new Uint8Array(),
      };
      this.displays.set(slot, shown);
      if (text !== undefined) shown.text = text;
      if (areas === undefined) continue;
      if (width !== shown.width || height !== shown.height) shown.rgba = new Uint8Array(4 * width * height);
      Object.assign(shown, { width, height, text: '', drawnBeforeMs });
      for (const [x, y, w, h] of areas) {
        expect(x + w <= width && y + h <= height && w > 0 && h > 0).toBe(true);
        for (let row = 0; row < h; row++, at += 4 * w)
          shown.rgba.set(message.subarray(at, at + 4 * w), 4 * ((y + row) * width + x));
        this.pixels += w * h;
      }
    }
    for (const slot of this.displays.keys())
      if (!head.displays.some((each) => each.slot === slot)) this.displays.delete(slot);
    expect(at).toBe(message.length);
  }

  /** Its only display. */
  get only(): Shown {
    expect(this.displays.size).toBe(1);
    return [...this.displays.values()][0] as Shown;
  }
}

/** A machine for a view: the picture of each display is a canvas, or an error. */
export class FakeMachine implements Watched {
  /** By slot. */
  readonly pictures = new Map<number, Canvas | Error>();
  /** How often a picture was read. */
  looks = 0;
  readonly finished: Promise<void>;
  end!: () => void;

  constructor(picture: Canvas | Error) {
    this.picture = picture;
    this.finished = new Promise((resolve) => {
      this.end = resolve;
    });
  }

  /** Of the display in slot 3. */
  set picture(picture: Canvas | Error) {
    this.pictures.set(3, picture);
  }

  async displays(): Promise<readonly DisplayName[]> {
    return [...this.pictures.keys()].map((slot) => ({ slot, name: `00:0${slot}.0 card` }));
  }

  async capture(slot = 3, into?: Uint8Array): Promise<Look> {
    this.looks++;
    const picture = this.pictures.get(slot);
    if (picture === undefined) throw new Error(`there is no display in slot ${slot}`);
    if (picture instanceof Error) throw picture;
    const { look } = picture;
    const pixels = into?.length === look.pixels.length ? into : new Uint8Array(look.pixels.length);
    pixels.set(look.pixels);
    return { ...look, slot, name: `00:0${slot}.0 card`, pixels };
  }
}
