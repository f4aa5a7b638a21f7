import { expect, test } from 'vitest';
import { readPciInterrupts } from './pci-interrupts.js';

/** Configuration space with these bytes at these offsets. */
function config(bytes: number, at: Readonly<Record<number, readonly number[]>>): Uint8Array {
  const space = new Uint8Array(bytes);
  space.set([0x86, 0x80, 0xd3, 0x10], 0);
  for (const [offset, values] of Object.entries(at)) space.set(values, Number(offset));
  return space;
}

const HAS_LIST = { 6: [0x10], 52: [0x40] } as const;
const MSI_OF_8 = [0x05, 0x60, 0x86, 0x00];
const MSIX_OF_5 = [0x11, 0x00, 0x04, 0x80];

test('vectors are counted by the capabilities, and the pin is named', () => {
  const space = config(256, { ...HAS_LIST, 61: [1], 64: MSI_OF_8, 96: MSIX_OF_5 });
  expect(readPciInterrupts(space)).toEqual({ intx: 'A', msi: 8, msix: 5 });
});

test('2048 vectors are the most of MSI-X', () => {
  const space = config(256, { ...HAS_LIST, 64: [0x11, 0, 0xff, 0x07] });
  expect(readPciInterrupts(space)).toEqual({ intx: undefined, msi: 0, msix: 2048 });
});

test('an ordinary user, who sees 64 bytes, gets no number of vectors', () => {
  expect(readPciInterrupts(config(64, { ...HAS_LIST, 61: [4] }))).toEqual({
    intx: 'D',
    msi: 'unknown',
    msix: 'unknown',
  });
});

test('what was found before the readable part ends is known', () => {
  expect(readPciInterrupts(config(128, { ...HAS_LIST, 64: [0x05, 0x80, 0, 0] }))).toMatchObject({
    msi: 1,
    msix: 'unknown',
  });
});

test('a function without a list has neither, whoever reads', () => {
  expect(readPciInterrupts(config(64, { 52: [0x40] }))).toMatchObject({ msi: 0, msix: 0 });
});

test('a list that is a circle comes to an end', () => {
  expect(readPciInterrupts(config(256, { ...HAS_LIST, 64: [0x01, 0x40] }))).toMatchObject({
    msi: 0,
    msix: 0,
  });
});

test.each([
  ['does not answer', new Uint8Array(256).fill(0xff)],
  ['cannot be read', new Uint8Array()],
])('of a function that %s nothing is known', (_what, space) => {
  expect(readPciInterrupts(space)).toEqual({ intx: undefined, msi: 'unknown', msix: 'unknown' });
});

test('a pin that does not exist is none', () => {
  expect(readPciInterrupts(config(64, { 61: [9] })).intx).toBeUndefined();
});
