/** Pictures as bytes: the location of a plane in memory, and its pixel formats. */
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import {
  DRM_FORMAT_ABGR8888,
  DRM_FORMAT_ARGB8888,
  DRM_FORMAT_BGRX8888,
  DRM_FORMAT_RGB565,
  DRM_FORMAT_RGBX8888,
  DRM_FORMAT_XBGR8888,
  DRM_FORMAT_XRGB8888,
} from '../../vfio/drm.js';
import type { GfxPlaneInfo } from '../../vfio/uapi.js';

const DRM_FORMAT_MOD_LINEAR = 0n;

/** Bytes per pixel, and the positions of red, green and blue in a 4-byte pixel. RGB565 is handled separately. */
export interface Format {
  readonly bytes: 2 | 4;
  readonly red: number;
  readonly green: number;
  readonly blue: number;
}
export const RGB: Format = { bytes: 4, red: 16, green: 8, blue: 0 };
/** Pixels of a big-endian guest. */
export const BIG_ENDIAN_RGB: Format = { bytes: 4, red: 8, green: 16, blue: 24 };
export const BGR: Format = { bytes: 4, red: 0, green: 8, blue: 16 };
export const RGBX: Format = { bytes: 4, red: 24, green: 16, blue: 8 };
/** There is nothing below a plane, so alpha is ignored, as a monitor does. */
const FORMATS: ReadonlyMap<number, Format> = new Map([
  [DRM_FORMAT_XRGB8888, RGB],
  [DRM_FORMAT_ARGB8888, RGB],
  [DRM_FORMAT_XBGR8888, BGR],
  [DRM_FORMAT_ABGR8888, BGR],
  [DRM_FORMAT_BGRX8888, BIG_ENDIAN_RGB],
  [DRM_FORMAT_RGBX8888, RGBX],
  [DRM_FORMAT_RGB565, { bytes: 2, red: 11, green: 5, blue: 0 }],
]);

const OPAQUE = 0xff00_0000;

/** `XR24` */
export const formatName = (drmFormat: number): string =>
  String.fromCharCode(...[0, 8, 16, 24].map((shift) => (drmFormat >>> shift) & 0x7f)).trim();

function formatOf({ drmFormat, drmFormatMod }: GfxPlaneInfo, name: string): Format {
  const format = FORMATS.get(drmFormat);
  if (format !== undefined && drmFormatMod === DRM_FORMAT_MOD_LINEAR) return format;
  const known = [...FORMATS.keys()].map(formatName).join(', ');
  const layout =
    drmFormatMod === DRM_FORMAT_MOD_LINEAR ? '' : ` with modifier 0x${drmFormatMod.toString(16)}`;
  const hint = `pixel format ${formatName(drmFormat)}${layout} is not supported, only linear ${known}`;
  throw new SysError({ call: 'picture', target: name, errno: errno.EINVAL, hint });
}

/**
 * Bytes from a plane's first pixel to its last.
 * @param memory size in bytes of the memory that contains it
 * @throws SysError EINVAL for an unknown format, or a plane that extends past its memory
 */
export function planeBytes(plane: GfxPlaneInfo, memory: number, name: string): number {
  const { width, height, stride, offset } = plane;
  const line = width * formatOf(plane, name).bytes;
  const bytes = (height - 1) * stride + line;
  if (stride >= line && offset + bytes <= memory) return bytes;
  const hint = `${width}x${height} pixels, ${stride} bytes a line, do not fit in ${memory} bytes at offset ${offset}`;
  throw new SysError({ call: 'picture', target: name, errno: errno.EINVAL, hint });
}

/** A rectangle in a picture, in pixels. */
export interface Area {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

/**
 * Converts an area to red, green, blue and 255 per pixel, line by line.
 * @param pixels of the plane, from its first pixel
 * @throws SysError EINVAL for an unknown format
 */
export function toRgba(
  pixels: Uint8Array,
  plane: GfxPlaneInfo,
  area: Area,
  name = 'plane',
): Uint8Array<ArrayBuffer> {
  const { bytes, red, green, blue } = formatOf(plane, name);
  const out = new Uint32Array(area.width * area.height);
  let to = 0;
  for (let y = area.y; y < area.y + area.height; y++) {
    let at = y * plane.stride + area.x * bytes;
    for (let x = 0; x < area.width; x++, at += bytes) {
      const low = (pixels[at] as number) | ((pixels[at + 1] as number) << 8);
      if (bytes === 2) out[to++] = rgb565(low);
      else {
        const word = low | ((pixels[at + 2] as number) << 16) | ((pixels[at + 3] as number) << 24);
        out[to++] =
          OPAQUE |
          ((word >>> red) & 0xff) |
          (((word >>> green) & 0xff) << 8) |
          (((word >>> blue) & 0xff) << 16);
      }
    }
  }
  return new Uint8Array(out.buffer);
}

/** Repeats the high bits in the low ones, so that full intensity becomes 255. */
function rgb565(word: number): number {
  const [red, green, blue] = [word >>> 11, (word >>> 5) & 0x3f, word & 0x1f];
  return (
    OPAQUE |
    ((red << 3) | (red >>> 2)) |
    (((green << 2) | (green >>> 4)) << 8) |
    (((blue << 3) | (blue >>> 2)) << 16)
  );
}
