import { describe, expect, test } from 'vitest';
import {
  endOf,
  hiddenExtendedReason,
  hiddenReason,
  walkCapabilities,
  walkExtendedCapabilities,
} from './capabilities.js';

/** A configuration space of these registers, by offset: 2 or 4 bytes each. */
function space(registers: Readonly<Record<number, number>>) {
  const bytes = new DataView(new ArrayBuffer(4100));
  for (const [offset, value] of Object.entries(registers)) bytes.setUint32(Number(offset), value, true);
  return (offset: number, width: 1 | 2 | 4): number =>
    width === 1
      ? bytes.getUint8(offset)
      : width === 2
        ? bytes.getUint16(offset, true)
        : bytes.getUint32(offset, true);
}
const STATUS = 0x06;
const LIST = 0x34;
const HAS_LIST = 0x10;

describe('the capability list', () => {
  test.each([
    { name: 'no list', is: [], of: { [STATUS]: 0xffef, [LIST]: 0x40, 64: 0x0001 } },
    { name: 'an empty one', is: [], of: { [STATUS]: HAS_LIST } },
    { name: 'the first place', is: [0x40], of: { [STATUS]: HAS_LIST, [LIST]: 0x40, 64: 0x0001 } },
    { name: 'the last place', is: [0xfc], of: { [STATUS]: HAS_LIST, [LIST]: 0xfc, 252: 0x0001 } },
    { name: 'the header', is: [], of: { [STATUS]: HAS_LIST, [LIST]: 0x3c, 60: 0x0001 } },
    {
      name: 'low bits of pointers',
      is: [0x40, 0x50],
      of: { [STATUS]: HAS_LIST, [LIST]: 0x43, 64: 0x5301, 80: 0x0005 },
    },
    {
      name: 'backward pointers',
      is: [0x80, 0x40],
      of: { [STATUS]: HAS_LIST, [LIST]: 0x80, 128: 0x4001, 64: 0x0005 },
    },
    {
      name: 'a cycle',
      is: [0x40, 0x50],
      of: { [STATUS]: HAS_LIST, [LIST]: 0x40, 64: 0x5001, 80: 0x4005 },
    },
    {
      name: 'a device that is gone',
      is: [0x40],
      of: { [STATUS]: HAS_LIST, [LIST]: 0x40, 64: 0x5001, 80: 0xffff },
    },
    {
      name: 'an id of 0xff, which is not all-ones',
      is: [0x40],
      of: { [STATUS]: HAS_LIST, [LIST]: 0x40, 64: 0x00ff },
    },
  ])('$name', ({ of, is }) => {
    expect(walkCapabilities(space(of)).map(({ offset }) => offset)).toEqual(is);
  });

  test('an entry has its id', () => {
    const found = walkCapabilities(space({ [STATUS]: HAS_LIST, [LIST]: 0x40, 64: 0x1234_6011, 96: 0x0005 }));
    expect(found).toEqual([
      { id: 0x11, offset: 0x40, version: 0 },
      { id: 0x05, offset: 0x60, version: 0 },
    ]);
  });
});

describe('the extended capability list', () => {
  test.each([
    { name: 'none', is: [], of: {} },
    { name: 'a device that is gone', is: [], of: { 256: 0xffff_ffff } },
    { name: 'the last place', is: [0x100, 0xffc], of: { 256: 0xffc1_0001, 4092: 0x0001_0003 } },
    { name: 'low bits of pointers', is: [0x100, 0x140], of: { 256: 0x1431_0001, 320: 0x0001_0003 } },
    { name: 'a pointer into the first 256 bytes', is: [0x100], of: { 256: 0x0fc1_0001, 252: 0x0001_0003 } },
    { name: 'a pointer back to the start', is: [0x100, 0x140], of: { 256: 0x1401_0001, 320: 0x1001_0003 } },
    { name: 'an entry of 0 ends it', is: [0x100], of: { 256: 0x1401_0001 } },
    {
      name: 'a null entry with a next pointer',
      is: [0x100, 0x140],
      of: { 256: 0x1400_0000, 320: 0x0001_0003 },
    },
  ])('$name', ({ of, is }) => {
    expect(walkExtendedCapabilities(space(of)).map(({ offset }) => offset)).toEqual(is);
  });

  test('an entry has its id and version', () => {
    expect(walkExtendedCapabilities(space({ 256: 0x140f_8001, 320: 0x0001_0023 }))).toEqual([
      { id: 0x8001, offset: 0x100, version: 15 },
      { id: 0x23, offset: 0x140, version: 1 },
    ]);
  });
});

test('a capability ends where the next one begins, in whatever order the list has them', () => {
  const at = (offset: number) => ({ id: 1, offset, version: 0 });
  const all = [at(0x80), at(0x40), at(0x60)];
  expect(all.map((capability) => endOf(capability, all, 0x100))).toEqual([0x100, 0x60, 0x80]);
  expect(endOf(at(0x40), [at(0x40), at(0x200)], 0x100)).toBe(0x100);
});

test('only what means the same in a guest is visible', () => {
  const ids = Array.from({ length: 0x40 }, (_, id) => id);
  expect(ids.filter((id) => hiddenReason(id) !== undefined)).toEqual([0x14]);
  // AER, serial number, vendor-specific, designated vendor-specific
  expect(ids.filter((id) => hiddenExtendedReason(id) === undefined)).toEqual([0x01, 0x03, 0x0b, 0x23]);
  expect(hiddenExtendedReason(0x10)).toMatch(/SR-IOV/);
  expect(hiddenExtendedReason(0x2a)).toMatch(/0x2a/);
});
