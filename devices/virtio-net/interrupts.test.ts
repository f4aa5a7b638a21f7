import { closeSync, openSync } from 'node:fs';
import { expect, test } from 'vitest';
import { signalEventfd } from '../../sys/eventfd.js';
import { Fd } from '../../sys/fd.js';
import {
  VFIO_IRQ_SET_DATA_BOOL as BOOL,
  VFIO_PCI_ERR_IRQ_INDEX as ERR,
  VFIO_IRQ_SET_DATA_EVENTFD as EVENTFD,
  VFIO_PCI_INTX_IRQ_INDEX as INTX,
  VFIO_IRQ_SET_ACTION_MASK as MASK,
  VFIO_PCI_MSIX_IRQ_INDEX as MSIX,
  VFIO_IRQ_SET_DATA_NONE as NONE,
  VFIO_PCI_REQ_IRQ_INDEX as REQ,
  VFIO_IRQ_SET_ACTION_TRIGGER as TRIGGER,
  VFIO_IRQ_SET_ACTION_UNMASK as UNMASK,
} from '../../vfio/uapi.js';
import { taken, Workbench } from './testing/workbench.js';

const frame = new Uint8Array(60);

function set(
  bench: Workbench,
  index: number,
  flags: number,
  start: number,
  count: number,
  data?: number[],
): void {
  bench.instance.ops.setIrqs({ index, flags, start, count, ...(data && { data }) });
}

const code = (act: () => void): string => {
  try {
    act();
    return 'ok';
  } catch (error) {
    return (error as { code?: string }).code ?? String(error);
  }
};

/** Sends a frame; the device then wants to interrupt for the transmit queue. */
function send(bench: Workbench): void {
  bench.driver.send(frame);
  bench.driver.ring(1);
  bench.thread.pump();
}

test('irq infos are those of vfio-pci for a function with a pin and three MSI-X vectors', () => {
  using bench = new Workbench();
  const infos = [0, 1, 2, 3, 4].map((index) => bench.instance.ops.getIrqInfo(index));
  expect(infos.map(({ count }) => count)).toEqual([1, 0, 3, 0, 1]);
  expect(infos.map(({ flags }) => flags)).toEqual([0b0111, 0, 0b0001, 0, 0b1001]);
});

test('with MSI-X each queue signals its own vector, and a queue without vector none', () => {
  using bench = new Workbench();
  const [config, rx, tx] = bench.wire(MSIX, 3) as [Fd, Fd, Fd];
  bench.driver.start();
  send(bench);
  expect([config, rx, tx].map(taken)).toEqual([0, 0, 1]);
  bench.driver.provide(0x20_0000);
  bench.port.waiting.push(frame);
  signalEventfd(bench.port.fd);
  bench.thread.pump();
  expect([config, rx, tx].map(taken)).toEqual([0, 1, 0]);
  expect(bench.driver.isr).toBe(0);
  bench.driver.start({ vectors: [0xffff, 0xffff, 0xffff] });
  send(bench);
  expect([config, rx, tx].map(taken)).toEqual([0, 0, 0]);
  expect(bench.instance.counters().interrupts).toBe(2);
  expect(bench.instance.vectorCounts()).toEqual([0, 1, 1]);
});

test('MSI-X takes a vector while it is enabled, whose queue then signals it, and lets single ones go', () => {
  using bench = new Workbench();
  const [a, b] = bench.wire(MSIX, 2) as [Fd, Fd];
  expect(bench.driver.config(0x42, 2)).toBe(0x8002);
  const tx = bench.own(Fd.eventfd('tx'));
  set(bench, MSIX, EVENTFD | TRIGGER, 2, 1, [tx.number]);
  bench.driver.start();
  send(bench);
  expect([a, b, tx].map(taken)).toEqual([0, 0, 1]);
  set(bench, MSIX, EVENTFD | TRIGGER, 1, 1, [-1]);
  set(bench, MSIX, NONE | TRIGGER, 0, 2);
  expect([a, b].map(taken)).toEqual([1, 0]);
  set(bench, MSIX, EVENTFD | TRIGGER, 1, 1, [b.number]);
  set(bench, MSIX, BOOL | TRIGGER, 0, 2, [0, 1]);
  expect([a, b].map(taken)).toEqual([0, 1]);
  set(bench, MSIX, NONE | TRIGGER, 0, 0);
  expect(bench.driver.config(0x42, 2)).toBe(2);
  expect(code(() => set(bench, MSIX, NONE | TRIGGER, 0, 1))).toBe('EINVAL');
});

