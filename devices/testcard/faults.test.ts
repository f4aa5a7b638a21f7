import { expect, test } from 'vitest';
import { sleep } from '../../sys/child.js';
import type { Fd } from '../../sys/fd.js';
import { Fd as Eventfd } from '../../sys/fd.js';
import { VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_REQ_IRQ_INDEX } from '../../vfio/uapi.js';
import { PCI_CAP_ID_EXP, PCI_CAP_ID_MSI, PCI_CAP_ID_PM } from '../pci/pci-regs.js';
import { maps } from '../virtio-net/testing/guest.js';
import { taken } from '../virtio-net/testing/workbench.js';
import { FAULT_NAMES, FAULTS } from './faults.js';
import {
  CARD_ID,
  DMA_BUSY,
  DMA_DONE,
  DMA_ERROR,
  DMA_FILL,
  REG_DMA_DELAY,
  REG_DMA_STATUS,
  REG_FAULT,
  REG_ID,
  REG_RAISE,
  REG_SCRATCH,
} from './spec.js';
import { CardBench } from './testing/card-bench.js';

const ALL_ONES = 0xffff_ffff;
const code = (act: () => unknown): string => {
  try {
    act();
    return 'ok';
  } catch (error) {
    return (error as { code?: string }).code ?? String(error);
  }
};

test('a fault comes by an option, by the register and by a call, and the register lists it', () => {
  using byOption = new CardBench({ fault: 'ignore-mask+dma-astray' });
  expect(byOption.in(REG_FAULT)).toBe((1 << FAULTS['ignore-mask']) | (1 << FAULTS['dma-astray']));
  using bench = new CardBench();
  bench.out(REG_FAULT, FAULTS['stuck-in-d3']);
  bench.out(REG_FAULT, 0xff);
  bench.instance.inject('reset-fails');
  expect(bench.instance.faults).toEqual(['stuck-in-d3', 'reset-fails']);
  bench.out(REG_FAULT, 0);
  expect(bench.instance.faults).toEqual([]);
  expect(code(() => bench.instance.inject('slow+sloow'))).toBe('EINVAL');
  expect(bench.instance.faults, 'none of a list with a wrong one').toEqual([]);
});

test('each fault has a number of its own that fits the register', () => {
  const numbers = FAULT_NAMES.map((name) => FAULTS[name]);
  expect(new Set(numbers).size).toBe(numbers.length);
  expect(Math.max(...numbers)).toBeLessThan(32);
  expect(Math.min(...numbers)).toBeGreaterThan(0);
});

test('reset-fails: the reset is EIO and changes nothing, from either side', () => {
  using bench = new CardBench();
  bench.out(REG_SCRATCH, 5);
  bench.instance.inject('reset-fails');
  expect(code(() => bench.ops.reset?.())).toBe('EIO');
  bench.setConfig(bench.capability(PCI_CAP_ID_EXP) + 8, 2, 0x8000);
  expect(bench.in(REG_SCRATCH)).toBe(5);
  bench.instance.inject('none');
  expect(code(() => bench.ops.reset?.())).toBe('ok');
  expect(bench.in(REG_SCRATCH)).toBe(0);
});

test('reset-hangs: after a reset by the guest nothing answers for a while; VFIO_DEVICE_RESET takes that long', () => {
  using bench = new CardBench();
  bench.instance.inject('reset-hangs:300');
  bench.setConfig(bench.capability(PCI_CAP_ID_EXP) + 8, 2, 0x8000);
  expect(bench.config(0, 4)).toBe(ALL_ONES);
  sleep(310);
  expect(bench.config(0, 4)).toBe(0x7463_1234);
  const start = performance.now();
  bench.ops.reset?.();
  expect(performance.now() - start).toBeGreaterThanOrEqual(299);
});

test('dead-after-reset: all-ones everywhere after the reset, until the card is opened again', () => {
  using bench = new CardBench({ fault: 'dead-after-reset' });
  expect(bench.in(REG_ID)).toBe(CARD_ID);
  bench.ops.reset?.();
  expect([bench.config(0, 4), bench.in(REG_ID)]).toEqual([ALL_ONES, ALL_ONES]);
  bench.ops.closeDevice();
  bench.ops.openDevice(bench.memory.open);
  expect(bench.in(REG_ID)).toBe(CARD_ID);
});

test('dead-after-reset: a card whose faults are taken away answers again, as after the reset', () => {
  using bench = new CardBench({ fault: 'dead-after-reset' });
  bench.out(REG_SCRATCH, 7);
  bench.ops.reset?.();
  expect(bench.in(REG_ID)).toBe(ALL_ONES);
  bench.instance.inject('none');
  expect([bench.in(REG_ID), bench.in(REG_SCRATCH)]).toEqual([CARD_ID, 0]);
});

