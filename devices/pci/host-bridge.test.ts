import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { BusDevice, PciFunction } from '../contracts.js';
import { ConfigSpace } from './config-space.js';
import { PciHost, type PciSlot } from './host-bridge.js';

interface Recorded extends PciFunction {
  readonly space: ConfigSpace;
  readonly accesses: { offset: number; bytes: number }[];
}

function createFunction(name: string): Recorded {
  const space = new ConfigSpace(4096);
  for (let i = 0; i < 4096; i++) space.values[i] = (i * 7 + (i >> 8)) & 0x7f;
  space.allow(0x40, 4, 0xffffffff);
  space.values[0x0e] = 0;
  const accesses: { offset: number; bytes: number }[] = [];
  return {
    name,
    space,
    accesses,
    configRead(offset, bytes) {
      accesses.push({ offset, bytes });
      return space.read(offset, bytes);
    },
    configWrite(offset, bytes, value) {
      accesses.push({ offset, bytes });
      space.write(offset, bytes, value);
    },
    [Symbol.dispose]() {},
  };
}

const read = (device: BusDevice, offset: number, bytes: number): number[] => {
  const data = new Uint8Array(bytes).fill(0xff);
  device.read(offset, data);
  return [...data];
};
const little = (value: number): Uint8Array => new Uint8Array(new Uint32Array([value]).buffer);
const select = (host: PciHost, slot: PciSlot, register: number): void =>
  host.ports.write(0, little((0x80000000 | (slot.device << 11) | (slot.function << 8) | register) >>> 0));
const ecamOf = (slot: PciSlot, bus = 0): number => (bus << 20) | (slot.device << 15) | (slot.function << 12);

const third: PciSlot = { device: 3, function: 0 };

