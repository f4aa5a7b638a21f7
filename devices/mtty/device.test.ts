import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { signalEventfd } from '../../sys/eventfd.js';
import { trace } from '../../sys/trace.js';
import { setDeviceState } from '../../vfio/core/migration.js';
import {
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_STOP,
  VFIO_DEVICE_STATE_STOP_COPY,
} from '../../vfio/feature.js';
import { VFIO_IRQ_SET_DATA_NONE as NONE, VFIO_IRQ_SET_ACTION_TRIGGER as TRIGGER } from '../../vfio/uapi.js';
import { hasLspci, lspci } from '../pci/testing/lspci.js';
import { recordTrace } from '../testing/fake-ports.js';
import { taken } from '../virtio-net/testing/workbench.js';
import { Card } from './testing/card.js';

const [THR, IER, IIR, FCR, LCR, MCR, LSR, MSR, SCR] = [0, 1, 2, 2, 3, 4, 5, 6, 7] as const;
const RDI = 0x01;
const [DTR, RTS] = [0x01, 0x02];
const COMMAND = 4;
const STATUS = 6;
const INTX_DISABLE = 0x400;
const IO = 1;

const bytes = (text: string): number[] => [...new TextEncoder().encode(text)];

test('configuration space is that of the card which 8250_pci knows, and stays so whatever is written to it', () => {
  using card = new Card();
  card.ops.write(7, 0, new Uint8Array(256).fill(0xff));
  expect([card.config(0, 4), card.config(8, 4), card.config(0x2c, 4)]).toEqual([
    0x32534348, 0x07000210, 0x32534348,
  ]);
  expect(card.config(0x3d, 1)).toBe(1);
  expect([0x10, 0x14, 0x18].map((bar) => card.config(bar, 4))).toEqual([0xfffffff9, 0xfffffff9, 0]);
  expect(card.config(COMMAND, 2)).toBe(IO | INTX_DISABLE);
});

test.skipIf(!hasLspci)(
  `lspci decodes the card as the golden file says${hasLspci ? '' : ' (skipped: needs pciutils)'}`,
  () => {
    using card = new Card();
    card.setConfig(0x10, 4, 0xc000);
    card.setConfig(0x14, 4, 0xc008);
    const space = new Uint8Array(256);
    card.ops.read(7, 0, space);
    expect(lspci(space)).toBe(readFileSync(new URL('./testing/lspci.golden', import.meta.url), 'utf8'));
  },
);

test('a card has an 8-byte region for each port, INTx and the request, and no more', () => {
  using one = new Card({}, 'mtty-1');
  using two = new Card({}, 'mtty-2');
  const sizes = ({ ops }: Card) => Array.from({ length: 9 }, (_, i) => ops.getRegionInfo(i).size);
  expect(sizes(one)).toEqual([8, 0, 0, 0, 0, 0, 0, 256, 0]);
  expect(sizes(two)).toEqual([8, 8, 0, 0, 0, 0, 0, 256, 0]);
  const irqs = [0, 1, 2, 3, 4].map((index) => two.ops.getIrqInfo(index));
  expect(irqs.map(({ count }) => count)).toEqual([1, 0, 0, 0, 1]);
  expect(irqs[0]?.flags).toBe(0b0111);
});

test.each([
  ['interrupt enable', IER, 0xff, 0x0f],
  ['line control', LCR, 0x1b, 0x1b],
  ['modem control', MCR, 0xff, 0x1f],
  ['scratch', SCR, 0xa5, 0xa5],
  ['line status', LSR, 0x00, 0x60],
  ['modem status', MSR, 0x00, 0xb0],
])('the register %s keeps the bits it has', (_name, register, written, read) => {
  using card = new Card();
  card.outb(0, register, written);
  expect(card.inb(0, register)).toBe(read);
});

test('what is sent on a looped port comes back on it, and on no other', () => {
  using card = new Card();
  for (const port of [0, 1]) card.outb(port, FCR, 1);
  card.send(0, Uint8Array.from(bytes('hello')));
  card.send(1, Uint8Array.from(bytes('HO')));
  expect([card.drain(0), card.drain(1)]).toEqual([bytes('hello'), bytes('HO')]);
});

