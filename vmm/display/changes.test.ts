import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Changes, MESSAGE, textMessage } from './changes.js';
import { Canvas, PageModel } from './testing/page.js';

test('the page shows whatever is drawn between two messages, and without a change there is no message', () => {
  const shape = fc.record({
    width: fc.integer({ min: 1, max: 200 }),
    height: fc.integer({ min: 1, max: 90 }),
  });
  const stroke = fc.record({
    ...{ x: fc.nat(250), y: fc.nat(120), width: fc.nat(90), height: fc.nat(60) },
    colour: fc.constantFrom(0, 0x112233, 0xffffff),
  });
  const strokes = fc.array(fc.array(stroke, { maxLength: 3 }), { maxLength: 5 });
  fc.assert(
    fc.property(shape, fc.constantFrom(0, 4, 100), strokes, ({ width, height }, gap, rounds) => {
      const canvas = new Canvas(width, height, gap);
      const changes = new Changes();
      const page = new PageModel();
      page.take(changes.message(canvas.look) as Uint8Array);
      expect(Buffer.compare(page.rgba, canvas.rgba)).toBe(0);
      for (const round of rounds) {
        const before = canvas.rgba;
        for (const { x, y, colour, ...size } of round) {
          if (x >= width || y >= height) continue;
          canvas.fill(colour, x, y, Math.min(size.width, width - x), Math.min(size.height, height - y));
        }
        const message = changes.message(canvas.look);
        expect(message === undefined).toBe(Buffer.compare(before, canvas.rgba) === 0);
        if (message !== undefined) page.take(message);
        expect(Buffer.compare(page.rgba, canvas.rgba)).toBe(0);
      }
    }),
  );
});

test('one pixel costs one tile, a line its row of tiles, and the padding after a line nothing', () => {
  const canvas = new Canvas(1024, 768, 64);
  const changes = new Changes();
  const page = new PageModel();
  page.take(changes.message(canvas.look) as Uint8Array);
  expect(page.pixels).toBe(1024 * 768);
  canvas.fill(1, 1023, 767, 1, 1);
  page.take(changes.message(canvas.look) as Uint8Array);
  expect(page.pixels).toBe(64 * 32);
  canvas.fill(2, 0, 100, 1024, 1);
  page.take(changes.message(canvas.look) as Uint8Array);
  expect(page.pixels).toBe(1024 * 32);
  canvas.pixels.fill(7, 4096, 4096 + 64);
  expect(changes.message(canvas.look)).toBeUndefined();
});

test('the whole picture is sent after a mode change, and after a text message', () => {
  const changes = new Changes();
  const page = new PageModel();
  page.take(changes.message(new Canvas(100, 50).look) as Uint8Array);
  page.take(changes.message(new Canvas(50, 100).look) as Uint8Array); // the same number of bytes, all equal
  expect([page.width, page.height, page.pixels]).toEqual([50, 100, 5000]);
  changes.forget();
  page.take(changes.message(new Canvas(50, 100).look) as Uint8Array);
  expect(page.pixels).toBe(5000);
});

test('a text is a message of its own kind', () => {
  const page = new PageModel();
  page.take(textMessage(MESSAGE.nothing, 'the screen’s off'));
  expect([page.kind, page.text]).toEqual([MESSAGE.nothing, 'the screen’s off']);
});
