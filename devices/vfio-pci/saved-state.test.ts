/** A function that any guest has set up goes on in another one: what the guest sees of it, and its interrupts. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Scope } from '../../sys/scope.js';
import { VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX } from '../../vfio/uapi.js';
import { fakeEnvironment } from '../testing/fake-ports.js';
import { VfioPciDevice } from './device.js';
import { AT0, AT2, AT4, BAR0, BAR2, BAR4, type Bench, COMMAND, place, ROM, shown } from './nic-bench.js';
import { createScriptedNic, nicMsix, nicOffsets } from './scripted-nic.js';

const RUNS = Number(process.env.TSVISOR_SAVED_STATES ?? 100);
const FUZZ = Number(process.env.TSVISOR_SAVED_MUTATIONS ?? 10_000);

function open(scope: Scope, isDynamic: boolean): Bench {
  const environment = fakeEnvironment();
  const nic = scope.own(createScriptedNic({ isDynamic }));
  const device = scope.own(VfioPciDevice.open('nic', nic, environment, { routeIntx: () => 16 }));
  return { nic, device, environment };
}

/** Moves a function's state to a new one, as a restored machine does. */
function moved({ device, nic }: Bench, scope: Scope, isDynamic: boolean): Bench {
  const state = device.save();
  const other = open(scope, isDynamic);
  // What the device's own migration brings, which is not the function's: memory behind BARs.
  for (const region of [0, 2, 4]) other.nic.region(region).set(nic.region(region));
  other.device.load(state);
  return other;
}

type Step = (bench: Bench) => void;
const TABLE = nicMsix.table;

const step: fc.Arbitrary<Step> = fc.oneof(
  fc
    .record({
      at: fc.constantFrom(BAR0, BAR2, BAR4, BAR4 + 4, ROM),
      value: fc.oneof(fc.constantFrom(AT0, AT0 | 1, AT2, AT4, 0, 0xffffffff), fc.nat(0xffffffff)),
    })
    .map(
      ({ at, value }): Step =>
        ({ device }) =>
          device.configWrite(at, 4, value),
    ),
  fc.constantFrom(0, 1, 2, 3, 6, 7, 0x407).map(
    (value): Step =>
      ({ device }) =>
        device.configWrite(COMMAND, 2, value),
  ),
  fc.constantFrom(0, 0, 3, 0x100).map(
    (value): Step =>
      ({ device }) =>
        device.configWrite(nicOffsets.pm + 4, 2, value),
  ),
  fc.constantFrom(0x8000, 0xc000, 0x4000, 0).map(
    (value): Step =>
      ({ device }) =>
        device.configWrite(nicOffsets.msix + 2, 2, value),
  ),
  fc.constantFrom(0x01, 0x11, 0x21, 0).map(
    (value): Step =>
      ({ device }) =>
        device.configWrite(nicOffsets.msi + 2, 2, value),
  ),
  fc.record({ at: fc.constantFrom(4, 8, 12, 16), value: fc.nat(0xffffffff) }).map(
    ({ at, value }): Step =>
      ({ device }) =>
        device.configWrite(nicOffsets.msi + at, 4, value),
  ),
  fc.record({ word: fc.nat(4 * nicMsix.vectors - 1), value: fc.oneof(fc.nat(1), fc.nat(0xffffffff)) }).map(
    ({ word, value }): Step =>
      ({ environment }) =>
        environment.mmio.write32(BigInt(AT4 + TABLE + 4 * word), value),
  ),
  fc.nat(nicMsix.vectors - 1).map(
    (vector): Step =>
      ({ nic }) => {
        for (const index of [VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX]) nic.fire(index, vector);
      },
  ),
  fc.constant<Step>(place),
);

/** Bytes of configuration space that are a device's own, and scripted to be the same in both. */
const config = ({ device }: Bench): number[] =>
  Array.from({ length: 1024 }, (_, i) => device.configRead(4 * i, 4));

/** What the device itself is told: decoding and DMA, MSI and MSI-X. Its read-only bits are none of a scripted device. */
function told({ nic }: Bench): number[] {
  const word = (at: number, mask: number) => new DataView(nic.config.buffer).getUint16(at, true) & mask;
  return [word(COMMAND, 0x407), word(nicOffsets.msi + 2, 0x71), word(nicOffsets.msix + 2, 0xc000)];
}

const table = ({ environment: { mmio } }: Bench): number[] =>
  Array.from({ length: 0x1000 / 4 + 2 }, (_, i) => mmio.read32(BigInt(AT4 + TABLE + 4 * i)));

/** Where the table can be read. */
function reveal(bench: Bench): void {
  bench.device.configWrite(nicOffsets.pm + 4, 2, 0);
  place(bench);
  bench.device.configWrite(COMMAND, 2, 0x407);
}

/** Messages that come once everything is unmasked, with those of before. */
function messages(bench: Bench): string[] {
  const text = () =>
    bench.environment.interrupts.take().map(({ name, address, data }) => `${name} ${address} ${data}`);
  const before = text();
  reveal(bench);
  for (let vector = 0; vector < nicMsix.vectors; vector++)
    bench.environment.mmio.write32(BigInt(AT4 + TABLE + 16 * vector + 12), 0);
  const flags = bench.device.configRead(nicOffsets.msix + 2, 2);
  bench.device.configWrite(nicOffsets.msix + 2, 2, flags & ~0x4000);
  bench.device.configWrite(nicOffsets.msi + 0x10, 4, 0);
  return [...before, ...text()].sort();
}

