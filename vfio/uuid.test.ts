import { expect, test } from 'vitest';
import { isUuid, randomUuid, uuidBytes } from './uuid.js';

test('random UUIDs differ, and are of version 4', () => {
  const uuids = Array.from({ length: 1000 }, randomUuid);
  expect(new Set(uuids).size).toBe(1000);
  expect(uuids.filter((uuid) => !isUuid(uuid))).toEqual([]);
  const kinds = new Set(
    uuids.map(uuidBytes).map((bytes) => `${(bytes[6] ?? 0) >> 4} ${(bytes[8] ?? 0) >> 6}`),
  );
  expect([...kinds]).toEqual(['4 2']);
  // Of the 122 random bits, each is set in about half of them.
  for (let bit = 0; bit < 128; bit++) {
    const set = uuids.filter(
      (uuid) => (((uuidBytes(uuid)[bit >> 3] as number) >> (bit & 7)) & 1) === 1,
    ).length;
    const isFixed = (bit >> 3 === 6 && (bit & 7) > 3) || (bit >> 3 === 8 && (bit & 7) > 5);
    if (!isFixed) expect(Math.abs(set - 500)).toBeLessThan(120);
  }
});
