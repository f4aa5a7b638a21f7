import { expect, test } from 'vitest';
import {
  ACPI_RESET_VALUE,
  AcpiPm,
  PM_GPE0_BLOCK,
  PM_RESET,
  PM_TIMER,
  PM1_CONTROL,
  PM1_EVENT,
} from './acpi-pm.js';

function machine() {
  const seen: string[] = [];
  let now = 0n;
  const pm = new AcpiPm({
    nowNs: () => now,
    raiseSci: (level) => seen.push(level ? 'SCI up' : 'SCI down'),
    powerOff: () => seen.push('off'),
    reset: () => seen.push('reset'),
  });
  return {
    pm,
    seen,
    pass: (ns: bigint) => {
      now += ns;
    },
    in: (offset: number, bytes: 1 | 2 | 4): number => {
      const data = new Uint8Array(4);
      pm.read(offset, data.subarray(0, bytes));
      return new DataView(data.buffer).getUint32(0, true);
    },
    out: (offset: number, bytes: 1 | 2 | 4, value: number) =>
      pm.write(offset, new Uint8Array(new Uint32Array([value]).buffer, 0, bytes)),
  };
}

const PM1_ENABLE = PM1_EVENT + 2;
const PWRBTN = 1 << 8;
const SLP_EN = 1 << 13;
const SECOND = 1_000_000_000n;

test('the timer counts 3579545 times a second, and wraps after 32 bits', () => {
  const { in: read, pass } = machine();
  expect(read(PM_TIMER, 4)).toBe(0);
  pass(SECOND);
  expect(read(PM_TIMER, 4)).toBe(3_579_545);
  pass(1199n * SECOND);
  expect(read(PM_TIMER, 4)).toBe((1200 * 3_579_545) % 2 ** 32);
});

test('each change of the timer’s highest bit sets its status, until the guest clears it', () => {
  const { in: read, out, pass } = machine();
  expect(read(PM1_EVENT, 2) & 1).toBe(0);
  pass(600n * SECOND); // 2^31 counts take 599.9 s
  expect(read(PM1_EVENT, 2) & 1).toBe(1);
  out(PM1_EVENT, 2, 1);
  expect(read(PM1_EVENT, 2) & 1).toBe(0);
  pass(600n * SECOND);
  expect(read(PM1_EVENT, 2) & 1).toBe(1);
});

test('the power button raises the SCI, if enabled, until the guest clears the event', () => {
  const { pm, in: read, out, seen } = machine();
  pm.pressPowerButton();
  expect(seen).toEqual([]);
  out(PM1_ENABLE, 2, PWRBTN);
  expect(seen).toEqual(['SCI up']);
  expect(read(PM1_EVENT, 2)).toBe(PWRBTN);
  expect(read(PM1_ENABLE, 2)).toBe(PWRBTN);
  out(PM1_EVENT, 2, 0); // writing zeros clears nothing
  expect(seen).toEqual(['SCI up']);
  out(PM1_EVENT, 2, PWRBTN);
  expect(seen).toEqual(['SCI up', 'SCI down']);
  expect(read(PM1_EVENT, 2)).toBe(0);
});

test('SLP_EN powers off only with the type of S5, in one 2-byte write or two 1-byte writes', () => {
  const { out, seen } = machine();
  out(PM1_CONTROL, 2, SLP_EN | (1 << 10));
  out(PM1_CONTROL, 2, 5 << 10);
  expect(seen).toEqual([]);
  out(PM1_CONTROL, 2, SLP_EN | (5 << 10));
  expect(seen).toEqual(['off']);
  out(PM1_CONTROL + 1, 1, (SLP_EN | (5 << 10)) >> 8);
  expect(seen).toEqual(['off', 'off']);
});

test('the machine is in ACPI mode, whatever the guest writes, and SLP_EN reads as 0', () => {
  const { in: read, out } = machine();
  expect(read(PM1_CONTROL, 2)).toBe(1);
  out(PM1_CONTROL, 2, 0xffff & ~SLP_EN);
  expect(read(PM1_CONTROL, 2)).toBe(1 | 2 | (7 << 10));
});

test('only the reset value resets', () => {
  const { out, seen } = machine();
  out(PM_RESET, 1, 0xff);
  out(PM_RESET, 1, ACPI_RESET_VALUE);
  expect(seen).toEqual(['reset']);
});

test('a general-purpose event shares the SCI with the power button', () => {
  const { pm, in: read, out, seen } = machine();
  out(PM_GPE0_BLOCK + 2, 2, 1 << 9);
  pm.raiseGpe(1);
  expect(seen).toEqual([]);
  pm.raiseGpe(9);
  expect(read(PM_GPE0_BLOCK, 2)).toBe((1 << 9) | (1 << 1));
  out(PM1_ENABLE, 2, PWRBTN);
  pm.pressPowerButton();
  expect(seen).toEqual(['SCI up']);
  out(PM_GPE0_BLOCK + 1, 1, 1 << 1);
  expect(seen).toEqual(['SCI up']);
  out(PM1_EVENT + 1, 1, PWRBTN >> 8);
  expect(seen).toEqual(['SCI up', 'SCI down']);
});

test('ports without a register read all-ones and ignore writes', () => {
  const { in: read, out, seen } = machine();
  out(0x06, 2, 0xffff);
  out(PM_TIMER, 4, 0);
  expect(read(0x06, 2)).toBe(0xffff);
  expect(read(0x1c, 4)).toBe(0xffffffff);
  expect(seen).toEqual([]);
});
