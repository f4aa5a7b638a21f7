import fc from 'fast-check';
import { expect, test } from 'vitest';
import { MSR_CTS, MSR_DCD, UART_CONNECTED, UART_STATE_BYTES, Uart16550 } from './uart-16550.js';

const [RBR, THR, IER, IIR, FCR, MCR, LSR, MSR] = [0, 0, 1, 2, 2, 4, 5, 6] as const;

/** A UART on a line that accepts as many bytes as the test allows. */
function createPort() {
  const wire = {
    room: Number.POSITIVE_INFINITY,
    inputs: UART_CONNECTED,
    sent: [] as number[],
    waiting: [] as number[],
  };
  const levels: boolean[] = [];
  const line = {
    get inputs() {
      return wire.inputs;
    },
    transmit(bytes: Uint8Array) {
      const taken = Math.min(bytes.length, wire.room);
      wire.sent.push(...bytes.subarray(0, taken));
      wire.room -= taken;
      return taken;
    },
    receive: () => wire.waiting.shift() ?? -1,
  };
  const uart = new Uart16550('uart', { line, raise: (level) => levels.push(level) });
  const inb = (register: number): number => {
    const data = new Uint8Array(1);
    uart.read(register, data);
    return data[0] as number;
  };
  const outb = (register: number, value: number): void => uart.write(register, Uint8Array.of(value));
  return { uart, wire, levels, inb, outb };
}

test('while the line accepts nothing, the transmitter holds 16 bytes, and interrupts once they are sent', () => {
  const { uart, wire, levels, inb, outb } = createPort();
  outb(FCR, 1);
  wire.room = 3;
  for (let i = 0; i < 25; i++) outb(THR, i);
  outb(IER, 2);
  expect([wire.sent.length, inb(LSR), levels]).toEqual([3, 0, []]);
  wire.room = 10;
  uart.update();
  expect([wire.sent.length, inb(LSR), levels]).toEqual([13, 0, []]);
  wire.room = 100;
  uart.update();
  expect([inb(LSR), [...levels], inb(IIR) & 0x0f]).toEqual([0x60, [true], 2]);
  expect(wire.sent).toEqual(Array.from({ length: 19 }, (_, i) => i));
});

test('without FIFOs the transmitter holds one byte', () => {
  const { wire, inb, outb } = createPort();
  wire.room = 0;
  for (const byte of [1, 2]) outb(THR, byte);
  wire.room = 9;
  expect(inb(LSR)).toBe(0);
  expect([wire.sent, inb(LSR)]).toEqual([[1], 0x60]);
});

test('clearing the transmitter drops what the line has not accepted', () => {
  const { uart, wire, inb, outb } = createPort();
  outb(FCR, 1);
  wire.room = 1;
  for (const byte of [1, 2, 3]) outb(THR, byte);
  outb(FCR, 5);
  wire.room = 9;
  uart.update();
  expect([wire.sent, inb(LSR)]).toEqual([[1], 0x60]);
});

test('input waits on the line while RTS is withdrawn, and comes whole once it is back', () => {
  const { uart, wire, inb, outb } = createPort();
  outb(FCR, 1);
  outb(MCR, 0x0b); // DTR, RTS, OUT2
  outb(MCR, 0x09);
  wire.waiting = [1, 2, 3];
  uart.update();
  expect([inb(LSR) & 1, uart.receiverRoom, wire.waiting.length]).toEqual([0, 0, 3]);
  outb(MCR, 0x0b);
  expect([inb(RBR), inb(RBR), inb(RBR), inb(LSR) & 1]).toEqual([1, 2, 3, 0]);
});

test.each([
  ['has never asserted RTS', [0x09]],
  ['has closed its port, as whoever opens it next may not know RTS', [0x0b, 0x00]],
  ['looks at itself in loopback', [0x0b, 0x19, 0x08]],
  ['was reset after it had asserted RTS', [0x0b, 'reset', 0x09]],
] as const)('input comes to a guest that %s', (_who, writes) => {
  const { uart, wire, inb, outb } = createPort();
  for (const value of writes) {
    if (value === 'reset') uart.reset();
    else outb(MCR, value);
  }
  wire.waiting = [7];
  uart.update();
  expect(inb(RBR)).toBe(7);
});

test('changed inputs set delta bits in MSR and interrupt until it is read', () => {
  const { uart, wire, levels, inb, outb } = createPort();
  outb(IER, 8);
  expect(levels).toEqual([]);
  wire.inputs = MSR_CTS;
  uart.update();
  expect([levels, inb(IIR) & 0x0f, inb(MSR), levels]).toEqual([[true, false], 0, 0x1a, [true, false]]);
  wire.inputs = MSR_CTS | MSR_DCD;
  uart.update();
  expect([inb(MSR), inb(MSR)]).toEqual([0x98, 0x90]);
});

test('a saved state reads back the same from the UART that loads it, after any history', () => {
  const write = fc.tuple(fc.integer({ min: 0, max: 7 }), fc.integer({ min: 0, max: 255 }));
  fc.assert(
    fc.property(fc.array(write, { maxLength: 80 }), fc.nat(20), (writes, waiting) => {
      const [from, to] = [createPort(), createPort()];
      from.wire.room = 5;
      from.wire.waiting.push(...Array.from({ length: waiting }, (_, i) => i));
      for (const [register, value] of writes) from.outb(register, value);
      const state = from.uart.save();
      to.uart.pause();
      expect(to.uart.load(state)).toBe(true);
      expect(to.uart.save()).toEqual(state);
      expect(to.levels.at(-1) ?? false).toBe(from.levels.at(-1) ?? false);
      for (const port of [from, to]) port.uart.pause();
      const look = ({ inb }: typeof from) => [IER, IIR, MCR, LSR, MSR, RBR, RBR].map(inb);
      expect(look(to)).toEqual(look(from));
    }),
    { numRuns: 300 },
  );
});

test('a state of another length, or with more bytes than a FIFO holds, is rejected', () => {
  const { uart } = createPort();
  const state = uart.save();
  expect(state).toHaveLength(UART_STATE_BYTES);
  for (const at of [9, 26]) {
    const bad = state.slice();
    bad[at] = 17;
    expect(uart.load(bad)).toBe(false);
  }
  expect(uart.load(state.subarray(1))).toBe(false);
  expect(uart.load(state)).toBe(true);
});
