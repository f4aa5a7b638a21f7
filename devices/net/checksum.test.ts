import fc from 'fast-check';
import { expect, test } from 'vitest';
import { addBytes, adjustChecksum, checksum, fold } from './checksum.js';
import { inetChecksum, join } from './testing/frames.js';

test('the sum of RFC 1071, section 3, is ddf2', () => {
  const bytes = Uint8Array.of(0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7);
  expect(fold(addBytes(0, bytes, 0, bytes.length))).toBe(0xddf2);
});

test('the checksum of any range of any bytes matches the definition', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 9100 }), fc.nat(40), fc.nat(40), (bytes, skip, trim) => {
      const start = Math.min(skip, bytes.length);
      const end = Math.max(start, bytes.length - trim);
      expect(checksum(addBytes(0, bytes, start, end))).toBe(inetChecksum(bytes.slice(start, end)));
    }),
    { examples: [[new Uint8Array(9000).fill(0xff), 0, 0]] },
  );
});

test('an adjusted checksum verifies like a fresh one', () => {
  const word = fc.nat(0xffff);
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 2, maxLength: 64 }), word, word, (rest, before, after) => {
      const old = join([before, 2], [0, 2], rest);
      const bytes = join([before, 2], [inetChecksum(old), 2], rest);
      const changed = join([after, 2], [adjustChecksum(bytes, 2, before, after), 2], rest);
      expect(inetChecksum(changed)).toBe(0);
    }),
    { examples: [[new Uint8Array(2), 0x0800, 0]] },
  );
});