describe.each([true, false])('vectors can be added later: %s', (isDynamic) => {
  test('a random guest sees the same of the function that its state was loaded into, and gets what was pending', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 25 }), fc.array(step, { maxLength: 8 }), (before, after) => {
        using scope = new Scope();
        const one = open(scope, isDynamic);
        place(one);
        for (const act of before) act(one);
        one.environment.interrupts.take(); // delivered before the machine was saved
        const other = moved(one, scope, isDynamic);
        expect(other.device.interruptMode).toBe(one.device.interruptMode);
        for (const acts of [[], after]) {
          for (const act of acts) for (const bench of [one, other]) act(bench);
          expect(config(other)).toEqual(config(one));
          expect(shown(other)).toEqual(shown(one));
          expect(told(other)).toEqual(told(one));
        }
        for (const bench of [one, other]) reveal(bench);
        expect(table(other)).toEqual(table(one));
        expect(messages(other)).toEqual(messages(one));
      }),
      { numRuns: RUNS },
    );
  });
});

test('saving changes nothing for the guest that goes on', () => {
  using scope = new Scope();
  const bench = open(scope, true);
  place(bench);
  bench.device.configWrite(COMMAND, 2, 7);
  bench.environment.mmio.write32(BigInt(AT4 + TABLE), 0xfee00000);
  bench.environment.mmio.write32(BigInt(AT4 + TABLE + 12), 0);
  bench.device.configWrite(nicOffsets.msix + 2, 2, 0x8000);
  const before = [config(bench), shown(bench), table(bench)];
  const first = bench.device.save();
  expect(bench.device.save()).toEqual(first);
  expect([config(bench), shown(bench), table(bench)]).toEqual(before);
  expect(bench.nic.fire(VFIO_PCI_MSIX_IRQ_INDEX)).toBe(true);
  expect(bench.environment.interrupts.take()).toHaveLength(1);
});

test('an asserted pin is asserted again, unless the guest has turned it off', () => {
  for (const command of [3, 0x403]) {
    using scope = new Scope();
    const bench = open(scope, false);
    bench.device.configWrite(COMMAND, 2, command);
    const other = moved(bench, scope, false);
    const [line] = other.environment.interrupts.levels;
    expect((line as { readonly isAsserted?: boolean } | undefined)?.isAsserted).toBe(command === 3);
  }
});

test('a state of another device is refused with what differs, and the function stays as it is', () => {
  using scope = new Scope();
  const bench = open(scope, false);
  place(bench);
  const before = config(bench);
  const state = bench.device.save();
  const wrong = (change: (view: DataView) => void): Uint8Array => {
    const copy = Uint8Array.from(state);
    change(new DataView(copy.buffer));
    return copy;
  };
  const refused = (change: (view: DataView) => void) => expect(() => bench.device.load(wrong(change)));
  refused((view) => view.setUint16(12 + 2, 0x1234, true)).toThrowError(/vendor and device is 0x12348086/);
  refused((view) => view.setUint32(0, 256, true)).toThrowError(/configuration space has 256 bytes/);
  refused((view) => view.setUint32(4, 16, true)).toThrowError(/MSI-X table has 16 bytes, and this one 80/);
  refused((view) => view.setUint32(8, 1, true)).toThrowError(/bytes for 1 pending vectors/);
  expect(() => bench.device.load(new Uint8Array(3))).toThrowError(/3 bytes are no function's state/);
  expect(config(bench)).toEqual(before);
});

test(`${FUZZ} damaged states are an error, or a state that a guest could have made`, () => {
  using scope = new Scope();
  const bench = open(scope, true);
  place(bench);
  bench.device.configWrite(COMMAND, 2, 7);
  bench.device.configWrite(nicOffsets.msix + 2, 2, 0x8000);
  const state = bench.device.save();
  const fixed = [...IDENTITY_BYTES].map((at) => bench.device.configRead(at, 4));
  fc.assert(
    fc.property(
      fc.array(fc.record({ at: fc.nat(state.length - 1), byte: fc.nat(255) }), {
        minLength: 1,
        maxLength: 12,
      }),
      fc.oneof(fc.constant(state.length), fc.nat(state.length)),
      (changes, length) => {
        const copy = Uint8Array.from(state);
        for (const { at, byte } of changes) copy[at] = byte;
        try {
          bench.device.load(copy.subarray(0, length));
        } catch (error) {
          expect(error).toBeInstanceOf(RangeError);
        }
        expect([...IDENTITY_BYTES].map((at) => bench.device.configRead(at, 4))).toEqual(fixed);
        expect(bench.environment.interrupts.lines.size).toBeLessThanOrEqual(nicMsix.vectors);
      },
    ),
    { numRuns: FUZZ },
  );
  bench.device.load(state);
  expect(bench.device.save()).toEqual(state);
});

/** Registers that no guest can change. */
const IDENTITY_BYTES = [0x00, 0x08, 0x2c] as const;
