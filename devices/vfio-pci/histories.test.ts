/** Random guests: whatever they write, what they see is a function of the registers, and nothing is left over. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Fd } from '../../sys/fd.js';
import { Scope } from '../../sys/scope.js';
import { type FakeEnvironment, fakeEnvironment } from '../testing/fake-ports.js';
import type { ScriptedDevice } from '../testing/scripted-device.js';
import { VfioPciDevice } from './device.js';
import { createScriptedNic, NIC_ROM_BYTES, nicBars, nicMsix, nicOffsets } from './scripted-nic.js';

const windows = [
  { kind: 'pio', base: 0xc000n, bytes: 0x80n },
  { kind: 'mmio', base: 0xe000_0000n, bytes: 0x4_0000n },
  { kind: 'mmio', base: 0x80_e000_0000n, bytes: 0x2_0000n },
] as const;
/** An I/O range and a memory range that other devices occupy. */
const neighbours = [
  { kind: 'pio', base: 0xc040n, bytes: 0x20n },
  { kind: 'mmio', base: 0xe001_8000n, bytes: 0x4000n },
] as const;

interface Range {
  readonly kind: 'mmio' | 'pio';
  readonly base: bigint;
  readonly bytes: bigint;
}

const overlap = (a: Range, b: Range): boolean =>
  a.kind === b.kind && a.base < b.base + b.bytes && b.base < a.base + a.bytes;

/** The model: where each BAR is, by the registers as a driver reads them. Index 6 is the ROM. */
function expectedRanges(device: VfioPciDevice): (Range & { readonly index: number })[] {
  const command = device.configRead(0x04, 2);
  const isAwake = (device.configRead(nicOffsets.pm + 4, 2) & 3) === 0;
  const found: (Range & { index: number })[] = [];
  const add = (index: number, kind: Range['kind'], base: bigint, bytes: bigint, probe: bigint): void => {
    const isDecoded = isAwake && (command & (kind === 'pio' ? 1 : 2)) !== 0;
    if (!isDecoded || base === probe) return;
    const range = { index, kind, base, bytes };
    const isInside = windows.some(
      (window) => window.kind === kind && base >= window.base && base + bytes <= window.base + window.bytes,
    );
    if (!isInside || found.some((other) => overlap(other, range))) return;
    found.push(range);
  };
  for (const { index, kind, size } of nicBars) {
    const low = BigInt(device.configRead(0x10 + 4 * index, 4));
    const high = kind === 'memory64' ? BigInt(device.configRead(0x14 + 4 * index, 4)) << 32n : 0n;
    const base = high | (low & ~(kind === 'io' ? 3n : 15n));
    const width = kind === 'memory64' ? 64n : 32n;
    add(index, kind === 'io' ? 'pio' : 'mmio', base, size, (1n << width) - size);
  }
  const rom = BigInt(device.configRead(0x30, 4));
  const romBytes = BigInt(NIC_ROM_BYTES);
  if ((rom & 1n) !== 0n) add(6, 'mmio', rom & ~0x7ffn, romBytes, (1n << 32n) - romBytes);
  // The first one on the bus stays there.
  return found.filter((range) => !neighbours.some((other) => overlap(other, range)));
}

const key = ({ base, bytes }: { base: bigint; bytes: bigint }): string =>
  `${base.toString(16)}+${bytes.toString(16)}`;

const romBytes = NIC_ROM_BYTES.toString(16);

function checkShown(device: VfioPciDevice, environment: FakeEnvironment): void {
  const expected = expectedRanges(device);
  for (const kind of ['mmio', 'pio'] as const) {
    const ranges = environment[kind].ranges.filter(({ device: { name } }) => name !== 'neighbour');
    expect(ranges.map(key).sort()).toEqual(
      expected
        .filter((range) => range.kind === kind)
        .map(key)
        .sort(),
    );
  }
  const mapped = expected.flatMap(({ index, base }) => {
    if (index === 0) return [`${base.toString(16)}+8000`];
    if (index === 6) return [`${base.toString(16)}+${romBytes}`];
    return index === 4 ? [`${base.toString(16)}+2000`] : [];
  });
  expect(environment.memory.slots.map(({ gpa, bytes }) => key({ base: gpa, bytes })).sort()).toEqual(
    mapped.sort(),
  );
  const bells = expected.filter(({ index }) => index === 4).map(({ base }) => base + 0x2800n);
  expect(environment.doorbells.bells.map(({ address }) => address)).toEqual(bells);
}

