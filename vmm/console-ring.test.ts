import { expect, test } from 'vitest';
import { ConsoleRing, RING_BYTES } from './console-ring.js';

const text = ({ bytes }: { readonly bytes: Uint8Array }): string => Buffer.from(bytes).toString('latin1');

test('the ring returns what was written, from any byte on', () => {
  const ring = new ConsoleRing();
  ring.write(Buffer.from('hello, '));
  ring.write(Buffer.from('world'));
  expect(text(ring.since())).toBe('hello, world');
  expect(ring.since(7)).toEqual({ from: 7, bytes: new Uint8Array(Buffer.from('world')) });
  expect(ring.since(12).bytes).toHaveLength(0);
  expect(ring.since(99)).toEqual({ from: 12, bytes: new Uint8Array(0) });
});

test('the last 64 KiB stay, in order, however they were cut into writes', () => {
  const all = Buffer.from(Array.from({ length: 3 * RING_BYTES + 77 }, (_, i) => (i * 7 + (i >> 8)) & 0xff));
  for (const step of [1000, RING_BYTES - 1, RING_BYTES, RING_BYTES + 5, all.length]) {
    const ring = new ConsoleRing();
    for (let at = 0; at < all.length; at += step) ring.write(all.subarray(at, at + step));
    const kept = ring.since();
    expect(kept.from).toBe(all.length - RING_BYTES);
    expect(Buffer.from(kept.bytes).equals(all.subarray(-RING_BYTES))).toBe(true);
    expect(Buffer.from(ring.since(all.length - 3).bytes).equals(all.subarray(-3))).toBe(true);
  }
});

test('a listener hears of each write until it is disposed', () => {
  const ring = new ConsoleRing();
  let writes = 0;
  const listening = ring.listen(() => writes++);
  ring.write(Buffer.from('a'));
  listening[Symbol.dispose]();
  ring.write(Buffer.from('b'));
  expect(writes).toBe(1);
});
