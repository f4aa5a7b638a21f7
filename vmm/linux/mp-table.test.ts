import { expect, test } from 'vitest';
import * as layout from '../layout.js';
import { intxGsi } from './acpi/dsdt.js';
import { checksum } from './acpi/tables.js';
import * as mp from './mp-table.js';

const BASE = 0xf_0000n;
const build = (vcpus: number) =>
  mp.buildMpTable({ base: BASE, vcpus, buses: 2, intxGsis: layout.PCI_INTX_GSIS });

/** Reads as Linux does: the pointer, the table, and entries by their types until the table ends. */
function read(bytes: Uint8Array) {
  const pointer = mp.MpfIntel.decode(bytes);
  const table = bytes.subarray(pointer.physptr - Number(BASE));
  const header = mp.MpcTable.decode(table);
  const found = {
    cpus: [] as ReturnType<typeof mp.MpcCpu.decode>[],
    buses: [] as ReturnType<typeof mp.MpcBus.decode>[],
    ioapics: [] as ReturnType<typeof mp.MpcIoapic.decode>[],
    interrupts: [] as ReturnType<typeof mp.MpcIntsrc.decode>[],
    lints: [] as ReturnType<typeof mp.MpcLintsrc.decode>[],
  };
  let at = mp.MpcTable.size;
  let count = 0;
  for (; at < header.length; count++) {
    switch (table[at]) {
      case mp.MP_PROCESSOR:
        found.cpus.push(mp.MpcCpu.decode(table, at));
        at += mp.MpcCpu.size;
        break;
      case mp.MP_BUS:
        found.buses.push(mp.MpcBus.decode(table, at));
        at += mp.MpcBus.size;
        break;
      case mp.MP_IOAPIC:
        found.ioapics.push(mp.MpcIoapic.decode(table, at));
        at += mp.MpcIoapic.size;
        break;
      case mp.MP_INTSRC:
        found.interrupts.push(mp.MpcIntsrc.decode(table, at));
        at += mp.MpcIntsrc.size;
        break;
      case mp.MP_LINTSRC:
        found.lints.push(mp.MpcLintsrc.decode(table, at));
        at += mp.MpcLintsrc.size;
        break;
      default:
        throw new Error(`entry of type ${table[at]} at ${at}`);
    }
  }
  expect(at).toBe(header.length);
  expect(header.oemcount).toBe(count);
  return { pointer, header, table: table.subarray(0, header.length), ...found };
}

test('structures have the lengths of the specification', () => {
  expect(
    [mp.MpfIntel, mp.MpcTable, mp.MpcCpu, mp.MpcBus, mp.MpcIoapic, mp.MpcIntsrc, mp.MpcLintsrc].map(
      ({ size }) => size,
    ),
  ).toEqual([16, 44, 20, 8, 8, 8, 8]);
});

test('pointer and table are found and have right checksums', () => {
  const bytes = build(3);
  const { pointer, header, table } = read(bytes);
  expect(Buffer.from(pointer.signature).toString()).toBe('_MP_');
  expect(Buffer.from(header.signature).toString()).toBe('PCMP');
  expect([pointer.length, pointer.specification, header.spec, header.lapic]).toEqual([1, 4, 4, 0xfee0_0000]);
  expect([checksum(bytes.subarray(0, 16)), checksum(table)]).toEqual([0, 0]);
});

test('there is an entry per processor, and the first one boots', () => {
  const { cpus } = read(build(64));
  expect(cpus.map(({ apicid }) => apicid)).toEqual(Array.from({ length: 64 }, (_, i) => i));
  expect(cpus.map(({ cpuflag }) => cpuflag)).toEqual([3, ...Array<number>(63).fill(1)]);
});

test('ISA interrupts are those of the MADT: the timer at pin 2, no cascade, a level-triggered SCI', () => {
  const { interrupts, buses, ioapics } = read(build(1));
  expect(buses.map(({ busid, bustype }) => [busid, Buffer.from(bustype).toString()])).toEqual([
    [0, 'PCI   '],
    [1, 'PCI   '],
    [2, 'ISA   '],
  ]);
  expect(ioapics).toMatchObject([{ apicid: 0, flags: 1, apicaddr: 0xfec0_0000 }]);
  const isa = interrupts.filter(({ srcbus }) => srcbus === 2);
  expect(isa.map(({ srcbusirq, dstirq }) => [srcbusirq, dstirq])).toEqual(
    [0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15].map((irq) => [irq, irq === 0 ? 2 : irq]),
  );
  expect(isa.filter(({ irqflag }) => irqflag !== 0)).toMatchObject([{ srcbusirq: 9, irqflag: 0x0d }]);
});

test('each PCI slot and pin has the interrupt of _PRT', () => {
  const { interrupts } = read(build(1));
  const pci = interrupts.filter(({ srcbus }) => srcbus === 0);
  expect(pci.map(({ srcbusirq, dstirq, irqflag }) => [srcbusirq, dstirq, irqflag])).toEqual(
    Array.from({ length: 128 }, (_, i) => [i, intxGsi(layout.PCI_INTX_GSIS, i >> 2, (i & 3) + 1), 0]),
  );
});

test('LINT0 is ExtINT on the boot processor, LINT1 the NMI on all', () => {
  expect(
    read(build(2)).lints.map(({ irqtype, destapic, destapiclint }) => [irqtype, destapic, destapiclint]),
  ).toEqual([
    [3, 0, 0],
    [1, 0xff, 1],
  ]);
});
