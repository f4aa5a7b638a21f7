import { expect, test } from 'vitest';
import * as layout from '../layout.js';
import { intxGsi } from './acpi/dsdt.js';
import { checksum } from './acpi/tables.js';
import * as mp from './mp-table.js';

const BASE = 0xf_0000n;
const build = (vcpus: number) =>
  mp.buildMpTable({ base: BASE, vcpus, buses: 2, intxGsis: layout.PCI_INTX_GSIS });

/** Entries by their types. */
const LAYOUTS = {
  [mp.MP_PROCESSOR]: mp.MpcCpu,
  [mp.MP_BUS]: mp.MpcBus,
  [mp.MP_IOAPIC]: mp.MpcIoapic,
  [mp.MP_INTSRC]: mp.MpcIntsrc,
  [mp.MP_LINTSRC]: mp.MpcLintsrc,
} as const;

/** Reads as Linux does: the pointer, the table, and entries by their types until the table ends. */
function read(bytes: Uint8Array) {
  const pointer = mp.MpfIntel.decode(bytes);
  const table = bytes.subarray(pointer.physptr - Number(BASE));
  const header = mp.MpcTable.decode(table);
  const places: { readonly type: number; readonly at: number }[] = [];
  let at = mp.MpcTable.size;
  while (at < header.length) {
    const type = table[at] as keyof typeof LAYOUTS;
    if (LAYOUTS[type] === undefined) throw new Error(`entry of type ${type} at ${at}`);
    places.push({ type, at });
    at += LAYOUTS[type].size;
  }
  expect(at).toBe(header.length);
  expect(header.oemcount).toBe(places.length);
  const all = <T>(type: number, { decode }: { decode(bytes: Uint8Array, offset: number): T }): T[] =>
    places.filter((place) => place.type === type).map((place) => decode(table, place.at));
  return {
    pointer,
    header,
    table: table.subarray(0, header.length),
    cpus: all(mp.MP_PROCESSOR, mp.MpcCpu),
    buses: all(mp.MP_BUS, mp.MpcBus),
    ioapics: all(mp.MP_IOAPIC, mp.MpcIoapic),
    interrupts: all(mp.MP_INTSRC, mp.MpcIntsrc),
    lints: all(mp.MP_LINTSRC, mp.MpcLintsrc),
  };
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