test('a looped port that nobody reads says that it is full: THRE, TEMT and CTS fall; what is sent all the same is lost', () => {
  using card = new Card();
  card.outb(0, FCR, 1);
  for (let i = 0; i < 40; i++) card.outb(0, THR, i);
  expect(card.inb(0, LSR)).toBe(0x01);
  expect(card.inb(0, MSR) & 0x10).toBe(0);
  expect(card.drain(0)).toEqual(Array.from({ length: 32 }, (_, i) => i));
  expect(card.inb(0, LSR)).toBe(0x60);
  expect(card.inb(0, MSR) & 0x11).toBe(0x11);
});

test('in loopback of the UART itself a byte too many is an overrun', () => {
  using card = new Card();
  card.outb(0, FCR, 1);
  card.outb(0, MCR, 0x10);
  for (let i = 0; i < 17; i++) card.outb(0, THR, i);
  expect(card.inb(0, LSR)).toBe(0x63);
  expect(card.drain(0)).toHaveLength(16);
});

test('the pin interrupts once and is masked; unmasked it interrupts again only if a port still wants it', () => {
  using card = new Card();
  card.outb(0, FCR, 1);
  card.outb(0, IER, RDI);
  expect(taken(card.irq)).toBe(0);
  card.send(0, Uint8Array.of(1, 2, 3));
  expect(taken(card.irq)).toBe(1);
  expect(card.config(STATUS, 2) & 8).toBe(8);
  expect(card.inb(0, IIR) & 0x0f).toBe(0x04);
  signalEventfd(card.unmask.number);
  card.thread.pump();
  expect(taken(card.irq)).toBe(1);
  card.drain(0);
  signalEventfd(card.unmask.number);
  card.thread.pump();
  expect([taken(card.irq), card.config(STATUS, 2)]).toEqual([0, 0]);
});

test('the pin is up as long as one of two ports wants it', () => {
  using card = new Card();
  for (const port of [0, 1]) {
    card.outb(port, IER, RDI);
    card.send(port, Uint8Array.of(7));
  }
  card.drain(0);
  expect(card.config(STATUS, 2)).toBe(8);
  card.drain(1);
  expect(card.config(STATUS, 2)).toBe(0);
});

test('INTx disable holds the interrupt back, not the status, and lets it through when it is cleared', () => {
  using card = new Card();
  card.setConfig(COMMAND, 2, IO | INTX_DISABLE);
  card.outb(0, IER, RDI);
  card.send(0, Uint8Array.of(7));
  expect([taken(card.irq), card.config(STATUS, 2)]).toEqual([0, 8]);
  card.setConfig(COMMAND, 2, IO);
  expect(taken(card.irq)).toBe(1);
});

test('INTx disable holds back an interrupt that the user triggers, too', () => {
  using card = new Card();
  const trigger = { index: 0, flags: NONE | TRIGGER, start: 0, count: 1 };
  card.setConfig(COMMAND, 2, IO | INTX_DISABLE);
  card.ops.setIrqs(trigger);
  expect(taken(card.irq)).toBe(0);
  card.setConfig(COMMAND, 2, IO);
  card.ops.setIrqs(trigger);
  expect(taken(card.irq)).toBe(1);
});

test('a port does not decode while I/O is off: it reads all-ones, takes nothing, and that is told', () => {
  using misuse = recordTrace(trace.guestMisuse);
  using card = new Card();
  card.setConfig(COMMAND, 2, 0);
  card.outb(0, SCR, 5);
  expect(card.inb(0, SCR)).toBe(0xff);
  card.setConfig(COMMAND, 2, IO);
  expect(card.inb(0, SCR)).toBe(0);
  expect(misuse.events).toHaveLength(2);
});

test('a reset empties the ports, and leaves BARs and eventfds', () => {
  using card = new Card();
  card.setConfig(0x10, 4, 0xc000);
  card.outb(0, IER, RDI);
  card.send(0, Uint8Array.of(7));
  taken(card.irq);
  card.ops.reset?.();
  expect([card.inb(0, LSR), card.inb(0, IER), card.config(0x10, 4)]).toEqual([0x60, 0, 0xc001]);
  signalEventfd(card.unmask.number);
  card.outb(0, IER, RDI);
  card.send(0, Uint8Array.of(8));
  card.thread.pump();
  expect(taken(card.irq)).toBe(1);
});

