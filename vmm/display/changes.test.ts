import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Changes } from './changes.js';
import type { Look } from './screens.js';
import { Canvas } from './testing/page.js';

/** Copies the canvas, as a capture does, into the memory that the changes offer. */
function take(changes: Changes, canvas: Canvas): void {
  const { look } = canvas;
  const { spare } = changes;
  const pixels = spare.length === look.pixels.length ? spare : new Uint8Array(look.pixels.length);
  pixels.set(look.pixels);
  changes.take({ ...look, pixels });
}

/** One of several who follow the same changes. */
class Follower {
  width = 0;
  height = 0;
  rgba = new Uint8Array();
  #version = 0;

  /** Returns how many pixels were new. */
  follow(changes: Changes): number {
    const update = changes.since(this.#version);
    if (update === undefined) return 0;
    const { width, height, areas, version } = update;
    if (width !== this.width || height !== this.height) this.rgba = new Uint8Array(4 * width * height);
    Object.assign(this, { width, height });
    this.#version = version;
    for (const area of areas) {
      const pixels = changes.pixelsOf(area);
      for (let row = 0; row < area.height; row++) {
        const line = pixels.subarray(4 * row * area.width, 4 * (row + 1) * area.width);
        this.rgba.set(line, 4 * ((area.y + row) * width + area.x));
      }
    }
    return areas.reduce((sum, area) => sum + area.width * area.height, 0);
  }
}

test('who follows has whatever was drawn since, at any pace, and without a change there is nothing to follow', () => {
  const shape = fc.record({
    width: fc.integer({ min: 1, max: 200 }),
    height: fc.integer({ min: 1, max: 90 }),
  });
  const stroke = fc.record({
    ...{ x: fc.nat(250), y: fc.nat(120), width: fc.nat(90), height: fc.nat(60) },
    colour: fc.constantFrom(0, 0x112233, 0xffffff),
  });
  const round = fc.record({ strokes: fc.array(stroke, { maxLength: 3 }), isSlowOneAsking: fc.boolean() });
  const rounds = fc.array(round, { maxLength: 5 });
  fc.assert(
    fc.property(shape, fc.constantFrom(0, 4, 100), rounds, ({ width, height }, gap, drawn) => {
      const canvas = new Canvas(width, height, gap);
      const changes = new Changes();
      const [quick, slow] = [new Follower(), new Follower()];
      take(changes, canvas);
      quick.follow(changes);
      expect(Buffer.compare(quick.rgba, canvas.rgba)).toBe(0);
      for (const { strokes, isSlowOneAsking } of drawn) {
        const before = canvas.rgba;
        for (const { x, y, colour, ...size } of strokes) {
          if (x >= width || y >= height) continue;
          canvas.fill(colour, x, y, Math.min(size.width, width - x), Math.min(size.height, height - y));
        }
        take(changes, canvas);
        expect(quick.follow(changes) === 0).toBe(Buffer.compare(before, canvas.rgba) === 0);
        expect(Buffer.compare(quick.rgba, canvas.rgba)).toBe(0);
        if (isSlowOneAsking) {
          slow.follow(changes);
          expect(Buffer.compare(slow.rgba, canvas.rgba)).toBe(0);
        }
      }
    }),
  );
});

test('one pixel costs one tile, a line its row of tiles, and the padding after a line nothing', () => {
  const canvas = new Canvas(1024, 768, 64);
  const changes = new Changes();
  const follower = new Follower();
  const next = () => {
    take(changes, canvas);
    return follower.follow(changes);
  };
  expect(next()).toBe(1024 * 768);
  canvas.fill(1, 1023, 767, 1, 1);
  expect(next()).toBe(64 * 32);
  canvas.fill(2, 0, 100, 1024, 1);
  expect(next()).toBe(1024 * 32);
  canvas.pixels.fill(7, 4096, 4096 + 64);
  expect(next()).toBe(0);
});

test('what changed is as few areas as rows and columns of tiles allow: the whole picture is one', () => {
  const canvas = new Canvas(640, 480);
  const changes = new Changes();
  const areasOf = (colour: number, ...place: [x?: number, y?: number, width?: number, height?: number]) => {
    take(changes, canvas);
    const { version = 0 } = changes.since(0) ?? {};
    canvas.fill(colour, ...place);
    take(changes, canvas);
    return changes.since(version)?.areas;
  };
  expect(areasOf(1)).toEqual([{ x: 0, y: 0, width: 640, height: 480 }]);
  expect(areasOf(2, 64, 32, 128, 64)).toEqual([{ x: 64, y: 32, width: 128, height: 64 }]);
  expect(areasOf(3, 0, 470, 640, 10)).toEqual([{ x: 0, y: 448, width: 640, height: 32 }]);
});

test('after a mode change the picture is new as a whole, even if no byte of it is', () => {
  const changes = new Changes();
  const follower = new Follower();
  take(changes, new Canvas(100, 50));
  expect(follower.follow(changes)).toBe(5000);
  take(changes, new Canvas(50, 100));
  expect(follower.follow(changes)).toBe(5000);
  expect([follower.width, follower.height]).toEqual([50, 100]);
});

test('two pictures of one size need no third memory', () => {
  const changes = new Changes();
  const canvas = new Canvas(100, 50);
  take(changes, canvas);
  const seen = new Set<ArrayBufferLike>();
  for (let i = 0; i < 6; i++) {
    seen.add(changes.spare.buffer);
    canvas.fill(i);
    take(changes, canvas);
  }
  expect(seen.size).toBe(2);
});

test('a picture that is taken again is no change, and its pixels are not given away', () => {
  const [changes, canvas] = [new Changes(), new Canvas(100, 50)];
  take(changes, canvas);
  const first = changes.look as Look;
  const version = changes.since(0)?.version as number;
  const { spare } = changes;
  changes.take(first);
  changes.take(first);
  expect(changes.since(version)).toBeUndefined();
  expect(changes.spare).toBe(spare);
  expect(spare).not.toBe(first.pixels);
  canvas.fill(0x123456, 10, 10, 5, 5);
  take(changes, canvas);
  expect(changes.since(version)?.areas).toHaveLength(1);
});