/** The only interrupts are those that the registers enable. */
function checkInterrupts(device: VfioPciDevice, nic: ScriptedDevice, environment: FakeEnvironment): void {
  const hasMsix = (device.configRead(nicOffsets.msix + 2, 2) & 0x8000) !== 0;
  const control = device.configRead(nicOffsets.msi + 2, 2);
  const mode = hasMsix ? 'msix' : (control & 1) !== 0 ? 'msi' : 'intx';
  expect(device.interruptMode).toBe(mode);
  const index = { intx: 0, msi: 1, msix: 2 }[mode];
  const wired = nic.wired();
  expect(
    Object.keys(wired)
      .map(Number)
      .filter((i) => i <= 2),
  ).toEqual([index]);
  expect(environment.interrupts.levels.size).toBe(mode === 'intx' ? 1 : 0);
  const lines = environment.interrupts.lines.size;
  if (mode === 'intx') expect(lines).toBe(0);
  else expect(lines).toBe((wired[index] as number[]).length);
  if (mode === 'msi') expect(lines).toBe(1 << Math.min((control >> 4) & 7, 2));
}

const memory = fc.constantFrom(
  0xe0000000,
  0xe0004000,
  0xe0008000,
  0xe0010000,
  0xe0014000,
  0xe0018000,
  0xe0038000,
  0xe003c000,
  0xe0040000,
  0xffffffff,
);
const bar = fc
  .oneof(
    fc.record({ offset: fc.constantFrom(0x10, 0x20), value: memory }),
    fc.record({
      offset: fc.constant(0x18),
      value: fc.constantFrom(0xc000, 0xc020, 0xc040, 0xc061, 0xffffffff),
    }),
    fc.record({ offset: fc.constant(0x24), value: fc.constantFrom(0, 0, 0, 0x80, 0x81, 0xffffffff) }),
    fc.record({ offset: fc.constantFrom(0x10, 0x14, 0x18, 0x1c, 0x20, 0x24), value: fc.nat() }),
  )
  .map((write) => ({ bytes: 4, ...write }));
const rom = fc.record({
  offset: fc.constant(0x30),
  bytes: fc.constant(4),
  value: fc.constantFrom(0xe0000001, 0xe0010001, 0xe0020001, 0xe0020000, 0xffffffff),
});
const command = fc.record({
  offset: fc.constant(0x04),
  bytes: fc.constantFrom(1, 2, 4),
  value: fc.constantFrom(0, 1, 2, 3, 3, 7, 7),
});
const power = fc.record({
  offset: fc.constant(nicOffsets.pm + 4),
  bytes: fc.constantFrom(1, 2),
  value: fc.constantFrom(0, 0, 3),
});
const interrupts = fc.oneof(
  fc.record({
    offset: fc.constant(nicOffsets.msix + 2),
    bytes: fc.constant(2),
    value: fc.constantFrom(0, 0x8000, 0xc000, 0x4000),
  }),
  fc.record({
    offset: fc.constant(nicOffsets.msi + 2),
    bytes: fc.constant(2),
    value: fc.constantFrom(0, 1, 0x11, 0x21, 0x71),
  }),
);
const anywhere = fc
  .record({
    word: fc.integer({ min: 0, max: 1023 }),
    bytes: fc.constantFrom(1, 2, 4),
    value: fc.integer({ min: 0, max: 0xffffffff }),
  })
  .chain(({ word, bytes, value }) =>
    fc.record({
      offset: fc.integer({ min: 0, max: 4 / bytes - 1 }).map((i) => word * 4 + i * bytes),
      bytes: fc.constant(bytes),
      value: fc.constant(value >>> (32 - 8 * bytes)),
    }),
  );
const configWrite = fc
  .oneof(
    { weight: 6, arbitrary: bar },
    { weight: 4, arbitrary: command },
    { weight: 2, arbitrary: rom },
    { weight: 1, arbitrary: power },
    { weight: 3, arbitrary: interrupts },
    { weight: 4, arbitrary: anywhere },
  )
  .map((write) => ({ kind: 'config' as const, ...write }));
