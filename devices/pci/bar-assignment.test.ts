import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Scope } from '../../sys/scope.js';
import type { AddressWindow, PciFunction } from '../contracts.js';
import { fakeEnvironment, fakeWindows } from '../testing/fake-ports.js';
import { VfioPciDevice } from '../vfio-pci/device.js';
import { createScriptedNic, NIC_ROM_BYTES, nicBars } from '../vfio-pci/scripted-nic.js';
import { addBar, addRomBar, type BarShape, barAddress } from './bar.js';
import { type AssignedAddress, assignBars } from './bar-assignment.js';
import { ConfigSpace } from './config-space.js';
import { PCI_COMMAND, PCI_HEADER_TYPE, PCI_ROM_ADDRESS } from './pci-regs.js';

const WINDOWS: readonly AddressWindow[] = [
  { kind: 'mmio', base: 0xc000_0000n, bytes: 0x2000_0000n },
  { kind: 'mmio', base: 0x40_0000_0000n, bytes: 0x40_0000_0000n },
  { kind: 'pio', base: 0xc000n, bytes: 0x2000n },
];

interface Card extends PciFunction {
  readonly space: ConfigSpace;
  readonly shapes: readonly BarShape[];
  readonly rom: bigint | undefined;
}

function card(name: string, shapes: readonly BarShape[], rom?: bigint): Card {
  const space = new ConfigSpace();
  for (const shape of shapes) addBar(space, shape);
  if (rom !== undefined) addRomBar(space, rom);
  return {
    ...{ name, space, shapes, rom },
    configRead: (offset, bytes) => space.read(offset, bytes),
    configWrite: (offset, bytes, value) => void space.write(offset, bytes, value),
    [Symbol.dispose]() {},
  };
}

const overlaps = (a: AssignedAddress, b: AssignedAddress): boolean =>
  a.kind === b.kind &&
  a.base !== undefined &&
  b.base !== undefined &&
  a.base < b.base + b.size &&
  b.base < a.base + a.size;

/** BARs of one function: a 64-bit one takes two registers. */
const shapesOf = fc
  .array(
    fc.record({ kind: fc.constantFrom('memory32', 'memory64', 'io'), log: fc.integer({ min: 0, max: 33 }) }),
    {
      maxLength: 6,
    },
  )
  .map((wanted) => {
    const shapes: BarShape[] = [];
    let index = 0;
    for (const { kind, log } of wanted as { kind: BarShape['kind']; log: number }[]) {
      const width = kind === 'memory64' ? 2 : 1;
      if (index + width > 6) break;
      const bits = kind === 'io' ? 2 + (log % 7) : kind === 'memory32' ? 4 + (log % 26) : 4 + log;
      shapes.push({ index, kind, isPrefetchable: kind === 'memory64', size: 1n << BigInt(bits) });
      index += width;
    }
    return shapes;
  });

test('BARs are aligned, lie in a window of their kind, below 4 GiB unless 64-bit, and do not overlap; registers hold them', () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(shapesOf, fc.boolean()), { maxLength: 6 }), (plan) => {
      const cards = plan.map(([shapes, hasRom], i) =>
        card(`card ${i}`, shapes, hasRom ? 0x10000n : undefined),
      );
      const assigned = assignBars(cards, WINDOWS);
      expect(assigned).toHaveLength(
        cards.reduce((sum, { shapes, rom }) => sum + shapes.length + (rom === undefined ? 0 : 1), 0),
      );
      for (const [i, bar] of assigned.entries()) {
        const { base, size, kind, is64 } = bar;
        if (base === undefined) continue;
        expect(base % size).toBe(0n);
        expect(base).not.toBe(0n);
        const isIn = (window: AddressWindow) =>
          window.kind === kind && base >= window.base && base + size <= window.base + window.bytes;
        expect(WINDOWS.some(isIn)).toBe(true);
        if (!is64) expect(base + size <= 1n << 32n).toBe(true);
        for (const other of assigned.slice(i + 1)) expect(overlaps(bar, other)).toBe(false);
      }
      for (const { name, space, shapes, rom } of cards) {
        const of = (register: number) =>
          assigned.find((bar) => bar.function === name && bar.register === register);
        for (const shape of shapes)
          expect(barAddress(space, shape)).toBe(of(0x10 + 4 * shape.index)?.base ?? 0n);
        if (rom !== undefined)
          expect(BigInt(space.read(PCI_ROM_ADDRESS, 4))).toBe(of(PCI_ROM_ADDRESS)?.base ?? 0n);
      }
    }),
  );
});

test('32-bit BARs have the room below 4 GiB first; 64-bit ones that find none go above', () => {
  const wide = { kind: 'memory64', isPrefetchable: true } as const;
  const cards = [
    card('gpu', [
      { index: 0, ...wide, size: 1n << 34n },
      { index: 2, ...wide, size: 1n << 28n },
    ]),
    card('old', [{ index: 0, kind: 'memory32', isPrefetchable: false, size: 1n << 28n }]),
  ];
  const [old, large, small] = assignBars(cards, WINDOWS);
  expect(old).toMatchObject({ function: 'old', base: 0xc000_0000n });
  expect(large).toMatchObject({ function: 'gpu', size: 1n << 34n, base: 0x40_0000_0000n });
  expect(small).toMatchObject({ function: 'gpu', size: 1n << 28n, base: 0xd000_0000n });
});

test('a BAR for which no window has room holds 0, and the others are assigned', () => {
  const shape = { kind: 'memory32', isPrefetchable: false } as const;
  const made = card('card', [
    { index: 0, ...shape, size: 1n << 30n },
    { index: 1, ...shape, size: 0x1000n },
  ]);
  expect(assignBars([made], WINDOWS).map(({ base }) => base)).toEqual([undefined, 0xc000_0000n]);
  expect(made.space.read(0x10, 4)).toBe(0);
});

test('bridges are left alone', () => {
  const bridge = card('bridge', [{ index: 0, kind: 'memory32', isPrefetchable: false, size: 0x1000n }]);
  bridge.space.set(PCI_HEADER_TYPE, 1, 1);
  expect(assignBars([bridge], WINDOWS)).toEqual([]);
  expect(bridge.space.read(0x10, 4)).toBe(0);
});

test('an assigned device shows its BARs where they were assigned once a guest enables decoding, with no other write', () => {
  using scope = new Scope();
  const nic = scope.own(createScriptedNic());
  const environment = fakeEnvironment();
  const device = scope.own(VfioPciDevice.open('nic', nic, environment));
  const assigned = assignBars([device], fakeWindows);
  expect(assigned.map(({ size }) => size).sort()).toEqual(
    [...nicBars.map(({ size }) => size), BigInt(NIC_ROM_BYTES)].sort(),
  );
  expect(environment.mmio.ranges).toEqual([]);
  expect(device.configRead(PCI_COMMAND, 2) & 7).toBe(0);
  device.configWrite(PCI_COMMAND, 2, 0x3);
  const shown = [...environment.mmio.ranges, ...environment.pio.ranges].map(({ base }) => base);
  const isRom = ({ register }: AssignedAddress): boolean => register === PCI_ROM_ADDRESS;
  expect(shown.sort()).toEqual(
    assigned
      .filter((bar) => !isRom(bar))
      .map(({ base }) => base)
      .sort(),
  );
});
