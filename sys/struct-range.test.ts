import { expect, test } from 'vitest';
import { struct } from './struct.js';

const Inner = struct('struct inner', 'test.h', { byte: 'u8' });
const Outer = struct('struct outer', 'test.h', {
  word: 'u16',
  signed: 's32',
  quad: 'u64',
  bytes: ['u8', 2],
  inner: [Inner, 2],
});

test('a value that its field cannot hold is refused by name, instead of its low bits being kept', () => {
  const cases: [Parameters<typeof Outer.encode>[0], string][] = [
    [{ word: 0x10000 }, 'word'],
    [{ word: 1.5 }, 'word'],
    [{ word: Number.NaN }, 'word'],
    [{ signed: 2 ** 32 }, 'signed'],
    [{ signed: -(2 ** 31) - 1 }, 'signed'],
    [{ quad: 1n << 64n }, 'quad'],
    [{ quad: 1 as unknown as bigint }, 'quad'],
    [{ inner: [{ byte: 0 }, { byte: 256 }] }, 'byte'],
  ];
  for (const [values, field] of cases)
    expect(() => Outer.encode(values)).toThrowError(new RegExp(`${field}: .* does not fit in`));
});

test('the ends of each range fit, and a negative number in an unsigned field is its two’s complement', () => {
  const bytes = Outer.encode({ word: 0xffff, signed: -(2 ** 31), quad: (1n << 64n) - 1n });
  expect(Outer.decode(bytes)).toMatchObject({ word: 0xffff, signed: -(2 ** 31), quad: (1n << 64n) - 1n });
  expect(Outer.decode(Outer.encode({ word: -1, quad: -1n }))).toMatchObject({
    word: 0xffff,
    quad: (1n << 64n) - 1n,
  });
});
