import fc from 'fast-check';
import { expect, test } from 'vitest';
import { CHANNEL_BYTES, ChannelReader, ChannelWriter, createByteChannel } from './byte-channel.js';

test('bytes come out as they went in, never more than fit; who waits is woken once, a writer when half is free, who does not wait never', () => {
  const action = fc.record({
    isWrite: fc.boolean(),
    count: fc.integer({ min: 0, max: CHANNEL_BYTES + 10 }),
  });
  fc.assert(
    fc.property(fc.array(action, { maxLength: 60 }), fc.integer(), (actions, start) => {
      const buffer = createByteChannel();
      new Int32Array(buffer).fill(start & ~(CHANNEL_BYTES - 1), 0, 2); // counters run past 2^31
      const woken = { reader: 0, writer: 0 };
      const writer = new ChannelWriter(buffer, () => void woken.reader++);
      const reader = new ChannelReader(buffer, () => void woken.writer++);
      const queue: number[] = [];
      const waits = { reader: true, writer: false };
      let next = 0;
      for (const { isWrite, count } of actions) {
        const before = { ...woken };
        if (isWrite) {
          const written = writer.write(Uint8Array.from({ length: count }, (_, i) => (next + i) & 0xff));
          expect(written).toBe(Math.min(count, CHANNEL_BYTES - queue.length));
          for (let i = 0; i < written; i++) queue.push((next + i) & 0xff);
          next += written;
          expect(woken.reader - before.reader).toBe(written > 0 && waits.reader ? 1 : 0);
          if (written > 0) waits.reader = false;
          if (count > 0 && written === 0) waits.writer = true;
        } else {
          const bytes = reader.peek().slice(0, count);
          if (queue.length === 0) waits.reader = true;
          expect([...bytes]).toEqual(queue.splice(0, bytes.length));
          if (bytes.length > 0) {
            reader.take(bytes.length);
            const isWoken = waits.writer && queue.length <= CHANNEL_BYTES / 2;
            expect(woken.writer - before.writer).toBe(isWoken ? 1 : 0);
            if (isWoken) waits.writer = false;
          }
        }
        expect(writer.room()).toBe(CHANNEL_BYTES - queue.length);
        if (queue.length === CHANNEL_BYTES) waits.writer = true;
      }
    }),
    { numRuns: 100 },
  );
});
