import fc from 'fast-check';
import { expect, test } from 'vitest';
import { FrameQueue } from './frame-queue.js';

const FRAMES = 5;
const FRAME_BYTES = 200;

test('frames come out as they went in, and frames dropped by a full queue or short parts are counted', () => {
  const push = fc.record({ push: fc.integer({ min: 1, max: FRAME_BYTES }), fill: fc.nat(255) });
  const pull = fc.record({ pull: fc.array(fc.nat(150), { maxLength: 4 }) });
  fc.assert(
    fc.property(fc.array(fc.oneof(push, pull), { maxLength: 60 }), (steps) => {
      const counts = { rxDropped: 0 };
      const queue = new FrameQueue(FRAMES, FRAME_BYTES, counts);
      const model: Uint8Array[] = [];
      let dropped = 0;
      for (const step of steps) {
        expect(queue.pending()).toBe(model[0]?.length ?? 0);
        expect(queue.room).toBe(FRAMES - model.length);
        if ('push' in step) {
          const frame = Uint8Array.from({ length: step.push }, (_, i) => step.fill + i);
          const slot = queue.reserve();
          expect(slot === undefined).toBe(model.length === FRAMES);
          if (slot === undefined) {
            dropped++;
            continue;
          }
          slot.set(frame);
          queue.commit(frame.length);
          model.push(frame);
        } else {
          const parts = step.pull.map((length) => new Uint8Array(length));
          const length = queue.shiftInto(parts);
          const frame = model.shift();
          const room = parts.reduce((sum, part) => sum + part.length, 0);
          if (frame === undefined) expect(length).toBe(0);
          else if (frame.length > room) {
            expect(length).toBe(-1);
            dropped++;
          } else {
            expect(length).toBe(frame.length);
            expect(Buffer.concat(parts).subarray(0, length)).toEqual(Buffer.from(frame));
          }
        }
      }
      expect(counts.rxDropped).toBe(dropped);
    }),
  );
});

test('a slot that is reserved but not committed holds no frame', () => {
  const queue = new FrameQueue(1, 64, { rxDropped: 0 });
  queue.reserve();
  expect(queue.pending()).toBe(0);
  expect(queue.reserve()).toBeDefined();
});
