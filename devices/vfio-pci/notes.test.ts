import { expect, test } from 'vitest';
import { trace } from '../../sys/trace.js';
import { recordTrace } from '../testing/fake-ports.js';
import { attempt, errorText, formatBytes, plural } from './notes.js';

test.each([
  [0, '0 bytes'],
  [1, '1 bytes'],
  [1023, '1023 bytes'],
  [1024, '1 KiB'],
  [1536, '1536 bytes'],
  [1025 * 1024, '1025 KiB'],
  [1024 ** 2, '1 MiB'],
  [3n << 30n, '3 GiB'],
  [1n << 40n, '1 TiB'],
  [1n << 50n, '1024 TiB'],
])('%s bytes are %s: exact, in the largest unit without a fraction', (bytes, text) => {
  expect(formatBytes(bytes)).toBe(text);
});

test('one is singular, none and several are plural', () => {
  expect([0, 1, 2].map((count) => plural(count, 'vector'))).toEqual(['0 vectors', '1 vector', '2 vectors']);
});

test('an attempt that fails is noted with its reason, whatever was thrown, and one that succeeds is not', () => {
  using notes = recordTrace(trace.vfio);
  const fails = (reason: unknown) => () => {
    throw reason;
  };
  expect(attempt('nic', 'msi', () => {})).toBe(true);
  expect(attempt('nic', 'msi', fails(new RangeError('too far')))).toBe(false);
  expect(attempt('nic', 'close', fails('a string'))).toBe(false);
  expect(notes.events).toEqual([
    { device: 'nic', what: 'msi', text: 'too far' },
    { device: 'nic', what: 'close', text: 'a string' },
  ]);
  expect(errorText(7)).toBe('7');
});