test('a vector that wants to interrupt before it has an eventfd does so once it has, unless MSI-X or the device was reset', () => {
  using bench = new Workbench();
  const tx = bench.own(Fd.eventfd('tx'));
  const add = () => set(bench, MSIX, EVENTFD | TRIGGER, 2, 1, [tx.number]);
  bench.wire(MSIX, 1);
  bench.driver.start();
  send(bench);
  set(bench, MSIX, EVENTFD | TRIGGER, 1, 1, [-1]);
  expect(taken(tx)).toBe(0);
  add();
  add();
  expect(taken(tx)).toBe(1);
  for (const drop of [
    () => {
      set(bench, MSIX, NONE | TRIGGER, 0, 0);
      bench.wire(MSIX, 1);
    },
    () => bench.instance.ops.reset?.(),
  ]) {
    set(bench, MSIX, EVENTFD | TRIGGER, 2, 1, [-1]);
    bench.driver.start();
    send(bench);
    drop();
    add();
    expect(taken(tx)).toBe(0);
  }
});

test('INTx and MSI-X exclude each other', () => {
  using bench = new Workbench();
  const [line] = bench.wire(INTX, 1) as [Fd];
  expect(code(() => bench.wire(MSIX, 3))).toBe('EINVAL');
  set(bench, INTX, NONE | TRIGGER, 0, 0);
  bench.wire(MSIX, 3);
  expect(code(() => set(bench, INTX, EVENTFD | TRIGGER, 0, 1, [line.number]))).toBe('EINVAL');
});

test('what an index cannot do is ENOTTY, and a wrong descriptor EBADF or EINVAL', () => {
  using bench = new Workbench();
  bench.wire(INTX, 1);
  const file = openSync('/dev/null', 'r');
  expect(code(() => set(bench, INTX, EVENTFD | MASK, 0, 1, [-1]))).toBe('ENOTTY');
  expect(code(() => set(bench, MSIX, NONE | MASK, 0, 1))).toBe('ENOTTY');
  expect(code(() => set(bench, REQ, NONE | MASK, 0, 1))).toBe('ENOTTY');
  expect(code(() => set(bench, ERR, NONE | TRIGGER, 0, 0))).toBe('ENOTTY');
  expect(code(() => set(bench, INTX, EVENTFD | TRIGGER, 0, 1, [1_000_000]))).toBe('EBADF');
  expect(code(() => set(bench, REQ, EVENTFD | TRIGGER, 0, 1, [file]))).toBe('EINVAL');
  expect(code(() => set(bench, INTX, NONE | MASK, 1, 1))).toBe('EINVAL');
  closeSync(file);
});

test('INTx is masked by each interrupt, and unmasking repeats it while the ISR is pending', () => {
  using bench = new Workbench();
  const [line] = bench.wire(INTX, 1) as [Fd];
  bench.driver.start();
  send(bench);
  expect(taken(line)).toBe(1);
  bench.driver.tx.usedEvent = 1;
  send(bench);
  expect(taken(line), 'masked by itself').toBe(0);
  expect(bench.driver.config(6, 2) & 8, 'interrupt status').toBe(8);
  set(bench, INTX, NONE | UNMASK, 0, 1);
  expect(taken(line), 'still pending').toBe(1);
  expect(bench.driver.isr).toBe(1);
  expect(bench.driver.isr, 'read clears').toBe(0);
  expect(bench.driver.config(6, 2) & 8).toBe(0);
  set(bench, INTX, BOOL | UNMASK, 0, 1, [1]);
  expect(taken(line)).toBe(0);
  bench.driver.tx.usedEvent = 2;
  send(bench);
  expect(taken(line), 'unmasked').toBe(1);
});

test('INTx that is masked, or disabled in the command register, waits', () => {
  using bench = new Workbench();
  const [line] = bench.wire(INTX, 1) as [Fd];
  bench.driver.start();
  set(bench, INTX, NONE | MASK, 0, 1);
  send(bench);
  expect(taken(line)).toBe(0);
  bench.driver.configWrite(4, 2, 0x406);
  set(bench, INTX, NONE | UNMASK, 0, 1);
  expect(taken(line)).toBe(0);
  bench.driver.configWrite(4, 2, 0x006);
  expect(taken(line)).toBe(1);
});