const memoryAccess = fc.record({
  kind: fc.constantFrom('read' as const, 'write' as const),
  /** Where BAR4's trapped half is, wherever the BAR is decoded. */
  at: fc.oneof(
    fc.integer({ min: 0, max: nicMsix.vectors * 16 }).map((offset) => nicMsix.table + offset),
    fc.integer({ min: 0x2000, max: 0x3ff8 }),
  ),
  data: fc.uint8Array({ minLength: 1, maxLength: 8 }),
});
const fire = fc.record({
  kind: fc.constant('fire' as const),
  index: fc.integer({ min: 0, max: 2 }),
  vector: fc.integer({ min: 0, max: 4 }),
});
const history = fc.array(
  fc.oneof({ weight: 4, arbitrary: configWrite }, { weight: 2, arbitrary: memoryAccess }, fire),
  { maxLength: 60 },
);

/** Bits of the device that writes change: power state, command, status; all others are read-only. */
function writableBits(): Uint8Array {
  const bits = new Uint8Array(4096);
  bits.set([0x47, 0x05], 0x04);
  bits[nicOffsets.pm + 4] = 0x03;
  return bits;
}

test('whatever a guest writes, it sees what its registers say, and nothing is left at the end', () => {
  const init = { configWritable: writableBits() };
  fc.assert(
    fc.property(fc.boolean(), history, (isDynamic, steps) => {
      using scope = new Scope();
      const environment = fakeEnvironment(windows);
      for (const { kind, base, bytes } of neighbours) {
        environment[kind].add(base, bytes, { name: 'neighbour', read() {}, write() {} });
      }
      const bell = scope.own(Fd.eventfd());
      const ioFds = [{ offset: 0x2800, size: 2, fd: bell.number }];
      const nic = scope.own(createScriptedNic({ isDynamic, ioFds, init }));
      const device = VfioPciDevice.open('nic', nic, environment, { routeIntx: () => 11 });
      device.configWrite(0x10, 4, 0xe0008000);
      device.configWrite(0x20, 4, 0xe0010000);
      device.configWrite(0x18, 4, 0xc000);
      device.configWrite(0x04, 2, 3);
      try {
        for (const step of steps) {
          if (step.kind === 'config') {
            device.configWrite(step.offset, step.bytes, step.value);
            const read = device.configRead(step.offset, step.bytes);
            expect(read).toBeGreaterThanOrEqual(0);
            expect(read).toBeLessThan(2 ** (8 * step.bytes));
          } else if (step.kind === 'fire') {
            nic.fire(step.index, step.vector);
          } else {
            const shown = environment.mmio.ranges.find(({ device: { name } }) => name === 'nic BAR4');
            if (shown === undefined) continue;
            const at = shown.base + BigInt(step.at);
            if (step.kind === 'write') environment.mmio.write(at, step.data);
            else expect(environment.mmio.read(at, step.data.length)).toHaveLength(step.data.length);
          }
          checkShown(device, environment);
          checkInterrupts(device, nic, environment);
        }
        device.configWrite(0x04, 2, 0);
        checkShown(device, environment);
        expect(environment.doorbells.bells).toEqual([]);
      } finally {
        device[Symbol.dispose]();
      }
      expect(environment.mmio.ranges).toHaveLength(1);
      expect(environment.pio.ranges).toHaveLength(1);
      expect(environment.memory.slots).toEqual([]);
      expect(environment.interrupts.lines.size + environment.interrupts.levels.size).toBe(0);
      expect(nic.wired()).toEqual({});
    }),
    { numRuns: 150 },
  );
});

test('a guest of a device whose every call fails sees all-ones and gets no exception', () => {
  fc.assert(
    fc.property(
      history,
      fc.subarray(['read', 'write', 'setIrqs'] as const, { minLength: 1 }),
      (steps, calls) => {
        using scope = new Scope();
        const environment = fakeEnvironment(windows);
        const nic = scope.own(createScriptedNic());
        const device = VfioPciDevice.open('nic', nic, environment, { routeIntx: () => 11 });
        for (const call of calls) nic.failures.set(call, 'EIO');
        for (const step of steps) {
          if (step.kind !== 'config') continue;
          device.configWrite(step.offset, step.bytes, step.value);
          device.configRead(step.offset, step.bytes);
        }
        device[Symbol.dispose]();
        expect(environment.mmio.ranges.length + environment.pio.ranges.length).toBe(0);
        expect(environment.memory.slots).toEqual([]);
        expect(environment.interrupts.lines.size + environment.interrupts.levels.size).toBe(0);
      },
    ),
    { numRuns: 50 },
  );
});
