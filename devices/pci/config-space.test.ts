import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { allOnes, ConfigSpace } from './config-space.js';
import { PCI_CAPABILITY_LIST, PCI_STATUS, PCI_STATUS_CAP_LIST } from './pci-regs.js';

const byte = fc.integer({ min: 0, max: 0xff });
const access = fc.record({
  offset: fc.integer({ min: 0, max: 260 }),
  bytes: fc.constantFrom(1, 2, 4),
  value: fc.integer({ min: 0, max: 0xffffffff }),
});

describe('ConfigSpace', () => {
  test('a write changes exactly the writable bits, clears exactly the clearable ones, and touches no other byte', () => {
    const register = fc.record({ value: byte, writable: byte, clearable: byte });
    fc.assert(
      fc.property(
        fc.array(register, { minLength: 256, maxLength: 256 }),
        fc.array(access, { maxLength: 20 }),
        (registers, writes) => {
          const space = new ConfigSpace();
          for (const [at, { value, writable, clearable }] of registers.entries()) {
            space.set(at, 1, value);
            space.allow(at, 1, writable & ~clearable, clearable);
          }
          const model = registers.map(({ value }) => value);
          for (const { offset, bytes, value } of writes) {
            const before = [...model];
            for (let bit = 0; bit < 8 * bytes; bit++) {
              const at = offset + (bit >> 3);
              if (at > 255) continue;
              const mask = 1 << (bit & 7);
              const isSet = ((value >>> bit) & 1) === 1;
              const { writable, clearable } = registers[at] as (typeof registers)[number];
              if ((clearable & mask) !== 0) model[at] = (model[at] as number) & (isSet ? ~mask : ~0);
              else if ((writable & mask) !== 0)
                model[at] = isSet ? (model[at] as number) | mask : (model[at] as number) & ~mask;
            }
            const isChanged = before.some((old, at) => old !== model[at]);
            expect(space.write(offset, bytes, value)).toBe(isChanged);
            expect([...space.values]).toEqual(model);
          }
        },
      ),
      { numRuns: 50 },
    );
  });

  test('reads are little-endian, and return all-ones outside the space', () => {
    fc.assert(
      fc.property(access, fc.uint8Array({ minLength: 256, maxLength: 256 }), ({ offset, bytes }, values) => {
        const space = new ConfigSpace();
        space.values.set(values);
        const expected = Array.from({ length: bytes }, (_, i) => values[offset + i] ?? 0xff);
        const value = space.read(offset, bytes);
        expect(Array.from({ length: bytes }, (_, i) => (value >>> (8 * i)) & 0xff)).toEqual(expected);
        expect(value).toBeLessThanOrEqual(allOnes(bytes));
        const data = new Uint8Array(bytes);
        space.readBytes(offset, data);
        expect([...data]).toEqual(expected);
      }),
    );
  });

  test('capabilities are linked in the order they were added, from the pointer in the header', () => {
    const space = new ConfigSpace();
    expect(space.read(PCI_STATUS, 2) & PCI_STATUS_CAP_LIST).toBe(0);
    const first = space.addCapability(0x05, new Uint8Array(12));
    const second = space.addCapability(0x11, new Uint8Array(9).fill(7));
    const third = space.addCapability(0x09, new Uint8Array([5, 1, 2]), 0x80);
    const fourth = space.addCapability(0x01, new Uint8Array(6));
    expect([first, second, third, fourth]).toEqual([0x40, 0x50, 0x80, 0x88]);
    expect(space.read(PCI_STATUS, 2) & PCI_STATUS_CAP_LIST).not.toBe(0);
    const ids: number[] = [];
    for (let at = space.read(PCI_CAPABILITY_LIST, 1); at !== 0; at = space.read(at + 1, 1)) {
      ids.push(space.read(at, 1));
    }
    expect(ids).toEqual([0x05, 0x11, 0x09, 0x01]);
  });

  test('a capability that does not fit is rejected', () => {
    const space = new ConfigSpace();
    space.addCapability(0x09, new Uint8Array(150));
    expect(() => space.addCapability(0x09, new Uint8Array(150))).toThrow(RangeError);
    expect(() => space.addCapability(0x09, new Uint8Array(2), 0x41)).toThrow(RangeError);
    expect(() => space.addExtendedCapability(1, 1, new Uint8Array(4))).toThrow(RangeError);
    expect(() => space.set(0xff, 2, 0)).toThrow(RangeError);
  });

  test('extended capabilities start at 0x100 and keep their versions', () => {
    const space = new ConfigSpace(4096);
    space.addExtendedCapability(0x01, 2, new Uint8Array(68));
    space.addExtendedCapability(0x03, 1, new Uint8Array(8));
    expect(space.read(0x100, 4)).toBe(0x14820001);
    expect(space.read(0x148, 4)).toBe(0x00010003);
  });

  test('writeBytes obeys the masks as write does', () => {
    const space = new ConfigSpace();
    space.allow(4, 2, 0x0007);
    space.writeBytes(3, new Uint8Array([0xff, 0xff, 0xff, 0xff]));
    expect([...space.values.subarray(3, 7)]).toEqual([0, 7, 0, 0]);
  });
});