test('a guest that does anything at all to the registers gets back what it sent, in order, with an interrupt while it waits', () => {
  const port = fc.integer({ min: 0, max: 1 });
  const action = fc.oneof(
    fc.record({ kind: fc.constant('send' as const), port, value: fc.integer({ min: 0, max: 60 }) }),
    fc.record({ kind: fc.constant('read' as const), port, value: fc.integer({ min: 0, max: 20 }) }),
    fc.record({ kind: fc.constant('ier' as const), port, value: fc.integer({ min: 0, max: 255 }) }),
    fc.record({ kind: fc.constant('mcr' as const), port, value: fc.integer({ min: 0, max: 15 }) }),
    fc.record({ kind: fc.constant('look' as const), port, value: fc.integer({ min: 1, max: 7 }) }),
    fc.record({ kind: fc.constant('unmask' as const), port, value: fc.constant(0) }),
  );
  fc.assert(
    fc.property(fc.array(action, { maxLength: 60 }), (actions) => {
      using card = new Card();
      for (const port of [0, 1]) card.outb(port, FCR, 1);
      const expected: number[][] = [[], []];
      const got: number[][] = [[], []];
      let isMasked = false;
      let next = 0;
      for (const { kind, port, value } of actions) {
        if (kind === 'send') {
          const data = Uint8Array.from({ length: value }, () => next++ & 0xff);
          expected[port]?.push(...data.subarray(0, card.send(port, data)));
        } else if (kind === 'read') {
          for (let i = 0; i < value && (card.inb(port, LSR) & 1) !== 0; i++)
            got[port]?.push(card.inb(port, THR));
        } else if (kind === 'ier') card.outb(port, IER, value);
        else if (kind === 'mcr') card.outb(port, MCR, value);
        else if (kind === 'look') card.inb(port, value);
        else {
          signalEventfd(card.unmask.number);
          card.thread.pump();
          isMasked = false;
        }
        const wants = [0, 1].some((each) => (card.inb(each, IIR) & 1) === 0);
        if (taken(card.irq) > 0) {
          expect(isMasked).toBe(false);
          isMasked = true;
        }
        if (wants) expect(isMasked).toBe(true);
      }
      for (const port of [0, 1]) {
        card.outb(port, MCR, DTR | RTS); // what the guest has held back by RTS comes now
        got[port]?.push(...card.drain(port));
      }
      expect(got).toEqual(expected);
    }),
    { numRuns: 200 },
  );
});

test('a driver that sends by interrupts is interrupted once for each FIFO, not for each byte, and then no more', () => {
  using card = new Card();
  card.outb(0, FCR, 0x81);
  const data = Uint8Array.from({ length: 1600 }, (_, i) => i & 0xff);
  const got: number[] = [];
  let sent = 0;
  let interrupts = 0;
  card.outb(0, IER, 0x03);
  // As Linux's handler: what has come is read first, then the FIFO is filled if it is empty.
  for (let turn = 0; turn < 10_000 && taken(card.irq) > 0; turn++) {
    interrupts++;
    while ((card.inb(0, IIR) & 1) === 0) {
      got.push(...card.drain(0));
      if ((card.inb(0, LSR) & 0x20) === 0) continue;
      for (const byte of data.subarray(sent, sent + 16)) card.outb(0, THR, byte);
      sent += 16;
      if (sent >= data.length) card.outb(0, IER, RDI);
    }
    signalEventfd(card.unmask.number);
    card.thread.pump();
  }
  expect(got).toEqual([...data]);
  expect(interrupts).toBeLessThanOrEqual(data.length / 16 + 2);
  expect(taken(card.irq)).toBe(0);
});

/** The state that a card saves. */
function save(card: Card): Uint8Array {
  using out = setDeviceState(card.ops, VFIO_DEVICE_STATE_STOP_COPY);
  const data = new Uint8Array(64 * 1024);
  return data.subarray(0, out?.read(data));
}

/** Moves a card's state to another one. */
function migrate(from: Card, to: Card): void {
  const data = save(from);
  expect(data).toHaveLength(Number(from.ops.migration?.getDataSize()));
  expect(resume(to, data)).toBe('ok');
}

function resume(card: Card, data: Uint8Array): string {
  {
    using into = setDeviceState(card.ops, VFIO_DEVICE_STATE_RESUMING);
    into?.write(data);
  }
  try {
    setDeviceState(card.ops, VFIO_DEVICE_STATE_RUNNING);
    return 'ok';
  } catch (error) {
    return (error as { code?: string }).code ?? String(error);
  }
}

