import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  addBar,
  addRomBar,
  type BarShape,
  barAddress,
  barRegister,
  barSize,
  decodeBarType,
  romAddress,
  romSize,
} from './bar.js';
import { ConfigSpace } from './config-space.js';
import { PCI_ROM_ADDRESS } from './pci-regs.js';

const shape: fc.Arbitrary<BarShape> = fc
  .constantFrom('memory32' as const, 'memory64' as const, 'io' as const)
  .chain((kind) =>
    fc.record({
      kind: fc.constant(kind),
      index: fc.integer({ min: 0, max: kind === 'memory64' ? 4 : 5 }),
      isPrefetchable: kind === 'io' ? fc.constant(false) : fc.boolean(),
      size: fc
        .integer({ min: kind === 'io' ? 2 : 4, max: kind === 'io' ? 8 : kind === 'memory64' ? 40 : 31 })
        .map((bits) => 1n << BigInt(bits)),
    }),
  );

/** Probes a BAR's size and type like an operating system. */
function probe(space: ConfigSpace, index: number): { type: number; size: bigint } {
  const at = barRegister(index);
  const old = space.read(at, 4);
  space.write(at, 4, 0xffffffff);
  const low = space.read(at, 4);
  space.write(at, 4, old);
  const isIo = (low & 1) !== 0;
  let mask = BigInt((low & (isIo ? ~3 : ~15)) >>> 0) | 0xffffffff00000000n;
  if (!isIo && (low & 6) === 4) {
    const high = space.read(at + 4, 4);
    space.write(at + 4, 4, 0xffffffff);
    mask = (BigInt(space.read(at + 4, 4)) << 32n) | (mask & 0xffffffffn);
    space.write(at + 4, 4, high);
  }
  return { type: low & (isIo ? 3 : 15), size: (~mask + 1n) & 0xffffffffffffffffn };
}

describe('base address registers', () => {
  test('the sizing protocol finds the size and type, and leaves the address unchanged', () => {
    fc.assert(
      fc.property(shape, fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }), (bar, wish) => {
        const space = new ConfigSpace();
        addBar(space, bar);
        const at = barRegister(bar.index);
        space.write(at, 4, Number(wish & 0xffffffffn));
        if (bar.kind === 'memory64') space.write(at + 4, 4, Number(wish >> 32n));
        const before = barAddress(space, bar);
        const found = probe(space, bar.index);
        expect(found.size).toBe(bar.size);
        expect(decodeBarType(bar.index, found.type)).toEqual({
          kind: bar.kind,
          isPrefetchable: bar.isPrefetchable,
        });
        expect(barAddress(space, bar)).toBe(before);
        const width = bar.kind === 'memory64' ? wish : wish & 0xffffffffn;
        if (before !== undefined) expect(before).toBe((width / bar.size) * bar.size);
      }),
    );
  });

  test('a BAR that holds the all-ones of a probe has no address', () => {
    for (const kind of ['memory32', 'memory64', 'io'] as const) {
      const space = new ConfigSpace();
      const bar: BarShape = { index: 2, kind, isPrefetchable: false, size: 256n };
      addBar(space, bar);
      space.write(barRegister(2), 4, 0xffffffff);
      if (kind === 'memory64') {
        expect(barAddress(space, bar)).toBe(0xffffff00n);
        space.write(barRegister(3), 4, 0xffffffff);
      }
      expect(barAddress(space, bar)).toBeUndefined();
    }
  });

  test('a ROM has an address only while it is enabled', () => {
    const space = new ConfigSpace();
    addRomBar(space, romSize(100n));
    space.write(PCI_ROM_ADDRESS, 4, 0xe0000800);
    expect(romAddress(space, 2048n)).toBeUndefined();
    space.write(PCI_ROM_ADDRESS, 4, 0xe0000801);
    expect(romAddress(space, 2048n)).toBe(0xe0000800n);
    space.write(PCI_ROM_ADDRESS, 4, 0xffffffff);
    expect(space.read(PCI_ROM_ADDRESS, 4)).toBe(0xfffff801);
    expect(romAddress(space, 2048n)).toBeUndefined();
  });

  test('a size is rounded up to the next power of two that the kind of BAR allows', () => {
    expect(barSize('io', 1n)).toBe(4n);
    expect(barSize('memory32', 1n)).toBe(16n);
    expect(barSize('memory64', 4097n)).toBe(8192n);
    expect(romSize(65536n)).toBe(65536n);
    expect(() => barSize('memory32', (1n << 31n) + 1n)).toThrow(RangeError);
    expect(() => romSize(1n << 32n)).toThrow(RangeError);
  });

  test('the last BAR cannot be a 64-bit one', () => {
    expect(decodeBarType(5, 0x4).kind).toBe('memory32');
    expect(decodeBarType(4, 0xc)).toEqual({ kind: 'memory64', isPrefetchable: true });
  });
});
