import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { signalEventfd } from '../../sys/eventfd.js';
import { Fd } from '../../sys/fd.js';
import {
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_ACTION_UNMASK,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
  VFIO_PCI_INTX_IRQ_INDEX,
  VFIO_PCI_MSI_IRQ_INDEX,
  VFIO_PCI_ROM_REGION_INDEX,
} from '../../vfio/uapi.js';
import { PCI_CAP_ID_AF, PCI_CAP_ID_EXP, PCI_CAP_ID_MSI, PCI_CAP_ID_PM } from '../pci/pci-regs.js';
import { hasLspci, lspci } from '../pci/testing/lspci.js';
import { taken } from '../virtio-net/testing/workbench.js';
import {
  CARD_ID,
  DOORBELL_AT,
  MSIX_PBA_AT,
  MSIX_TABLE_AT,
  PORT_BAR,
  RAM_BAR,
  REG_DOORBELL_VECTOR,
  REG_DOORBELLS,
  REG_ID,
  REG_INTERRUPTS,
  REG_PIN,
  REG_RAISE,
  REG_SCRATCH,
  REGISTER_BAR,
  SMALL_BAR,
} from './spec.js';
import { CardBench } from './testing/card-bench.js';

const TRIGGER_EVENTFD = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
const ALL_ONES = 0xffff_ffff;
const [COMMAND, MASTER, MEMORY, INTX_DISABLE] = [4, 4, 2, 0x400];

/** Configuration space with addresses as a guest's firmware gives them. */
const space = (bench: CardBench): Uint8Array => {
  for (const [at, address] of [
    [0x10, 0xe000_0000],
    [0x14, 0xc000],
    [0x18, 0xf000_0000],
    [0x1c, 1],
    [0x20, 0xe001_0000],
    [0x30, 0xe002_0001],
  ] as const)
    bench.setConfig(at, 4, address);
  const bytes = new Uint8Array(bench.ops.getRegionInfo(7).size);
  bench.ops.read(7, 0, bytes);
  return bytes;
};

test.skipIf(!hasLspci)(
  `lspci decodes the card as the golden file says${hasLspci ? '' : ' (skipped: needs pciutils)'}`,
  () => {
    using bench = new CardBench();
    const golden = new URL('./testing/lspci.golden', import.meta.url);
    expect(lspci(space(bench))).toBe(readFileSync(golden, 'utf8'));
  },
);

test('its BARs are of every kind: memory of 32 and 64 bits, ports, one smaller than a page, and a ROM', () => {
  using bench = new CardBench({ ram: '64K', rom: '3K' });
  const infos = Array.from({ length: 7 }, (_, i) => bench.ops.getRegionInfo(i));
  expect(infos.map(({ size }) => size)).toEqual([0x1_0000, 0x20, 0x1_0000, 0, 0x100, 0, 0x1000]);
  for (const bar of [0, 1, 2, 3, 4, 5]) bench.setConfig(0x10 + 4 * bar, 4, ALL_ONES);
  expect([0, 1, 2, 3, 4, 5].map((bar) => bench.config(0x10 + 4 * bar, 4))).toEqual([
    0xffff_0000, 0xffff_ffe1, 0xffff_000c, 0xffff_ffff, 0xffff_ff00, 0,
  ]);
  expect(bench.read(VFIO_PCI_ROM_REGION_INDEX, 0, 2)).toBe(0xaa55);
  expect(bench.read(PORT_BAR, REG_ID, 4)).toBe(CARD_ID);
  bench.write(SMALL_BAR, 0xff, 1, 7);
  expect(bench.read(SMALL_BAR, 0xfc, 4)).toBe(0x0700_0000);
});

test('BAR 2 and the pages of BAR 0 without registers are mapped; what is written there is read by the other way', () => {
  using bench = new CardBench({ vectors: '2048' });
  const [registers, ram] = [REGISTER_BAR, RAM_BAR].map((index) => bench.ops.getRegionInfo(index));
  expect(ram?.capabilities).toEqual([]);
  expect(registers?.capabilities).toEqual([{ id: 1, areas: [{ offset: 0xa000, size: 0x6000 }] }]);
  using mapping = bench.ops.mmap?.(REGISTER_BAR, 0xa000, 0x1000);
  bench.write(REGISTER_BAR, 0xa010, 4, 0x1234_5678);
  expect([...(mapping?.view.slice(0x10, 4) ?? [])]).toEqual([0x78, 0x56, 0x34, 0x12]);
});

