import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Rtc } from './rtc.js';

const NOON = Date.UTC(2026, 10, 21, 12, 34, 56); // a Saturday

function machine(start = NOON) {
  let now = start;
  const rtc = new Rtc({ nowMs: () => now });
  const write = (register: number, value: number) => {
    rtc.write(0, Uint8Array.of(register));
    rtc.write(1, Uint8Array.of(value));
  };
  const read = (register: number): number => {
    const byte = Uint8Array.of(0xff);
    rtc.write(0, Uint8Array.of(register));
    rtc.read(1, byte);
    return byte[0] as number;
  };
  /** seconds, minutes, hours, weekday, day, month, year, century */
  const time = () => [0x00, 0x02, 0x04, 0x06, 0x07, 0x08, 0x09, 0x32].map(read);
  const setHost = (ms: number) => {
    now = ms;
  };
  return { rtc, read, write, time, setHost, pass: (ms: number) => setHost(now + ms) };
}

test('the time of day is UTC in BCD with 24 hours', () => {
  expect(machine().time()).toEqual([0x56, 0x34, 0x12, 0x07, 0x21, 0x11, 0x26, 0x20]);
});

test('register B selects binary and 12-hour formats', () => {
  const { read, write, time, setHost } = machine();
  write(0x0b, 0x06);
  expect(time()).toEqual([56, 34, 12, 7, 21, 11, 26, 20]);
  write(0x0b, 0x04);
  const hours = [0, 1, 11, 12, 13, 23].map((hour) => {
    setHost(Date.UTC(2026, 0, 1, hour));
    return read(0x04);
  });
  expect(hours).toEqual([12, 1, 11, 0x8c, 0x81, 0x8b]);
});

test('the clock continues from the time that a guest sets, for any time and format', () => {
  const when = fc.date({
    min: new Date(Date.UTC(1970, 0, 1)),
    max: new Date(Date.UTC(2099, 11, 31)),
    noInvalidDate: true,
  });
  const format = fc.constantFrom(0x00, 0x02, 0x04, 0x06);
  fc.assert(
    fc.property(when, format, (date, regB) => {
      const source = machine(Math.floor(date.getTime() / 1000) * 1000);
      source.write(0x0b, regB);
      const wanted = source.time();
      const { read, write, time, pass } = machine();
      write(0x0b, 0x80 | regB);
      for (const [i, register] of [0x00, 0x02, 0x04, 0x06, 0x07, 0x08, 0x09, 0x32].entries())
        write(register, wanted[i] as number);
      pass(5000);
      expect(time()).toEqual(wanted); // the clock stands while it is set
      write(0x0b, regB);
      expect(time()).toEqual(wanted);
      source.pass(86_399_000);
      pass(86_399_000);
      expect(time()).toEqual(source.time());
      expect(read(0x0b)).toBe(regB);
    }),
  );
});

test('the update flag of register A is set only just before the second changes', () => {
  const { read, pass, write } = machine();
  expect(read(0x0a)).toBe(0x26);
  pass(997);
  expect(read(0x0a)).toBe(0x26);
  pass(1);
  expect(read(0x0a)).toBe(0xa6);
  write(0x0b, 0x82);
  expect(read(0x0a)).toBe(0x26); // no update while the time is set
});

test('register C reports each finished update once', () => {
  const { read, pass } = machine();
  expect(read(0x0c)).toBe(0);
  pass(1000);
  expect([read(0x0c), read(0x0c)]).toEqual([0x10, 0]);
});

test('alarms and memory read back as written, and the NMI bit of the index is ignored', () => {
  const { rtc, read, write } = machine();
  const plain = [0x01, 0x03, 0x05, ...Array.from({ length: 0x80 - 0x0e }, (_, i) => 0x0e + i)].filter(
    (register) => register !== 0x32,
  );
  for (const register of plain) write(register | 0x80, register ^ 0xff);
  expect(plain.map(read)).toEqual(plain.map((register) => register ^ 0xff));
  expect(read(0x0d)).toBe(0x80);
  const index = Uint8Array.of(0xff);
  rtc.read(0, index);
  expect(index[0]).toBe(0xff); // the index port cannot be read
});

test('a 16-bit write selects a register and writes it, as the chip has eight data lines', () => {
  const { rtc, read } = machine();
  rtc.write(0, Uint8Array.of(0x40, 0x5a));
  expect(read(0x40)).toBe(0x5a);
  const both = new Uint8Array(2).fill(0xff);
  rtc.read(0, both);
  expect([...both]).toEqual([0xff, 0x5a]);
});

test('nothing that a guest writes throws', () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(0xff), fc.nat(0xff)), { maxLength: 40 }), (writes) => {
      const { read, write } = machine();
      for (const [register, value] of writes) {
        write(register, value);
        expect(read(register)).toBeLessThan(256);
      }
    }),
  );
});