test('INTx that the command register disables is not interrupted by a trigger of the user either', () => {
  using bench = new Workbench();
  const [line] = bench.wire(INTX, 1) as [Fd];
  bench.driver.configWrite(4, 2, 0x406);
  set(bench, INTX, NONE | TRIGGER, 0, 1);
  expect(taken(line)).toBe(0);
  bench.driver.configWrite(4, 2, 0x006);
  set(bench, INTX, NONE | TRIGGER, 0, 1);
  expect(taken(line)).toBe(1);
});

test('INTx that the user masked is unmasked when the command register no longer disables it, and one that starts disabled waits', () => {
  using bench = new Workbench();
  const [line] = bench.wire(INTX, 1) as [Fd];
  bench.driver.start();
  set(bench, INTX, NONE | MASK, 0, 1);
  send(bench);
  bench.driver.configWrite(4, 2, 0x406);
  expect(taken(line)).toBe(0);
  bench.driver.configWrite(4, 2, 0x006);
  expect(taken(line)).toBe(1);
  set(bench, INTX, NONE | TRIGGER, 0, 0);
  bench.driver.configWrite(4, 2, 0x406);
  const [second] = bench.wire(INTX, 1) as [Fd];
  expect(taken(second), 'on while disabled').toBe(0);
  set(bench, INTX, NONE | UNMASK, 0, 1);
  expect(taken(second)).toBe(0);
  bench.driver.configWrite(4, 2, 0x006);
  expect(taken(second), 'the ISR is still pending').toBe(1);
});

test('a new eventfd for INTx leaves the pin masked, and a new start of INTx unmasks it', () => {
  using bench = new Workbench();
  const [first] = bench.wire(INTX, 1) as [Fd];
  bench.driver.start();
  send(bench);
  const [second] = bench.wire(INTX, 1) as [Fd];
  expect([first, second].map(taken)).toEqual([1, 0]);
  set(bench, INTX, NONE | TRIGGER, 0, 0);
  const [third] = bench.wire(INTX, 1) as [Fd];
  expect([first, second, third].map(taken), 'still pending').toEqual([0, 0, 1]);
});

test('an eventfd unmasks INTx, and after it is let go it does not', () => {
  using bench = new Workbench();
  const [line] = bench.wire(INTX, 1) as [Fd];
  const unmask = bench.own(Fd.eventfd('unmask'));
  bench.driver.start();
  set(bench, INTX, EVENTFD | UNMASK, 0, 1, [unmask.number]);
  send(bench);
  expect(taken(line)).toBe(1);
  for (let i = 0; i < 3; i++) {
    signalEventfd(unmask.number);
    bench.thread.pump();
    expect(taken(line), 'pending').toBe(1);
  }
  expect(bench.driver.isr).toBe(1);
  signalEventfd(unmask.number);
  bench.thread.pump();
  expect(taken(line), 'not pending').toBe(0);
  set(bench, INTX, EVENTFD | UNMASK, 0, 1, [-1]);
  bench.driver.tx.usedEvent = 1;
  send(bench);
  expect(taken(line)).toBe(1);
  signalEventfd(unmask.number);
  bench.thread.pump();
  expect(taken(line)).toBe(0);
});

test('the user’s eventfds may be closed once they are set', () => {
  using bench = new Workbench();
  const mine = Fd.eventfd();
  using copy = mine.duplicate();
  set(bench, MSIX, EVENTFD | TRIGGER, 0, 3, [-1, -1, mine.number]);
  mine[Symbol.dispose]();
  bench.driver.start();
  send(bench);
  expect(taken(copy)).toBe(1);
});

test('REQ is signalled when the host wants the device back', () => {
  using bench = new Workbench();
  bench.instance.ops.request?.(0);
  const [request] = bench.wire(REQ, 1) as [Fd];
  bench.instance.ops.request?.(1);
  bench.instance.ops.request?.(2);
  expect(taken(request)).toBe(2);
  set(bench, REQ, NONE | TRIGGER, 0, 1);
  expect(taken(request)).toBe(1);
  set(bench, REQ, EVENTFD | TRIGGER, 0, 1, [-1]);
  bench.instance.ops.request?.(3);
  expect(taken(request)).toBe(0);
});