describe('PCI host', () => {
  test('the host bridge is at 00:00.0', () => {
    const host = PciHost.create();
    select(host, { device: 0, function: 0 }, 0);
    expect(read(host.ports, 4, 4)).toEqual([0x36, 0x1b, 0x08, 0x00]);
    select(host, { device: 0, function: 0 }, 8);
    expect(read(host.ports, 4, 4)).toEqual([0, 0, 0, 6]);
    expect([...host.entries()].map(({ function: { name } }) => name)).toEqual(['host bridge']);
  });

  test('mechanism #1 and ECAM read the same bytes, at any width and alignment', () => {
    const host = PciHost.create();
    const found = createFunction('nic');
    host.add(third, found);
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 63 }),
        fc.integer({ min: 0, max: 3 }),
        fc.constantFrom(1, 2, 4),
        (word, byte, bytes) => {
          const inside = Math.min(bytes, 4 - byte);
          select(host, third, word * 4);
          const expected = Array.from({ length: inside }, (_, i) => found.space.values[word * 4 + byte + i]);
          expect(read(host.ports, 4 + byte, bytes).slice(0, inside)).toEqual(expected);
          expect(read(host.ecam, ecamOf(third) + word * 4 + byte, bytes).slice(0, inside)).toEqual(expected);
        },
      ),
    );
    expect(
      found.accesses.every(({ offset, bytes }) => [1, 2, 4].includes(bytes) && offset % bytes === 0),
    ).toBe(true);
  });

  test('an 8-byte ECAM access becomes two of 4 bytes', () => {
    const host = PciHost.create();
    const found = createFunction('nic');
    host.add(third, found);
    expect(read(host.ecam, ecamOf(third) + 0x100, 8)).toEqual([...found.space.values.subarray(0x100, 0x108)]);
    host.ecam.write(ecamOf(third) + 0x40, new Uint8Array([1, 2, 3, 4, 5, 6, 7, 8]));
    expect(found.space.read(0x40, 4)).toBe(0x04030201);
    expect(found.accesses).toEqual([
      { offset: 0x100, bytes: 4 },
      { offset: 0x104, bytes: 4 },
      { offset: 0x40, bytes: 4 },
      { offset: 0x44, bytes: 4 },
    ]);
  });

  test('an ECAM access past the end of a function does not reach the next one', () => {
    const host = PciHost.create();
    const found = createFunction('nic');
    host.add(third, found);
    expect(read(host.ecam, ecamOf(third) + 0xffc, 8).slice(4)).toEqual([0xff, 0xff, 0xff, 0xff]);
    host.ecam.write(ecamOf(third) + 0xffe, new Uint8Array(4));
    expect(found.accesses.every(({ offset, bytes }) => offset + bytes <= 4096)).toBe(true);
  });

  test('empty slots, other buses and a disabled address read all-ones and ignore writes', () => {
    const host = PciHost.create();
    const found = createFunction('nic');
    host.add(third, found);
    const ones = [0xff, 0xff, 0xff, 0xff];
    expect(read(host.ecam, ecamOf({ device: 4, function: 0 }), 4)).toEqual(ones);
    expect(read(host.ecam, ecamOf(third, 1), 4)).toEqual(ones);
    host.ports.write(0, little(0x80010000 | (3 << 11)));
    expect(read(host.ports, 4, 4)).toEqual(ones);
    host.ports.write(0, little((3 << 11) | 0x40));
    expect(read(host.ports, 4, 4)).toEqual(ones);
    host.ports.write(4, little(0));
    expect(found.accesses).toEqual([]);
  });

  test('only a 4-byte write changes CONFIG_ADDRESS', () => {
    const host = PciHost.create();
    host.ports.write(0, little(0xffffffff));
    expect(read(host.ports, 0, 4)).toEqual([0xfc, 0xff, 0xff, 0x80]);
    host.ports.write(0, new Uint8Array([0]));
    host.ports.write(0, new Uint8Array([0, 0]));
    host.ports.write(1, new Uint8Array([0]));
    host.ports.write(3, new Uint8Array([1]));
    expect(read(host.ports, 0, 4)).toEqual([0xfc, 0xff, 0xff, 0x80]);
    expect(read(host.ports, 0, 2)).toEqual([0xff, 0xff]);
  });

  test('an access across CONFIG_ADDRESS and CONFIG_DATA reaches the data with its upper part', () => {
    const host = PciHost.create();
    const found = createFunction('nic');
    host.add(third, found);
    host.ports.write(0, little((0x80000000 | (third.device << 11) | (third.function << 8) | 0x40) >>> 0));
    host.ports.write(2, Uint8Array.of(1, 2, 3, 4));
    expect(read(host.ports, 4, 4)).toEqual([3, 4, ...read(host.ecam, ecamOf(third) + 0x42, 2)]);
    expect(read(host.ports, 2, 4)).toEqual([0xff, 0xff, 3, 4]);
    expect(read(host.ports, 0, 8).slice(0, 4)).toEqual(read(host.ports, 0, 4));
  });

  test('writing 6 to port 0xCF9 requests one reset', () => {
    let resets = 0;
    const host = PciHost.create({ reset: () => resets++ });
    host.ports.write(1, new Uint8Array([0x02]));
    expect(resets).toBe(0);
    host.ports.write(1, new Uint8Array([0x06]));
    host.ports.write(1, new Uint8Array([0x06]));
    expect(resets).toBe(1);
    expect(read(host.ports, 1, 1)).toEqual([0x06]);
  });

  test('function 0 has the multi-function bit exactly while other functions exist', () => {
    const host = PciHost.create();
    host.add(third, createFunction('nic'));
    const headerType = (): number => read(host.ecam, ecamOf(third) + 0x0e, 1)[0] as number;
    expect(headerType()).toBe(0);
    const other = host.add({ device: 3, function: 5 }, createFunction('other'));
    expect(headerType()).toBe(0x80);
    expect(read(host.ecam, ecamOf(third) + 0x0c, 4)[2]).toBe(0x80);
    other[Symbol.dispose]();
    expect(headerType()).toBe(0);
  });

  test('a guest that has selected a register goes on with another host that its state was loaded into', () => {
    fc.assert(
      fc.property(fc.nat(0xffffffff), fc.nat(0xff), fc.nat(0xffff), (address, control, command) => {
        const [one, other] = [PciHost.create(), PciHost.create()];
        one.ports.write(0, little(address));
        one.ports.write(1, Uint8Array.of(control));
        one.ecam.write(0x04, Uint8Array.of(command & 0xff, command >> 8));
        expect(other.load(one.save())).toBe(true);
        const seen = (host: PciHost) => [
          ...[0, 4].map((port) => read(host.ports, port, 4)),
          read(host.ports, 1, 1),
          read(host.ecam, 0x04, 2),
        ];
        expect(seen(other)).toEqual(seen(one));
        expect(other.save()).toEqual(one.save());
      }),
    );
  });

  test('what is no state of a host is not loaded, and bits that it lacks are ignored', () => {
    const host = PciHost.create();
    expect(host.load(new Uint8Array(6))).toBe(false);
    expect(host.load(new Uint8Array(7).fill(0xff))).toBe(true);
    expect(read(host.ports, 0, 4)).toEqual([0xfc, 0xff, 0xff, 0x80]);
    expect(read(host.ecam, 0x04, 2)).toEqual([6, 0]);
  });

  test('without function 0, the others are invisible', () => {
    const host = PciHost.create();
    const slot = { device: 3, function: 1 };
    host.add(slot, createFunction('other'));
    expect(read(host.ecam, ecamOf(slot), 1)).toEqual([0xff]);
    host.add(third, createFunction('nic'));
    expect(read(host.ecam, ecamOf(slot) + 1, 1)).toEqual([7]);
  });

  test('a slot must exist, and holds one function', () => {
    const host = PciHost.create();
    const added = host.add(third, createFunction('nic'));
    expect(() => host.add(third, createFunction('gpu'))).toThrow('gpu: PCI slot 00:03.0 is taken by nic');
    expect(() => host.add({ device: 32, function: 0 }, createFunction('x'))).toThrow(RangeError);
    expect(() => host.add({ device: 1, function: 8 }, createFunction('x'))).toThrow(RangeError);
    added[Symbol.dispose]();
    host.add(third, createFunction('gpu'));
  });
});

