import { expect, test } from 'vitest';
import type { AddressWindow } from '../contracts.js';
import { type BarRequest, placeBars } from './bar-placement.js';

const windows: readonly AddressWindow[] = [
  { kind: 'mmio', base: 0x1000n, bytes: 0x1000n },
  { kind: 'mmio', base: 0x8000n, bytes: 0x1000n },
  { kind: 'pio', base: 0x100n, bytes: 0x100n },
];
const bar = (kind: 'mmio' | 'pio', base: bigint | undefined, bytes: bigint): BarRequest => ({
  label: `BAR at ${base}`,
  kind,
  base,
  bytes,
});
/** What becomes of each BAR: its base, a dash while it is not decoded, or the refusal. */
const placed = (...requests: BarRequest[]): unknown[] =>
  placeBars(requests, windows).map((one) =>
    one === undefined ? '-' : 'base' in one ? one.base : one.refusal,
  );

const OUTSIDE = 'outside the BAR windows';

test.each([
  { base: 0x1000n, bytes: 0x1000n, is: 0x1000n },
  { base: 0x1ff0n, bytes: 0x10n, is: 0x1ff0n },
  { base: 0x8000n, bytes: 0x10n, is: 0x8000n },
  { base: 0xff0n, bytes: 0x10n, is: OUTSIDE },
  { base: 0xff0n, bytes: 0x20n, is: OUTSIDE },
  { base: 0x1ff0n, bytes: 0x20n, is: OUTSIDE },
  { base: 0x2000n, bytes: 0x10n, is: OUTSIDE },
  { base: 0x100n, bytes: 0x10n, is: OUTSIDE },
])(
  'a BAR at $base of $bytes bytes is inside one window, with all of it, or refused',
  ({ base, bytes, is }) => {
    expect(placed(bar('mmio', base, bytes))).toEqual([is]);
  },
);

test('a port window is for ports', () => {
  expect(placed(bar('pio', 0x100n, 0x100n), bar('pio', 0x1000n, 0x10n))).toEqual([0x100n, OUTSIDE]);
});

test('neighbours do not overlap; a byte in common does, and the lower index wins', () => {
  const other = bar('mmio', 0x1100n, 0x100n);
  const overlaps = 'overlaps BAR at 4352 of the same device';
  expect(placed(other, bar('mmio', 0x1000n, 0x100n), bar('mmio', 0x1200n, 0x100n))).toEqual([
    ...[0x1100n, 0x1000n, 0x1200n],
  ]);
  expect(placed(other, bar('mmio', 0x1001n, 0x100n))).toEqual([0x1100n, overlaps]);
  expect(placed(other, bar('mmio', 0x11ffn, 0x100n))).toEqual([0x1100n, overlaps]);
  expect(placed(other, bar('mmio', 0x1000n, 0x800n))).toEqual([0x1100n, overlaps]);
});

test('BARs that are not decoded, or were refused, or are on the other bus are in nobody’s way', () => {
  const at = bar('pio', 0x180n, 0x10n);
  expect(placed(bar('pio', undefined, 0x10n), at)).toEqual(['-', 0x180n]);
  expect(placed(bar('pio', 0x180n, 0x1000n), at)).toEqual([OUTSIDE, 0x180n]);
  const wide = [{ kind: 'mmio', base: 0n, bytes: 0x1000n } as const, ...windows];
  expect(placeBars([bar('mmio', 0x180n, 0x10n), at], wide)).toEqual([{ base: 0x180n }, { base: 0x180n }]);
});
