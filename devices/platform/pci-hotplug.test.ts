import { expect, test } from 'vitest';
import {
  ACPI_NOTIFY_EJECT_REQUEST,
  PCI_HOTPLUG_DOWN,
  PCI_HOTPLUG_EJECT,
  PCI_HOTPLUG_STATUS,
  PCI_HOTPLUG_UP,
  PciHotplug,
} from './pci-hotplug.js';

function machine() {
  const seen: string[] = [];
  const hotplug = new PciHotplug({
    raiseGpe: () => seen.push('GPE'),
    eject: (slot) => seen.push(`eject ${slot}`),
    report: (slot, event, status) => seen.push(`report ${slot} ${event} ${status}`),
  });
  const read = (offset: number, bytes = 4): number => {
    const data = new Uint8Array(4).fill(0xff);
    hotplug.read(offset, data.subarray(0, bytes));
    return new DataView(data.buffer).getUint32(0, true);
  };
  const write = (offset: number, value: number, bytes = 4) =>
    hotplug.write(offset, new Uint8Array(new Uint32Array([value]).buffer, 0, bytes));
  return { hotplug, seen, read, write };
}

test('each change raises one event and sets its bit, which reads as set once', () => {
  const { hotplug, seen, read } = machine();
  hotplug.announce(3);
  hotplug.announce(31);
  hotplug.requestUnplug(4);
  expect(seen).toEqual(['GPE', 'GPE', 'GPE']);
  expect(read(PCI_HOTPLUG_UP)).toBe(0x8000_0008);
  expect(read(PCI_HOTPLUG_DOWN)).toBe(0x10);
  expect([read(PCI_HOTPLUG_UP), read(PCI_HOTPLUG_DOWN)]).toEqual([0, 0]);
});

test('an eject reports each of its slots', () => {
  const { hotplug, seen, write, read } = machine();
  hotplug.requestUnplug(5);
  write(PCI_HOTPLUG_EJECT, (1 << 5) | (1 << 31) | 1);
  expect(seen).toEqual(['GPE', 'eject 5', 'eject 31']);
  expect(read(PCI_HOTPLUG_DOWN)).toBe(0);
});

test('accesses of other widths or offsets do nothing', () => {
  const { hotplug, seen, read, write } = machine();
  hotplug.announce(1);
  expect(read(PCI_HOTPLUG_UP, 1)).toBe(0xffff_ffff);
  expect(read(PCI_HOTPLUG_EJECT)).toBe(0xffff_ffff);
  expect(read(2)).toBe(0xffff_ffff);
  write(PCI_HOTPLUG_EJECT, 2, 1);
  write(PCI_HOTPLUG_UP, 2);
  expect(seen).toEqual(['GPE']);
  expect(read(PCI_HOTPLUG_UP)).toBe(2);
});

test('a request that the guest has not read can be withdrawn, and no other', () => {
  const { hotplug, read } = machine();
  hotplug.requestUnplug(5);
  hotplug.requestUnplug(6);
  expect([hotplug.withdrawUnplug(5), hotplug.withdrawUnplug(5)]).toEqual([true, false]);
  expect(read(PCI_HOTPLUG_DOWN)).toBe(1 << 6);
  expect(hotplug.withdrawUnplug(6)).toBe(false);
});

test('what the guest reports of a slot is passed on, and of a slot that cannot change it is not', () => {
  const { seen, write } = machine();
  const report = (slot: number, event: number, status: number) => slot | (event << 8) | (status << 24);
  write(PCI_HOTPLUG_STATUS, report(31, ACPI_NOTIFY_EJECT_REQUEST, 0x82));
  write(PCI_HOTPLUG_STATUS, report(4, 0x103, 0));
  for (const slot of [0, 32, 255]) write(PCI_HOTPLUG_STATUS, report(slot, ACPI_NOTIFY_EJECT_REQUEST, 0));
  expect(seen).toEqual(['report 31 3 130', 'report 4 259 0']);
});

test('the host bridge’s slot, and slots that do not exist, are rejected', () => {
  const { hotplug, seen } = machine();
  for (const slot of [0, 32, 1.5, -1]) {
    expect(() => hotplug.announce(slot)).toThrowError(RangeError);
    expect(() => hotplug.requestUnplug(slot)).toThrowError(RangeError);
    expect(() => hotplug.withdrawUnplug(slot)).toThrowError(RangeError);
  }
  expect(seen).toEqual([]);
});
