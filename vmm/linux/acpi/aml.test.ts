import fc from 'fast-check';
import { expect, test } from 'vitest';
import * as aml from './aml.js';

/** Decodes a PkgLength like an interpreter: the length, and the size of its encoding. */
function readPkgLength(bytes: Uint8Array): { readonly length: number; readonly size: number } {
  const lead = bytes[0] as number;
  const following = lead >> 6;
  if (following === 0) return { length: lead & 0x3f, size: 1 };
  let length = lead & 0xf;
  for (let i = 0; i < following; i++) length += (bytes[i + 1] as number) * 2 ** (4 + 8 * i);
  return { length, size: following + 1 };
}

test('a package’s length decodes correctly, includes itself, and has the shortest encoding', () => {
  const edges = [0, 62, 63, 4093, 4094, 1048572, 1048573, 268435451];
  const bytes = fc.oneof(fc.constantFrom(...edges), fc.nat(5000), fc.nat(2 ** 28 - 5));
  fc.assert(
    fc.property(bytes, (count) => {
      const encoded = aml.pkgLength(count);
      const { length, size } = readPkgLength(encoded);
      expect([length, size]).toEqual([count + encoded.length, encoded.length]);
      const most = [0, 0x3f, 0xfff, 0xf_ffff, 0xfff_ffff];
      expect(length).toBeGreaterThan(size === 1 ? 0 : (most[size - 1] as number));
      expect(length).toBeLessThanOrEqual(most[size] as number);
      if (size > 1) expect((encoded[0] as number) & 0x30).toBe(0); // reserved bits
    }),
  );
  expect(() => aml.pkgLength(268435452)).toThrowError(RangeError);
});

test('an integer decodes correctly and has the shortest encoding', () => {
  const prefixes: Readonly<Record<number, number>> = { 10: 1, 11: 2, 12: 4, 14: 8 };
  const number = fc.oneof(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), fc.bigInt({ min: 0n, max: 70000n }));
  fc.assert(
    fc.property(number, (value) => {
      const bytes = aml.integer(value);
      const width = prefixes[bytes[0] as number];
      const read =
        width === undefined
          ? BigInt(bytes[0] as number)
          : bytes.subarray(1).reduceRight((sum, byte) => sum * 256n + BigInt(byte), 0n);
      expect(read).toBe(value);
      expect(bytes).toHaveLength(width === undefined ? 1 : width + 1);
      if (width !== undefined && width > 1) expect(value).toBeGreaterThanOrEqual(1n << BigInt(width * 4));
    }),
  );
  expect(() => aml.integer(2n ** 64n)).toThrowError(RangeError);
  expect(() => aml.integer(-1)).toThrowError(RangeError);
});

test('names and paths are padded and prefixed as in ACPI', () => {
  const text = (path: string) => Buffer.from(aml.path(path)).toString('latin1');
  expect(text('_CRS')).toBe('_CRS');
  expect(text('S5')).toBe('S5__');
  expect(text('\\')).toBe('\\\0');
  expect(text('\\_SB.PCI0')).toBe('\\\x2e_SB_PCI0');
  expect(text('^^A.B.C')).toBe('^^\x2f\x03A___B___C___');
  for (const wrong of ['', 'abcd', 'TOOLONG', '1ABC', 'A..B', 'A.']) {
    expect(() => aml.path(wrong), wrong).toThrowError(RangeError);
  }
});

test('identifiers are encoded as by iasl', () => {
  expect([...aml.eisaId('PNP0A08')]).toEqual([0x0c, 0x41, 0xd0, 0x0a, 0x08]);
  expect([...aml.uuid('33DB4D5B-1FF7-401C-9657-7441C03DD766')].slice(-16)).toEqual([
    0x5b, 0x4d, 0xdb, 0x33, 0xf7, 0x1f, 0x1c, 0x40, 0x96, 0x57, 0x74, 0x41, 0xc0, 0x3d, 0xd7, 0x66,
  ]);
  expect(() => aml.eisaId('pnp0a08')).toThrowError(RangeError);
  expect(() => aml.uuid('33DB4D5B')).toThrowError(RangeError);
});

test('a package of more than 255 elements is rejected', () => {
  const elements = Array.from({ length: 256 }, () => aml.integer(0));
  expect(() => aml.pkg(...elements)).toThrowError(RangeError);
  expect(aml.pkg(...elements.slice(1))[3]).toBe(255);
});
