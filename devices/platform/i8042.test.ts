import { expect, test } from 'vitest';
import { I8042 } from './i8042.js';

function machine() {
  let resets = 0;
  const { data, command } = new I8042({
    reset: () => {
      resets++;
    },
  });
  const read = (device: typeof data): number => {
    const byte = new Uint8Array(1).fill(0xff);
    device.read(0, byte);
    return byte[0] as number;
  };
  return {
    resets: () => resets,
    status: () => read(command),
    data: () => read(data),
    command: (value: number) => command.write(0, Uint8Array.of(value)),
    send: (value: number) => data.write(0, Uint8Array.of(value)),
  };
}

test('the self test passes, and its result can be read once', () => {
  const m = machine();
  expect(m.status() & 1).toBe(0);
  m.command(0xaa);
  expect(m.status() & 1).toBe(1);
  expect(m.data()).toBe(0x55);
  expect(m.status() & 1).toBe(0);
  expect(m.data()).toBe(0);
});

test('the reset line is pulsed by 0xFE and by any pulse or output with that bit clear, and by no other', () => {
  const m = machine();
  m.command(0xff);
  m.command(0xf1);
  expect(m.resets()).toBe(0);
  m.command(0xfe);
  m.command(0xf0);
  expect(m.resets()).toBe(2);
  m.command(0xd1);
  m.send(0x03);
  expect(m.resets()).toBe(2);
  m.command(0xd1);
  m.send(0x02);
  expect(m.resets()).toBe(3);
});

test('the configuration byte is kept until a self test', () => {
  const m = machine();
  m.command(0x60);
  m.send(0x47);
  m.command(0x20);
  expect(m.data()).toBe(0x47);
  m.command(0xaa);
  m.data();
  m.command(0x20);
  expect(m.data()).toBe(0x34);
});

test('the absent keyboard reports a time-out', () => {
  const m = machine();
  m.send(0xff);
  expect(m.status() & 0x41).toBe(0x41);
  expect(m.data()).toBe(0xfe);
  expect(m.status() & 0x41).toBe(0);
  m.command(0xa9);
  expect(m.data()).toBe(0xff);
});

test('no sequence of bytes throws', () => {
  const m = machine();
  for (let value = 0; value < 256; value++) {
    m.command(value);
    m.status();
    m.send(255 - value);
    m.data();
  }
  expect(m.status() & 0x14).toBe(0x14);
});
