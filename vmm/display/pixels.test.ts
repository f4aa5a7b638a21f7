import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  DRM_FORMAT_ABGR8888,
  DRM_FORMAT_ARGB8888,
  DRM_FORMAT_BGRX8888,
  DRM_FORMAT_RGB565,
  DRM_FORMAT_XBGR8888,
  DRM_FORMAT_XRGB8888,
} from '../../vfio/drm.js';
import type { GfxPlaneInfo } from '../../vfio/uapi.js';
import { formatName, planeBytes, toRgba } from './pixels.js';

const plane = (part: Partial<GfxPlaneInfo>): GfxPlaneInfo => ({
  ...{ drmFormat: DRM_FORMAT_XRGB8888, drmFormatMod: 0n, width: 2, height: 2, stride: 8, size: 4096 },
  ...{ xPos: 0, yPos: 0, xHot: 0, yHot: 0, regionIndex: 0, offset: 0 },
  ...part,
});
const all = (of: GfxPlaneInfo) => ({ x: 0, y: 0, width: of.width, height: of.height });

test.each([
  ['XR24', DRM_FORMAT_XRGB8888, [0x33, 0x22, 0x11, 0x00]],
  ['AR24', DRM_FORMAT_ARGB8888, [0x33, 0x22, 0x11, 0x80]],
  ['XB24', DRM_FORMAT_XBGR8888, [0x11, 0x22, 0x33, 0x00]],
  ['AB24', DRM_FORMAT_ABGR8888, [0x11, 0x22, 0x33, 0x80]],
  ['BX24', DRM_FORMAT_BGRX8888, [0x00, 0x11, 0x22, 0x33]],
])('%s has the colour order of its name, and is opaque', (name, drmFormat, pixel) => {
  expect(formatName(drmFormat)).toBe(name);
  const one = plane({ drmFormat, width: 1, height: 1 });
  expect([...toRgba(Uint8Array.from(pixel), one, all(one))]).toEqual([0x11, 0x22, 0x33, 255]);
});

test('RG16 spreads five and six bits from 0 to 255', () => {
  const line = plane({ drmFormat: DRM_FORMAT_RGB565, width: 5, height: 1, stride: 10 });
  const words = new Uint16Array([0xffff, 0, 0xf800, 0x07e0, 0x8410]);
  expect([...toRgba(new Uint8Array(words.buffer), line, all(line))]).toEqual([
    ...[255, 255, 255, 255, 0, 0, 0, 255, 255, 0, 0, 255, 0, 255, 0, 255],
    ...[132, 130, 132, 255],
  ]);
});

test('an area is extracted line by line, without the padding of lines', () => {
  const of = plane({ width: 3, height: 3, stride: 16 });
  const pixels = new Uint8Array(3 * 16);
  for (let y = 0; y < 3; y++) for (let x = 0; x < 4; x++) pixels[y * 16 + x * 4] = 10 * y + x; // blue
  const blues = (rgba: Uint8Array) => rgba.filter((_, i) => i % 4 === 2);
  expect([...blues(toRgba(pixels, of, { x: 1, y: 1, width: 2, height: 2 }))]).toEqual([11, 12, 21, 22]);
  expect([...blues(toRgba(pixels, of, all(of)))]).toEqual([0, 1, 2, 10, 11, 12, 20, 21, 22]);
});

test('an unknown format or modifier is rejected by name', () => {
  const wrong = (part: Partial<GfxPlaneInfo>) => () => planeBytes(plane(part), 1e6, 'card');
  expect(wrong({ drmFormat: 0x3231_564e })).toThrowError(
    /card: EINVAL\n.*pixel format NV12 is not supported/,
  );
  expect(wrong({ drmFormat: 0x2020_3843 })).toThrowError(
    /pixel format C8 is not supported, only linear XR24, AR24/,
  );
  expect(wrong({ drmFormatMod: 5n })).toThrowError(/XR24 with modifier 0x5/);
});

test('a plane that is accepted fits in its memory, to the last byte', () => {
  const number = fc.nat(70_000);
  fc.assert(
    fc.property(number, number, number, number, number, (width, height, stride, offset, memory) => {
      const of = plane({ width: width + 1, height: height + 1, stride, offset });
      let bytes: number;
      try {
        bytes = planeBytes(of, memory, 'card');
      } catch {
        return;
      }
      expect(offset + bytes).toBeLessThanOrEqual(memory);
      expect(bytes).toBe(height * stride + 4 * (width + 1));
      expect(stride).toBeGreaterThanOrEqual(4 * (width + 1));
    }),
  );
  expect(planeBytes(plane({ offset: 8 }), 24, 'card')).toBe(16);
  expect(() => planeBytes(plane({ offset: 9 }), 24, 'card')).toThrowError(/do not fit in 24 bytes/);
});
