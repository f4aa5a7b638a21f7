import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { SerialOutput } from './serial-output.js';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString();

function open(...ends: string[]) {
  const heard: string[] = [];
  let flushes = 0;
  const observer = { serial: (bytes: Uint8Array, port: number) => heard.push(`${port}: ${text(bytes)}`) };
  const output = new SerialOutput(ends, observer, () => flushes++);
  return { output, heard, flushed: () => flushes };
}

test('the observer hears each port, and the console keeps what COM1 has sent', () => {
  const { output, heard } = open('observer', 'observer');
  output.hear(0, Buffer.from('one'));
  output.hear(1, Buffer.from('two'));
  output.hear(0, Buffer.from('three'));
  expect(heard).toEqual(['0: one', '1: two', '0: three']);
  expect(text(output.console.since().bytes)).toBe('onethree');
});

test('a line that does not end is flushed after 50 ms, and after 4 ms where a person types', () => {
  for (const [end, ms] of [
    ['observer', 50],
    ['stdio', 4],
  ] as const) {
    const { output, flushed } = open(end);
    output.awaitLine(0);
    vi.advanceTimersByTime(ms - 1);
    expect(flushed()).toBe(0);
    vi.advanceTimersByTime(1);
    expect(flushed()).toBe(1);
  }
});

test('a line that ends in time is not flushed, nor is one of a machine that has ended; another port’s is', () => {
  const { output, flushed } = open('observer', 'observer');
  output.awaitLine(0);
  output.awaitLine(1);
  output.hear(0, Buffer.from('it ends\n'));
  vi.advanceTimersByTime(100);
  expect(flushed()).toBe(1);
  output.awaitLine(0);
  output.end();
  vi.advanceTimersByTime(100);
  expect(flushed()).toBe(1);
});