test('stuck-in-d3: D0 is not reached until the fault is gone', () => {
  using bench = new CardBench({ fault: 'stuck-in-d3' });
  const control = bench.capability(PCI_CAP_ID_PM) + 4;
  bench.setConfig(control, 2, 3);
  bench.setConfig(control, 2, 0);
  expect([bench.config(control, 2) & 3, bench.in(REG_ID)]).toEqual([3, ALL_ONES]);
  bench.instance.inject('none');
  bench.setConfig(control, 2, 0);
  expect([bench.config(control, 2) & 3, bench.in(REG_ID)]).toEqual([0, CARD_ID]);
});

test('lose-interrupts: so many do not arrive, and the next does', () => {
  using bench = new CardBench({ fault: 'lose-interrupts:2' });
  const [fd] = bench.enable(1) as [Fd];
  const arrived = [1, 2, 3].map(() => {
    bench.out(REG_RAISE, 0);
    return taken(fd);
  });
  expect(arrived).toEqual([0, 0, 1]);
});

test('spurious-interrupt: a message without a cause, once', () => {
  using bench = new CardBench();
  const fds = bench.enable(3);
  bench.out(REG_FAULT, FAULTS['spurious-interrupt'] | (2 << 8));
  expect(fds.map(taken)).toEqual([0, 0, 1]);
  expect(bench.instance.faults).toEqual([]);
});

test('ignore-mask: a masked message leaves', () => {
  using bench = new CardBench();
  const [fd] = bench.enable(1, VFIO_PCI_MSI_IRQ_INDEX) as [Fd];
  bench.setConfig(bench.capability(PCI_CAP_ID_MSI) + 0x10, 4, 1);
  bench.out(REG_RAISE, 0);
  expect(taken(fd)).toBe(0);
  bench.instance.inject('ignore-mask');
  bench.out(REG_RAISE, 0);
  expect(taken(fd)).toBe(1);
});

test('dma-astray: a transfer to mapped memory goes elsewhere, and fails', () => {
  using bench = new CardBench();
  const fill = { target: maps.main.iova, length: 16, value: 7 };
  bench.instance.inject('dma-astray');
  expect(bench.transfer(DMA_FILL, fill)).toBe(DMA_ERROR);
  bench.instance.inject('none');
  expect(bench.transfer(DMA_FILL, fill)).toBe(DMA_DONE);
});

test('slow: each access takes its time', () => {
  using bench = new CardBench({ fault: 'slow:2000' });
  const start = performance.now();
  for (let i = 0; i < 5; i++) bench.in(REG_ID);
  expect(performance.now() - start).toBeGreaterThanOrEqual(9);
});

test('removed: the card answers nothing, does not interrupt, and its transfer never takes place', () => {
  using bench = new CardBench();
  const [fd] = bench.enable(1) as [Fd];
  bench.out(REG_DMA_DELAY, 1);
  bench.begin(DMA_FILL, { target: maps.main.iova, length: 16, value: 7 });
  expect(bench.in(REG_DMA_STATUS)).toBe(DMA_BUSY);
  bench.instance.inject('removed');
  sleep(3);
  bench.thread.pump();
  bench.out(REG_RAISE, 0);
  expect([bench.config(0, 4), bench.in(REG_ID), taken(fd)]).toEqual([ALL_ONES, ALL_ONES, 0]);
  expect(code(() => bench.ops.reset?.())).toBe('EIO');
  expect(bench.memory.bytes[bench.memory.at(maps.main.iova)]).toBe(0);
});

test('request: the user is asked for the card', () => {
  using bench = new CardBench();
  using request = Eventfd.eventfd();
  bench.ops.setIrqs({
    index: VFIO_PCI_REQ_IRQ_INDEX,
    flags: 0x24,
    start: 0,
    count: 1,
    data: [request.number],
  });
  bench.instance.inject('request');
  expect(taken(request)).toBe(1);
});

test('bad-capabilities: the list never ends', () => {
  using bench = new CardBench({ fault: 'bad-capabilities' });
  const first = bench.config(0x34, 1);
  expect(bench.config(first + 1, 1)).toBe(first);
});

test('lying-bar: the sizing protocol says 4 KiB for a region of 256 bytes', () => {
  using bench = new CardBench({ fault: 'lying-bar' });
  bench.setConfig(0x20, 4, ALL_ONES);
  expect(bench.config(0x20, 4)).toBe(0xffff_f000);
  expect(bench.ops.getRegionInfo(4).size).toBe(0x100);
});

test('fail: the chosen call fails with its errno, the nth time or each time, and others do not', () => {
  using bench = new CardBench({ fail: 'reset:EIO:2+getIrqInfo:ENODEV' });
  expect([1, 2, 3].map(() => code(() => bench.ops.reset?.()))).toEqual(['ok', 'EIO', 'ok']);
  expect([1, 2].map(() => code(() => bench.ops.getIrqInfo(0)))).toEqual(['ENODEV', 'ENODEV']);
  expect(code(() => bench.ops.getRegionInfo(0))).toBe('ok');
});
