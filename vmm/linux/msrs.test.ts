import { expect, test } from 'vitest';
import { firmwareLapic, firmwareMsrs, MSR_IA32_CR_PAT, MSR_MTRRdefType, physicalBits } from './msrs.js';

const valueOfMsr = (physBits: number, index: number) =>
  firmwareMsrs(physBits).find((msr) => msr.index === index)?.data;

test('memory is write-back, and the two device windows are uncached', () => {
  expect(valueOfMsr(46, MSR_MTRRdefType)).toBe(0xc06n);
  expect(valueOfMsr(46, 0x200)).toBe(0xc000_0000n);
  expect(valueOfMsr(46, 0x201)).toBe(0x3fff_c000_0800n);
  expect(valueOfMsr(46, 0x202)).toBe(0x40_0000_0000n);
  expect(valueOfMsr(46, 0x203)).toBe(0x3fc0_0000_0800n);
  expect(valueOfMsr(46, 0x250)).toBe(0x0606_0606_0606_0606n);
  expect(valueOfMsr(46, 0x259)).toBe(0n);
  expect(valueOfMsr(46, MSR_IA32_CR_PAT)).toBe(0x0007_0406_0007_0406n);
});

test('a processor whose addresses end below the upper window has no range for it', () => {
  expect(valueOfMsr(36, 0x201)).toBe(0xf_c000_0800n);
  expect(valueOfMsr(36, 0x202)).toBeUndefined();
  expect(valueOfMsr(39, 0x202)).toBe(0x40_0000_0000n);
});

test('every MSR is set once', () => {
  const indices = firmwareMsrs(46).map(({ index }) => index);
  expect(new Set(indices).size).toBe(indices.length);
});

test('the address width is the processor’s, or 36 bits', () => {
  const none = { index: 0, flags: 0, ebx: 0, ecx: 0, edx: 0, padding: [] };
  expect(physicalBits([{ ...none, function: 0x8000_0008, eax: 0x3030_2e }])).toBe(0x2e);
  expect(physicalBits([])).toBe(36);
});

test('LINT0 takes the PICs’ interrupts at the boot processor only, and the rest of the APIC is unchanged', () => {
  const before = Uint8Array.from({ length: 1024 }, (_, i) => i & 0xff);
  const words = (isBoot: boolean) => new Uint32Array(firmwareLapic(before, isBoot).buffer);
  expect([words(true)[0x350 / 4], words(true)[0x360 / 4]]).toEqual([0x700, 0x400]);
  expect([words(false)[0x350 / 4], words(false)[0x360 / 4]]).toEqual([0x1_0700, 0x400]);
  const after = firmwareLapic(before, true);
  const changed = [...after.keys()].filter((i) => after[i] !== before[i]);
  expect(changed.every((i) => (i >= 0x350 && i < 0x354) || (i >= 0x360 && i < 0x364))).toBe(true);
});