test('reserved functions come and go, make no device one of several functions, and are nobody else’s', () => {
  const host = PciHost.create();
  const headerType = () => read(host.ecam, (3 << 15) + 0x0e, 1)[0];
  host.add({ device: 3, function: 0 }, createFunction('physical'));
  const reserved = host.reserve({ device: 3, function: 1 }, 2, 'physical');
  const shown = reserved.add(1, createFunction('VF'));
  expect(headerType()).toBe(0);
  expect(read(host.ecam, (3 << 15) + (2 << 12) + 2, 1)).toEqual([14]);
  expect(() => host.add({ device: 3, function: 1 }, createFunction('other'))).toThrowError(
    /00:03\.1: EBUSY\n.*virtual functions of physical/,
  );
  expect(() => host.reserve({ device: 3, function: 2 }, 1, 'other')).toThrowError(/00:03\.2: EBUSY\n.*by VF/);
  expect(() => host.reserve({ device: 3, function: 3 }, 6, 'other')).toThrowError(
    /EINVAL\n.*5 are left for its 6/,
  );
  expect(() => reserved.add(2, createFunction('third'))).toThrowError(/no place 2/);
  shown[Symbol.dispose]();
  expect(read(host.ecam, (3 << 15) + (2 << 12) + 2, 1)).toEqual([0xff]);
  reserved[Symbol.dispose]();
  host.add({ device: 3, function: 1 }, createFunction('other'));
  expect(headerType()).toBe(0x80);
});
