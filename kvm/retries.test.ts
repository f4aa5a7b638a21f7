import { expect, test } from 'vitest';
import { errno } from '../sys/errno.js';
import { SysError } from '../sys/error.js';
import { uninterrupted, withRoom } from './retries.js';

const failure = (code: keyof typeof errno): SysError =>
  new SysError({ call: 'KVM_GET_SUPPORTED_CPUID', target: '/dev/kvm', errno: errno[code] });

/** Fails with E2BIG until there is room for `needed`; records each length. */
function listOf(needed: number) {
  const lengths: number[] = [];
  return {
    lengths,
    read(length: number): string {
      lengths.push(length);
      if (length < needed) throw failure('E2BIG');
      return `read with ${length}`;
    },
  };
}

test.each([
  { needed: 0, lengths: [128] },
  { needed: 128, lengths: [128] },
  { needed: 129, lengths: [128, 1024] },
  { needed: 65_537, lengths: [128, 1024, 8192, 65_536, 524_288] },
])('a list of $needed entries is read with the first room that suffices', ({ needed, lengths }) => {
  const list = listOf(needed);
  expect(withRoom(list.read)).toBe(`read with ${lengths.at(-1)}`);
  expect(list.lengths).toEqual(lengths);
});

test('a list that is always too long is an error, and not an endless loop', () => {
  const list = listOf(Number.POSITIVE_INFINITY);
  expect(() => withRoom(list.read)).toThrowError(/E2BIG/);
  expect(list.lengths).toEqual([128, 1024, 8192, 65_536, 524_288]);
});

test('another error of a list is final', () => {
  let calls = 0;
  const fail = (): never => {
    calls++;
    throw failure('EFAULT');
  };
  expect(() => withRoom(fail)).toThrowError(/EFAULT/);
  expect(calls).toBe(1);
});

test('a call that signals interrupt is made again, and its other errors are final', () => {
  const results = [failure('EINTR'), failure('EINTR'), 7, failure('ENOMEM')];
  const next = (): number => {
    const result = results.shift();
    if (typeof result !== 'number') throw result;
    return result;
  };
  expect(uninterrupted(next)).toBe(7);
  expect(() => uninterrupted(next)).toThrowError(/ENOMEM/);
  expect(results).toEqual([]);
});
