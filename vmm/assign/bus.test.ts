import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { BusDevice } from '../../devices/contracts.js';
import { trace } from '../../sys/trace.js';
import { RangeBus } from './bus.js';

/** A device that answers with its own number and remembers what it was asked. */
function device(number: number): BusDevice & { log: string[] } {
  const log: string[] = [];
  return {
    name: `device ${number}`,
    log,
    read: (offset, data) => {
      log.push(`r${offset}`);
      data.fill(number);
    },
    write: (offset, data) => log.push(`w${offset}:${data.length}`),
  };
}

test('a device sees offsets into its range, not addresses', () => {
  const bus = new RangeBus('mmio');
  const one = device(1);
  bus.add(0x1000n, 16n, one);
  bus.write(0x1004, new Uint8Array(2));
  expect(one.log).toEqual(['w4:2']);
});

test('what no device holds reads as all ones, and writes to it are traced', () => {
  const bus = new RangeBus('pio');
  const seen: unknown[] = [];
  const listen = (event: object) => seen.push(event);
  trace.unclaimed.subscribe(listen);
  const data = new Uint8Array(4);
  bus.read(0x60, data);
  bus.write(0x64, data);
  trace.unclaimed.unsubscribe(listen);
  expect([...data]).toEqual([255, 255, 255, 255]);
  expect(seen).toEqual([
    { bus: 'pio', address: 0x60, bytes: 4, isWrite: false },
    { bus: 'pio', address: 0x64, bytes: 4, isWrite: true },
  ]);
});

test('of an access across two devices, each gets its part', () => {
  const bus = new RangeBus('mmio');
  const [one, two] = [device(1), device(2)];
  bus.add(0n, 4n, one);
  bus.add(4n, 4n, two);
  const data = new Uint8Array(4);
  bus.read(2, data);
  expect([...data]).toEqual([1, 1, 2, 2]);
  bus.write(0, new Uint8Array(8));
  expect(one.log).toEqual(['r2', 'w0:4']);
  expect(two.log).toEqual(['r0', 'w0:4']);
});

test('parts of an access that no device claims read as ones and are traced, the others are naturally aligned', () => {
  const bus = new RangeBus('pio');
  const [one, two] = [device(1), device(2)];
  bus.add(0x61n, 1n, one);
  bus.add(0x63n, 4n, two);
  const seen: unknown[] = [];
  const listen = (event: object) => seen.push(event);
  trace.unclaimed.subscribe(listen);
  const data = new Uint8Array(8);
  bus.read(0x60, data);
  bus.write(0x60, data);
  trace.unclaimed.unsubscribe(listen);
  expect([...data]).toEqual([255, 1, 255, 2, 2, 2, 2, 255]);
  expect(one.log).toEqual(['r0', 'w0:1']);
  expect(two.log).toEqual(['r0', 'r1', 'r3', 'w0:1', 'w1:2', 'w3:1']);
  expect(seen).toEqual(
    [false, true].flatMap((isWrite) =>
      [0x60, 0x62, 0x67].map((address) => ({ bus: 'pio', address, bytes: 1, isWrite })),
    ),
  );
});

test('an access across 4 GiB reaches what lies above it', () => {
  const bus = new RangeBus('mmio');
  const one = device(1);
  bus.add(0x1_0000_0000n, 4n, one);
  const data = new Uint8Array(8);
  bus.read(0xffff_fffc, data);
  expect([...data]).toEqual([255, 255, 255, 255, 1, 1, 1, 1]);
});

test('a device that a write removes does not get the rest of it', () => {
  const bus = new RangeBus('mmio');
  const two = device(2);
  const range = bus.add(4n, 4n, two);
  bus.add(0n, 4n, { name: 'remover', read() {}, write: () => range[Symbol.dispose]() });
  bus.write(0, new Uint8Array(8));
  expect(two.log).toEqual([]);
});

test('an overlap is refused with the names of both devices', () => {
  const bus = new RangeBus('mmio');
  bus.add(0x1000n, 0x1000n, device(1));
  expect(() => bus.add(0x1fffn, 2n, device(2))).toThrowError(
    'device 2 at mmio 0x1fff-0x2000 overlaps device 1',
  );
  expect(() => bus.add(0n, 0n, device(3))).toThrowError(RangeError);
});

test('accesses are counted by device, also of ranges that are gone', () => {
  const bus = new RangeBus('mmio');
  const range = bus.add(0n, 8n, device(1));
  bus.read(0, new Uint8Array(1));
  range[Symbol.dispose]();
  bus.add(64n, 8n, device(1));
  bus.read(64, new Uint8Array(1));
  expect(bus.accesses().get('device 1')).toBe(2);
});

test('any history of adding and removing finds what a list of ranges finds', () => {
  const ranges = fc.array(fc.tuple(fc.nat(200), fc.integer({ min: 1, max: 30 }), fc.boolean()), {
    maxLength: 40,
  });
  fc.assert(
    fc.property(ranges, (steps) => {
      const bus = new RangeBus('mmio');
      const model: { base: number; end: number; number: number; range: Disposable }[] = [];
      for (const [i, [base, bytes, isRemoval]] of steps.entries()) {
        if (isRemoval && model.length > 0) {
          model.splice(base % model.length, 1)[0]?.range[Symbol.dispose]();
          continue;
        }
        const overlaps = model.some((r) => base < r.end && r.base < base + bytes);
        const number = i % 250;
        if (overlaps)
          expect(() => bus.add(BigInt(base), BigInt(bytes), device(number))).toThrowError(RangeError);
        else {
          const range = bus.add(BigInt(base), BigInt(bytes), device(number));
          model.push({ base, end: base + bytes, number, range });
        }
        for (let address = 0; address < 240; address += 3) {
          const data = new Uint8Array(1);
          bus.read(address, data);
          const expected = model.find((r) => address >= r.base && address < r.end)?.number ?? 255;
          expect(data[0]).toBe(expected);
        }
      }
    }),
    { numRuns: 60 },
  );
});
