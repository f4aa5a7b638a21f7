import fc from 'fast-check';
import { expect, test } from 'vitest';
import { GrowingBytes } from './growing-bytes.js';

const SEED = Date.now() % 2 ** 31;

test(`they are what was appended without what was dropped (seed ${SEED})`, () => {
  const step = fc.oneof(fc.uint8Array({ maxLength: 300 }), fc.nat(400));
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const bytes = new GrowingBytes();
      let expected: number[] = [];
      for (const each of steps) {
        if (typeof each === 'number') {
          const count = Math.min(each, expected.length);
          expected = expected.slice(count);
          bytes.drop(count);
        } else {
          expected.push(...each);
          bytes.append(each);
        }
        expect(bytes.length).toBe(expected.length);
        expect([...bytes.bytes]).toEqual(expected);
      }
    }),
    { seed: SEED },
  );
});

test('a million bytes, one by one, are in a block of at most twice as many', () => {
  const bytes = new GrowingBytes();
  for (let i = 0; i < 1_000_000; i++) bytes.append(Uint8Array.of(i));
  expect(bytes.bytes.buffer.byteLength).toBeLessThanOrEqual(2_000_000);
  expect(bytes.bytes[999_999]).toBe(999_999 & 0xff);
  bytes.drop(1_000_000);
  expect(bytes.bytes.buffer.byteLength).toBe(0);
});

test('bytes for which there is room are not moved', () => {
  const bytes = new GrowingBytes();
  bytes.append(Uint8Array.of(1, 2));
  bytes.drop(1);
  bytes.reserve(1_000);
  const { buffer } = bytes.bytes;
  for (let i = 1; i < 1_000; i++) bytes.append(Uint8Array.of(i));
  bytes.reserve(10);
  expect(bytes.bytes.buffer).toBe(buffer);
  expect([...bytes.bytes.subarray(0, 4)]).toEqual([2, 1, 2, 3]);
  bytes.append(Uint8Array.of(7));
  expect([bytes.length, bytes.bytes[1_000]]).toEqual([1_001, 7]);
});

test('room is made behind what was dropped, and where the host has none, the bytes come one by one', () => {
  const bytes = new GrowingBytes();
  bytes.append(new Uint8Array(60));
  bytes.drop(59);
  bytes.reserve(64);
  const { buffer } = bytes.bytes;
  for (let i = 1; i < 64; i++) bytes.append(Uint8Array.of(i));
  expect(bytes.bytes.buffer).toBe(buffer);
  bytes.reserve(2 ** 50);
  bytes.append(Uint8Array.of(64));
  expect([...bytes.bytes]).toEqual(Array.from({ length: 65 }, (_, i) => i));
});
