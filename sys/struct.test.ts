import fc from 'fast-check';
import { expect, test } from 'vitest';
import { iowr } from './ioctl.js';
import { type Scalar, struct } from './struct.js';

const Inner = struct('struct inner', 'none.h', { a: 'u8', b: 'u16' });
const Outer = struct('struct outer', 'none.h', { x: 'u8', y: 'u64', list: [Inner, 3], tail: ['u8', 5] });

test('fields are aligned as the x86-64 ABI does', () => {
  expect(Inner.size).toBe(4);
  expect(Outer.offsets).toEqual({ x: 0, y: 8, list: 16, tail: 28 });
  expect(Outer.size).toBe(40);
});

test('a packed structure has no padding', () => {
  expect(struct('struct p', 'none.h', { a: 'u8', b: 'u64' }, { packed: true }).size).toBe(9);
});

test('any field values decode as encoded', () => {
  const scalars: Scalar[] = ['u8', 'u16', 'u32', 'u64', 's8', 's16', 's32', 's64'];
  const value = (scalar: Scalar): fc.Arbitrary<number | bigint> => {
    const bits = Number(scalar.slice(1));
    const signed = scalar.startsWith('s');
    if (bits === 64) {
      return signed
        ? fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n })
        : fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
    }
    return fc.integer({
      min: signed ? -(2 ** (bits - 1)) : 0,
      max: signed ? 2 ** (bits - 1) - 1 : 2 ** bits - 1,
    });
  };
  const shape = fc.array(fc.constantFrom(...scalars), { minLength: 1, maxLength: 12 });
  const sample = shape.chain((types) =>
    fc.tuple(fc.constant(types), fc.tuple(...types.map(value)), fc.boolean()),
  );
  fc.assert(
    fc.property(sample, ([types, values, packed]) => {
      const fields = Object.fromEntries(types.map((type, i) => [`f${i}`, type]));
      const layout = struct('struct any', 'none.h', fields, { packed });
      const given = Object.fromEntries(values.map((v, i) => [`f${i}`, v])) as never;
      expect(layout.decode(layout.encode(given))).toEqual(given);
    }),
  );
});

test('a field that does not exist is rejected, and so is an array that is too long', () => {
  expect(() => Outer.encode({ nope: 1 } as never)).toThrowError('struct outer has no field nope');
  expect(() => Outer.encode({ tail: new Uint8Array(6) })).toThrowError(RangeError);
});

test('decoding a buffer that ends early throws', () => {
  expect(() => Outer.decode(new Uint8Array(39))).toThrowError(/needs 40 bytes at 0/);
});

test('an ioctl number carries direction, size, type and number', () => {
  expect(iowr('X', 0xae, 0x05, Outer).number).toBe(0xc028ae05);
});