test('the pin interrupts when messages are off, is masked by that, and again until it is deasserted', () => {
  using bench = new CardBench();
  using line = Fd.eventfd();
  using unmask = Fd.eventfd();
  const set = (action: number, fd: number) => {
    const flags = VFIO_IRQ_SET_DATA_EVENTFD | action;
    bench.ops.setIrqs({ index: VFIO_PCI_INTX_IRQ_INDEX, flags, start: 0, count: 1, data: [fd] });
  };
  set(VFIO_IRQ_SET_ACTION_TRIGGER, line.number);
  set(VFIO_IRQ_SET_ACTION_UNMASK, unmask.number);
  bench.out(REG_RAISE, 3);
  bench.out(REG_RAISE, 3);
  expect(taken(line)).toBe(1);
  expect([bench.in(REG_PIN), bench.config(6, 2) & 8]).toEqual([1, 8]);
  signalEventfd(unmask.number);
  bench.thread.pump();
  expect(taken(line)).toBe(1);
  bench.out(REG_PIN, 0);
  signalEventfd(unmask.number);
  bench.thread.pump();
  expect(taken(line)).toBe(0);
  bench.setConfig(COMMAND, 2, MEMORY | MASTER | INTX_DISABLE);
  bench.out(REG_RAISE, 0);
  expect(taken(line)).toBe(0);
  bench.setConfig(COMMAND, 2, MEMORY | MASTER);
  expect(taken(line)).toBe(1);
});

test('MSI-X interrupts by vector; without bus mastering a message waits, which the pending bits show', () => {
  using bench = new CardBench({ vectors: '64' });
  const fds = bench.enable(64);
  bench.out(REG_RAISE, 40);
  bench.out(REG_RAISE, 64);
  expect(fds.map(taken).indexOf(1)).toBe(40);
  bench.setConfig(COMMAND, 2, MEMORY);
  bench.out(REG_RAISE, 40);
  expect(taken(fds[40] as Fd)).toBe(0);
  expect(bench.read(REGISTER_BAR, MSIX_PBA_AT, 4)).toBe(0);
  expect(bench.read(REGISTER_BAR, MSIX_PBA_AT + 5, 1)).toBe(1);
  bench.setConfig(COMMAND, 2, MEMORY | MASTER);
  expect(taken(fds[40] as Fd)).toBe(1);
  expect(bench.in(REG_INTERRUPTS)).toBe(2);
  expect(bench.read(REGISTER_BAR, MSIX_TABLE_AT, 4)).toBe(ALL_ONES);
  expect(bench.instance.vectorCounts()).toHaveLength(41);
});

test('MSI has the mask bits of its capability, and shows there what they keep', () => {
  using bench = new CardBench({ msi: '32' });
  const fds = bench.enable(32, VFIO_PCI_MSI_IRQ_INDEX);
  const msi = bench.capability(PCI_CAP_ID_MSI);
  expect(bench.config(msi + 2, 2)).toBe(0x18b); // 64 bits, mask bits, 32 messages, enabled
  bench.setConfig(msi + 0x10, 4, 0x8000_0000);
  bench.out(REG_RAISE, 31);
  bench.out(REG_RAISE, 30);
  expect([30, 31].map((i) => taken(fds[i] as Fd))).toEqual([1, 0]);
  expect(bench.config(msi + 0x14, 4)).toBe(0x8000_0000);
  bench.setConfig(msi + 0x10, 4, 0);
  expect(taken(fds[31] as Fd)).toBe(1);
  expect(bench.config(msi + 0x14, 4)).toBe(0);
  bench.ops.setIrqs({
    index: VFIO_PCI_MSI_IRQ_INDEX,
    flags: VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER,
    start: 0,
    count: 0,
  });
  expect(bench.config(msi + 2, 2) & 1).toBe(0);
});

