import { fstatSync } from 'node:fs';
import { expect, test } from 'vitest';
import { SysError } from './error.js';
import { drainEventfd, isReadable, signalEventfd } from './eventfd.js';
import { duplicateFd, Fd } from './fd.js';

test('a missing path is reported with its errno', () => {
  expect(() => Fd.open('/no/such/thing', 'r', 'make one')).toThrowError(
    'open on /no/such/thing: ENOENT\n  hint: make one',
  );
});

test('a closed descriptor rejects use, and closing it again does nothing', () => {
  const fd = Fd.open('/dev/null');
  fd[Symbol.dispose]();
  fd[Symbol.dispose]();
  expect(fd.isOpen).toBe(false);
  expect(() => fd.number).toThrowError(SysError);
});

test('a duplicate outlives the original', () => {
  const fd = Fd.eventfd();
  using copy = fd.duplicate();
  fd[Symbol.dispose]();
  signalEventfd(copy.number);
  expect(drainEventfd(copy.number)).toBe(1n);
});

test('duplicating a dead descriptor is EBADF', () => {
  expect(() => duplicateFd(19_999, 'irq 3')).toThrowError(/irq 3: EBADF/);
});

test('an eventfd counts signals until it is drained', () => {
  using fd = Fd.eventfd();
  expect(isReadable(fd.number)).toBe(false);
  expect(drainEventfd(fd.number)).toBe(0n);
  signalEventfd(fd.number);
  signalEventfd(fd.number);
  expect(isReadable(fd.number)).toBe(true);
  expect(drainEventfd(fd.number)).toBe(2n);
  expect(drainEventfd(fd.number)).toBe(0n);
});

test('a signal to a closed eventfd is lost without an error', () => {
  expect(() => signalEventfd(19_999)).not.toThrow();
});

test('a memfd belongs to its user alone, so that no other can open a descriptor for reading again for writing', () => {
  using memory = Fd.memfd('private');
  using readonly = Fd.readOnly(memory.number, 'the same, for reading');
  expect(fstatSync(readonly.number).mode & 0o777).toBe(0o600);
});
