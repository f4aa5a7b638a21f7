import {
  DRM_FORMAT_ABGR8888,
  DRM_FORMAT_ARGB8888,
  DRM_FORMAT_BGRA8888,
  DRM_FORMAT_BGRX8888,
  DRM_FORMAT_RGBA8888,
  DRM_FORMAT_RGBX8888,
  DRM_FORMAT_XBGR8888,
  DRM_FORMAT_XRGB8888,
} from '../../vfio/drm.js';
import type { ShownCursor } from './messages.js';
import { BGR, BIG_ENDIAN_RGB, type Format, RGB, RGBX } from './pixels.js';
import type { Look } from './screens.js';

/** Also the position of alpha in a pixel of 4 bytes. */
type Channels = Format & { readonly alpha: number };
const ARGB: Channels = { ...RGB, alpha: 24 };
const ABGR: Channels = { ...BGR, alpha: 24 };
const BGRA: Channels = { ...BIG_ENDIAN_RGB, alpha: 0 };
const RGBA: Channels = { ...RGBX, alpha: 0 };
const CHANNELS: ReadonlyMap<number, Channels> = new Map([
  [DRM_FORMAT_ARGB8888, ARGB],
  [DRM_FORMAT_XRGB8888, ARGB],
  [DRM_FORMAT_ABGR8888, ABGR],
  [DRM_FORMAT_XBGR8888, ABGR],
  [DRM_FORMAT_BGRA8888, BGRA],
  [DRM_FORMAT_BGRX8888, BGRA],
  [DRM_FORMAT_RGBA8888, RGBA],
  [DRM_FORMAT_RGBX8888, RGBA],
]);

/**
 * Draws a cursor into a copy of the picture below it, as far as it is there. Its colours are premultiplied by its alpha, as Linux's planes
 * have them. A picture or a cursor in a format without 4 bytes per pixel stays as it is.
 */
export function drawCursor({ plane, pixels }: Look, { plane: above, pixels: image }: ShownCursor): void {
  const [to, from] = [CHANNELS.get(plane.drmFormat), CHANNELS.get(above.drmFormat)];
  if (to === undefined || from === undefined) return;
  // The kernel's struct has numbers without a sign, but a cursor can begin left of its screen.
  const [left, top] = [above.xPos | 0, above.yPos | 0];
  const below = new DataView(pixels.buffer, pixels.byteOffset, pixels.length);
  const over = new DataView(image.buffer, image.byteOffset, image.length);
  for (let y = Math.max(0, -top); y < above.height && top + y < plane.height; y++)
    for (let x = Math.max(0, -left); x < above.width && left + x < plane.width; x++) {
      const at = (top + y) * plane.stride + 4 * (left + x);
      const pixel = over.getUint32(y * above.stride + 4 * x, true);
      const rest = 255 - ((pixel >>> from.alpha) & 0xff);
      const under = rest === 0 ? 0 : below.getUint32(at, true);
      const blend = (channel: 'red' | 'green' | 'blue'): number => {
        const sum =
          ((pixel >>> from[channel]) & 0xff) + Math.round((((under >>> to[channel]) & 0xff) * rest) / 255);
        return Math.min(255, sum) << to[channel];
      };
      below.setUint32(at, (blend('red') | blend('green') | blend('blue')) >>> 0, true);
    }
}
