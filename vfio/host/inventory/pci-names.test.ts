import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { PciNames } from './pci-names.js';

const SOURCE = `# a comment
8086  Intel Corporation
\t10d3  82574L Gigabit Network Connection
\t\t103c 1497  ProLiant card
\t1533  I210
10de  NVIDIA Corporation
\t10d3  another 10d3

C 0c  Serial bus controller
\t03  USB controller
\t\t30  XHCI
S 8086  not a vendor
\t10d3  not a device
`;

test('vendors, devices and cards have the names of their own lines', () => {
  const names = new PciNames(SOURCE);
  expect(names.vendor('8086')).toBe('Intel Corporation');
  expect(names.device('8086', '10d3')).toBe('82574L Gigabit Network Connection');
  expect(names.device('10de', '10d3')).toBe('another 10d3');
  expect(names.subsystem('8086', '10d3', '103c', '1497')).toBe('ProLiant card');
  expect(names.subsystem('8086', '1533', '103c', '1497')).toBeUndefined();
  expect(names.device('8086', 'ffff')).toBeUndefined();
  expect(names.vendor('ffff')).toBeUndefined();
});

test.each([
  ['0c0330', 'USB controller (XHCI)'],
  ['0c0300', 'USB controller'],
  ['0c9900', 'Serial bus controller'],
  ['020000', undefined],
])('class %s is %s', (id, name) => {
  expect(new PciNames(SOURCE).class(id)).toBe(name);
});

test('the first file that exists counts, and without one nothing has a name', () => {
  const folder = mkdtempSync(join(tmpdir(), 'pci-ids-'));
  try {
    const path = join(folder, 'pci.ids');
    writeFileSync(path, SOURCE);
    expect(PciNames.load([join(folder, 'none'), path]).vendor('10de')).toBe('NVIDIA Corporation');
    expect(PciNames.load([join(folder, 'none')]).vendor('10de')).toBeUndefined();
  } finally {
    rmSync(folder, { recursive: true });
  }
});