test('a doorbell counts and interrupts, whether its eventfd is signalled or the write is trapped', () => {
  using bench = new CardBench();
  const fds = bench.enable(2);
  bench.out(REG_DOORBELL_VECTOR, 1);
  const doorbells = bench.ops.getRegionIoFds?.(REGISTER_BAR) ?? [];
  expect(doorbells.map(({ offset, size }) => [offset, size])).toEqual(
    [0, 1, 2, 3].map((i) => [DOORBELL_AT + 4 * i, 4]),
  );
  bench.out(DOORBELL_AT + 8, 1);
  bench.thread.pump();
  expect(taken(fds[1] as Fd)).toBe(1);
  signalEventfd(doorbells[2]?.fd ?? -1);
  bench.thread.pump();
  expect(bench.in(REG_DOORBELLS)).toBe(2);
  expect(bench.instance.counters().doorbells).toBe(2);
});

test.each([
  ['flr', (bench: CardBench) => bench.setConfig(bench.capability(PCI_CAP_ID_EXP) + 8, 2, 0x8000)],
  ['af', (bench: CardBench) => bench.setConfig(bench.capability(PCI_CAP_ID_AF) + 4, 1, 1)],
  [
    'pm',
    (bench: CardBench) => {
      const control = bench.capability(PCI_CAP_ID_PM) + 4;
      bench.setConfig(control, 2, 3);
      bench.setConfig(control, 2, 0);
    },
  ],
])(
  'a reset by %s, from configuration space or VFIO_DEVICE_RESET, clears registers and memory',
  (reset, byConfig) => {
    using bench = new CardBench({ reset });
    for (const act of [byConfig, () => bench.ops.reset?.()]) {
      bench.out(REG_SCRATCH, 5);
      bench.write(RAM_BAR, 8, 4, 5);
      bench.setConfig(0x3c, 1, 9);
      act(bench);
      // Linux's vfio-pci restores configuration space after its own reset; a guest restores what it reset itself.
      expect(bench.config(0x3c, 1)).toBe(act === byConfig ? 0 : 9);
      bench.setConfig(COMMAND, 2, MEMORY | MASTER);
      expect([bench.in(REG_SCRATCH), bench.read(RAM_BAR, 8, 4), bench.in(REG_ID)]).toEqual([0, 0, CARD_ID]);
    }
  },
);

test('a card without a reset has none, by VFIO or by configuration space', () => {
  using bench = new CardBench({ reset: 'none' });
  expect(bench.ops.getInfo().flags & 1).toBe(0);
  expect(bench.ops.reset).toBeUndefined();
  bench.out(REG_SCRATCH, 5);
  const express = bench.capability(PCI_CAP_ID_EXP);
  expect(bench.config(express + 4, 4) & 0x1000_0000).toBe(0);
  bench.setConfig(express + 8, 2, 0x8000);
  const control = bench.capability(PCI_CAP_ID_PM) + 4;
  bench.setConfig(control, 2, 3);
  expect(bench.in(REG_SCRATCH), 'asleep').toBe(ALL_ONES);
  bench.setConfig(control, 2, 0);
  expect(bench.in(REG_SCRATCH)).toBe(5);
});

test('in D3hot it neither answers nor interrupts, but its configuration space does', () => {
  using bench = new CardBench();
  const fds = bench.enable(1);
  const control = bench.capability(PCI_CAP_ID_PM) + 4;
  bench.setConfig(control, 2, 1);
  expect(bench.config(control, 2) & 3, 'there is no D1').toBe(0);
  bench.setConfig(control, 2, 3);
  bench.out(REG_RAISE, 0);
  expect([bench.in(REG_ID), bench.config(0, 4), taken(fds[0] as Fd)]).toEqual([ALL_ONES, 0x7463_1234, 0]);
});

test('what one user leaves in the card, the next does not find', () => {
  using bench = new CardBench();
  bench.out(REG_SCRATCH, 5);
  bench.write(RAM_BAR, 0, 4, 5);
  bench.ops.closeDevice();
  bench.ops.openDevice(bench.memory.open);
  expect([bench.in(REG_SCRATCH), bench.read(RAM_BAR, 0, 4)]).toEqual([0, 0]);
  bench.ops.setIrqs({ index: 2, flags: TRIGGER_EVENTFD, start: 0, count: 1, data: [-1] });
});
