import type { Plane } from '../vgpu/dispi.js';
import { createEdid, preferredMode } from '../vgpu/edid.js';
import { EdidRegion, type Resolution } from '../vgpu/edid-region.js';
import type { CursorPlane } from '../vgpu/gfx-plane.js';
import type { Rect, Resource } from './resources.js';
import { CURSOR_BYTES, CURSOR_SIDE, PIXEL_BYTES } from './spec.js';

/** The largest mode that an EDID can tell. */
const LIMIT: Resolution = { xres: 4095, yres: 4095 };

/** A cursor as it is shown. */
export interface Cursor {
  readonly drmFormat: number;
  /** Of its first pixel, 32 bits, signed. */
  readonly x: number;
  readonly y: number;
  readonly hotX: number;
  readonly hotY: number;
}

/** One of the screens that a device has: what the host shows the guest of it, and what the guest shows on it. */
export class Head {
  /** Where its cursor's pixels are in the region of the planes. */
  readonly cursorAt: number;
  readonly #name: string;
  readonly #mode: Resolution;
  #screen: EdidRegion;
  /** What the screen is now, pixels; undefined while it is not connected. */
  size: Resolution | undefined;
  /** What is shown: a part of a resource. */
  scanout: { readonly resource: Resource; readonly rect: Rect } | undefined;
  cursor: Cursor | undefined;

  /** @param mode with which it begins, pixels */
  constructor(name: string, index: number, mode: Resolution) {
    this.#name = name;
    this.#mode = mode;
    this.cursorAt = index * CURSOR_BYTES;
    this.size = mode;
    this.#screen = newScreen(name, mode);
  }

  get screen(): EdidRegion {
    return this.#screen;
  }

  /** A new opener's screen. */
  restore(): void {
    this.resize(this.#mode);
  }

  resize(mode: Resolution): void {
    this.#screen = newScreen(this.#name, mode);
    this.size = mode;
  }

  /** Takes over a screen with its EDID. */
  adopt(screen: EdidRegion): void {
    this.#screen = screen;
    this.follow();
  }

  /** Its screen's EDID has changed. Returns whether the guest sees that. */
  follow(): boolean {
    const before = this.size;
    this.size = preferredMode(this.#screen.edid);
    return before?.xres !== this.size?.xres || before?.yres !== this.size?.yres;
  }

  /** What it shows; undefined for nothing. */
  get plane(): Plane | undefined {
    if (this.scanout === undefined) return undefined;
    const { resource, rect } = this.scanout;
    const { stride } = resource;
    const offset = resource.at + rect.y * stride + rect.x * PIXEL_BYTES;
    return { width: rect.width, height: rect.height, drmFormat: resource.pixels.opaque, offset, stride };
  }

  /** The cursor as a plane; undefined for none. */
  get cursorPlane(): CursorPlane | undefined {
    const { cursor } = this;
    if (cursor === undefined) return undefined;
    return {
      drmFormat: cursor.drmFormat,
      width: CURSOR_SIDE,
      height: CURSOR_SIDE,
      stride: CURSOR_SIDE * PIXEL_BYTES,
      size: CURSOR_BYTES,
      offset: this.cursorAt,
      // The struct has numbers without a sign.
      xPos: cursor.x >>> 0,
      yPos: cursor.y >>> 0,
      xHot: cursor.hotX,
      yHot: cursor.hotY,
    };
  }
}

const newScreen = (name: string, { xres, yres }: Resolution): EdidRegion =>
  new EdidRegion(name, createEdid(xres, yres), LIMIT);
