import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { createDebugExit } from './debug-exit.js';
import { createPostCode } from './post-code.js';
import { Serial } from './serial.js';

const THR = 0;
const RBR = 0;
const IER = 1;
const IIR = 2;
const FCR = 2;
const LCR = 3;
const MCR = 4;
const LSR = 5;
const MSR = 6;
const SCR = 7;

function createPort() {
  const sent: number[] = [];
  const levels: boolean[] = [];
  const serial = new Serial({
    transmit: (bytes) => sent.push(...bytes),
    raise: (level) => levels.push(level),
  });
  const inb = (register: number): number => {
    const data = new Uint8Array(1);
    serial.read(register, data);
    return data[0] as number;
  };
  const outb = (register: number, value: number): void => serial.write(register, new Uint8Array([value]));
  return { serial, sent, levels, inb, outb };
}

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

describe('16550A', () => {
  test('what the guest writes is sent at once, and the transmitter reads as empty', () => {
    const { sent, inb, outb } = createPort();
    for (const byte of bytes('ok\n')) outb(THR, byte);
    expect(sent).toEqual([...bytes('ok\n')]);
    expect(inb(LSR)).toBe(0x60);
  });

  test('while nobody reads, the transmitter is busy, and what the guest sends then is lost and counted', () => {
    const sent: number[] = [];
    let hasRoom = false;
    const transmit = (piece: Uint8Array) => sent.push(...piece);
    const serial = new Serial({ transmit, hasRoom: () => hasRoom, raise: () => {} });
    serial.write(FCR, Uint8Array.of(1));
    for (let i = 0; i < 20; i++) serial.write(THR, Uint8Array.of(i));
    const status = new Uint8Array(1);
    serial.read(LSR, status);
    expect(status[0]).toBe(0);
    expect(serial.lost).toBe(4);
    hasRoom = true;
    serial.update();
    expect(sent).toEqual([...new Array(16).keys()]);
    serial.read(LSR, status);
    expect(status[0]).toBe(0x60);
  });

  test('who was refused some input is told once, when half of what waits has been read', () => {
    let wants = 0;
    const serial = new Serial({ transmit: () => {}, raise: () => {}, wants: () => wants++ });
    const read = (count: number) => {
      for (let i = 0; i < count; i++) serial.read(RBR, new Uint8Array(1));
    };
    const taken = serial.receive(new Uint8Array(5000));
    expect(taken).toBe(4096);
    serial.receive(new Uint8Array(10)); // one has gone to the UART
    read(2000);
    expect(wants).toBe(0);
    read(100);
    read(3000);
    expect(wants).toBe(1);
    serial.receive(new Uint8Array(100));
    read(100);
    expect(wants).toBe(1);
  });

  test('the divisor is selected by DLAB and does not change the registers it hides', () => {
    const { sent, inb, outb } = createPort();
    outb(IER, 0x05);
    outb(LCR, 0x83);
    outb(0, 0x0c);
    outb(1, 0x01);
    expect([inb(0), inb(1)]).toEqual([0x0c, 0x01]);
    outb(LCR, 0x03);
    expect(inb(IER)).toBe(0x05);
    expect(sent).toEqual([]);
  });

  test('Linux’s probe identifies it as a 16550A', () => {
    const { inb, outb } = createPort();
    outb(IER, 0);
    expect(inb(IER) & 0x0f).toBe(0);
    outb(IER, 0x0f);
    expect(inb(IER)).toBe(0x0f);
    outb(IER, 0xff);
    expect(inb(IER)).toBe(0x0f); // no XScale UUE bit
    outb(IER, 0);
    outb(MCR, 0x1a);
    expect(inb(MSR) & 0xf0).toBe(0x90); // loopback of RTS and OUT2
    outb(MCR, 0);
    outb(FCR, 0x01);
    expect(inb(IIR) >> 6).toBe(3);
    outb(LCR, 0xbf);
    expect(inb(IIR)).not.toBe(0); // no EFR
    outb(LCR, 0);
    outb(FCR, 0x21);
    expect(inb(IIR) & 0x20).toBe(0); // no 64-byte FIFO
    outb(SCR, 0x5a);
    expect(inb(SCR)).toBe(0x5a);
  });

  test('enabling the transmitter interrupt raises it; reading IIR lowers it; writing raises it again', () => {
    const { levels, inb, outb } = createPort();
    outb(IER, 0x02);
    expect(levels).toEqual([true]);
    expect(inb(IIR) & 0x0f).toBe(0x02);
    expect(levels).toEqual([true, false]);
    expect(inb(IIR) & 0x0f).toBe(0x01);
    outb(THR, 0x41);
    expect(levels).toEqual([true, false, true]);
    outb(IER, 0);
    outb(IER, 0x02);
    expect(levels).toEqual([true, false, true, false, true]);
  });

  test('a received byte interrupts until it is read', () => {
    const { serial, levels, inb, outb } = createPort();
    outb(IER, 0x01);
    serial.receive(bytes('x'));
    expect(levels).toEqual([true]);
    expect(inb(IIR) & 0x0f).toBe(0x04);
    expect(inb(LSR) & 1).toBe(1);
    expect(inb(RBR)).toBe(0x78);
    expect(inb(LSR) & 1).toBe(0);
    expect(levels).toEqual([true, false]);
  });

  test('fewer bytes than the trigger level raise a time-out, enough bytes a data interrupt', () => {
    const { serial, inb, outb } = createPort();
    outb(FCR, 0x41);
    outb(IER, 0x01);
    serial.receive(bytes('abc'));
    expect(inb(IIR)).toBe(0xcc);
    serial.receive(bytes('d'));
    expect(inb(IIR)).toBe(0xc4);
  });

  test('in loopback the guest receives what it sends, and nothing goes out', () => {
    const { serial, sent, inb, outb } = createPort();
    outb(FCR, 0x01);
    outb(MCR, 0x10);
    serial.receive(bytes('later'));
    outb(THR, 0x55);
    expect(inb(RBR)).toBe(0x55);
    expect(inb(LSR) & 1).toBe(0);
    outb(MCR, 0x0b);
    expect(sent).toEqual([]);
    expect(inb(RBR)).toBe(0x6c);
  });

  test('a loopback that is not read overruns', () => {
    const { inb, outb } = createPort();
    outb(MCR, 0x10);
    outb(IER, 0x04);
    outb(THR, 1);
    outb(THR, 2);
    expect(inb(IIR) & 0x0f).toBe(0x06);
    expect(inb(LSR) & 0x02).toBe(0x02);
    expect(inb(LSR) & 0x02).toBe(0);
    expect(inb(RBR)).toBe(1);
  });

  test('a change of the modem lines interrupts until MSR is read', () => {
    const { levels, inb, outb } = createPort();
    outb(IER, 0x08);
    outb(MCR, 0x10);
    expect(levels).toEqual([true]);
    expect(inb(IIR) & 0x0f).toBe(0x00);
    expect(inb(MSR)).toBe(0x0b);
    expect(levels).toEqual([true, false]);
  });

  test('clearing the receiver FIFO drops its contents and nothing else', () => {
    const { serial, inb, outb } = createPort();
    outb(FCR, 0x01);
    serial.receive(bytes('0123456789abcdefXY'));
    outb(FCR, 0x03);
    expect([inb(RBR), inb(RBR)]).toEqual([...bytes('XY')]);
  });

  test('every byte received is read once, in order, whatever the guest does with FIFO and interrupts', () => {
    const action = fc.oneof(
      fc.record({ kind: fc.constant('receive' as const), count: fc.integer({ min: 0, max: 3000 }) }),
      fc.record({ kind: fc.constant('read' as const), count: fc.integer({ min: 0, max: 40 }) }),
      fc.record({ kind: fc.constant('ier' as const), count: fc.integer({ min: 0, max: 255 }) }),
      fc.record({ kind: fc.constant('trigger' as const), count: fc.integer({ min: 0, max: 3 }) }),
    );
    fc.assert(
      fc.property(fc.array(action, { maxLength: 40 }), (actions) => {
        const { serial, inb, outb, levels } = createPort();
        outb(FCR, 0x01);
        const expected: number[] = [];
        const got: number[] = [];
        let next = 0;
        const drain = (count: number): void => {
          for (let i = 0; i < count && (inb(LSR) & 1) === 1; i++) got.push(inb(RBR));
        };
        for (const { kind, count } of actions) {
          if (kind === 'receive') {
            const offered = Uint8Array.from({ length: count }, () => next++ & 0xff);
            const taken = serial.receive(offered);
            expected.push(...offered.subarray(0, taken));
            next -= count - taken;
          } else if (kind === 'read') drain(count);
          else if (kind === 'ier') outb(IER, count);
          else outb(FCR, 0x01 | (count << 6));
          const isRaised = levels.at(-1) ?? false;
          if (isRaised) expect(inb(IIR) & 1).toBe(0);
        }
        drain(5000);
        expect(got).toEqual(expected);
      }),
      { numRuns: 50 },
    );
  });

  test('a 2-byte write to the data port goes to two registers, as on the bus', () => {
    const { serial, sent, inb } = createPort();
    serial.write(THR, new Uint8Array([0x41, 0x05]));
    expect(sent).toEqual([0x41]);
    expect(inb(IER)).toBe(0x05);
  });
});

describe('marker ports', () => {
  test('each byte written is reported, and reads return all-ones', () => {
    const told: string[] = [];
    const exit = createDebugExit((status) => told.push(`exit ${status}`));
    const post = createPostCode((code) => told.push(`mark ${code}`));
    post.write(0, new Uint8Array([0x10]));
    exit.write(0, new Uint8Array([0, 0, 0, 0]));
    expect(told).toEqual(['mark 16', 'exit 0']);
    for (const device of [exit, post]) {
      const data = new Uint8Array([0xff, 0xff]);
      device.read(0, data);
      expect([...data]).toEqual([0xff, 0xff]);
    }
  });
});