test('a card that was moved goes on where it was: registers, what nobody has read yet, and the interrupt for it', () => {
  using from = new Card();
  using to = new Card();
  from.outb(1, FCR, 0xc1);
  from.outb(1, LCR, 0x83);
  from.outb(1, 0, 0x0c);
  from.outb(1, LCR, 0x03);
  from.outb(1, SCR, 0x5a);
  from.outb(1, IER, RDI);
  for (let i = 0; i < 20; i++) from.outb(1, THR, i);
  migrate(from, to);
  expect(taken(to.irq)).toBe(1);
  expect([to.inb(1, SCR), to.inb(1, IER), to.inb(1, IIR)]).toEqual([0x5a, RDI, 0xc4]);
  expect(to.drain(1)).toEqual(Array.from({ length: 20 }, (_, i) => i));
  to.outb(1, LCR, 0x83);
  expect(to.inb(1, 0)).toBe(0x0c);
});

test('a stopped card moves no byte and raises no interrupt until it runs again', () => {
  using card = new Card();
  setDeviceState(card.ops, VFIO_DEVICE_STATE_STOP);
  card.outb(0, IER, RDI);
  card.outb(0, THR, 9);
  expect([card.inb(0, LSR), taken(card.irq)]).toEqual([0, 0]);
  setDeviceState(card.ops, VFIO_DEVICE_STATE_RUNNING);
  expect([card.drain(0), taken(card.irq)]).toEqual([[9], 1]);
});

test('what no card has saved is EINVAL, leaves the card in RESUMING, and the card works again after a reset', () => {
  using small = new Card({}, 'mtty-1');
  const state = save(small);
  const tooLong = Uint8Array.from(state);
  tooLong[6 + 9] = 17; // of the receiver's 16 bytes
  for (const data of [new Uint8Array(0), state.subarray(1), tooLong]) {
    using card = new Card({}, 'mtty-1');
    expect(resume(card, data)).toBe('EINVAL');
    expect(card.ops.migration?.getState()).toBe(VFIO_DEVICE_STATE_RESUMING);
    card.ops.reset?.();
    expect(card.ops.migration?.getState()).toBe(VFIO_DEVICE_STATE_RUNNING);
    card.send(0, Uint8Array.of(1));
    expect(card.drain(0)).toEqual([1]);
  }
});

test('a card without all of its data cannot leave RESUMING, and can once the rest is written', () => {
  using from = new Card({}, 'mtty-1');
  from.outb(0, SCR, 0x5a);
  const state = save(from);
  using to = new Card({}, 'mtty-1');
  using into = setDeviceState(to.ops, VFIO_DEVICE_STATE_RESUMING);
  const refuses = () => {
    for (const wanted of [VFIO_DEVICE_STATE_STOP, VFIO_DEVICE_STATE_RUNNING, VFIO_DEVICE_STATE_STOP_COPY]) {
      expect(() => setDeviceState(to.ops, wanted)).toThrowError(
        /EINVAL\n.*\(\d+ bytes, where its state has \d+\)/,
      );
      expect(to.ops.migration?.getState()).toBe(VFIO_DEVICE_STATE_RESUMING);
    }
  };
  refuses();
  into?.write(state.subarray(0, 10));
  refuses();
  into?.write(state.subarray(10));
  setDeviceState(to.ops, VFIO_DEVICE_STATE_RUNNING);
  expect(to.inb(0, SCR)).toBe(0x5a);
});

test('more than a card saves is ENOMEM when it is written', () => {
  using small = new Card({}, 'mtty-1');
  const state = save(small);
  using card = new Card({}, 'mtty-1');
  expect(() => resume(card, Buffer.concat([state, state]))).toThrowError(/ENOMEM\n.*at most \d+ bytes/);
});

test('whatever is given to it as a saved state, the card takes it or refuses it, and works after a reset', () => {
  using card = new Card();
  const length = Number(card.ops.migration?.getDataSize());
  fc.assert(
    fc.property(fc.uint8Array({ minLength: length - 6, maxLength: length - 6 }), (tail) => {
      const outcome = resume(card, Uint8Array.of(0x6d, 0x74, 0x74, 0x79, 1, 2, ...tail));
      expect(['ok', 'EINVAL']).toContain(outcome);
      for (const port of [0, 1]) for (let register = 0; register < 8; register++) card.inb(port, register);
      card.ops.reset?.();
      card.send(0, Uint8Array.of(1));
      expect(card.drain(0)).toEqual([1]);
    }),
    { numRuns: 100 },
  );
});
