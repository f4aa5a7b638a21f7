import { readSync, writeSync } from 'node:fs';
import { expect, test } from 'vitest';
import { drainEventfd, signalEventfd } from './eventfd.js';
import { duplicateFd, Fd } from './fd.js';
import { isForeign, setForeign } from './foreign-fds.js';
import * as libc from './libc.js';

const F_GETFL = 3;
const F_SETFL = 4;
const O_NONBLOCK = 0o4000;
const FULL = 2n ** 64n - 2n;

const flagsOf = (fd: Fd): number => libc.fcntl(fd.number, F_GETFL, 0);
/** As another process that has the same eventfd could do. */
const clearNonblock = (fd: Fd): void => {
  libc.fcntl(fd.number, F_SETFL, flagsOf(fd) & ~O_NONBLOCK);
};

/** An eventfd as another process would send it. */
function foreignEventfd(): Fd {
  const fd = Fd.eventfd();
  setForeign(fd.number, true);
  return fd;
}

test.each([
  ['ours', () => Fd.eventfd()],
  ["another process's", foreignEventfd],
])('signals add up until they are drained (%s)', (_whose, create) => {
  using fd = create();
  expect(drainEventfd(fd.number)).toBe(0n);
  for (let i = 0; i < 3; i++) signalEventfd(fd.number);
  expect(drainEventfd(fd.number)).toBe(3n);
  expect(drainEventfd(fd.number)).toBe(0n);
});

test('an eventfd that its owner has filled and made blocking does not block a signal, and is not changed', () => {
  using fd = foreignEventfd();
  writeSync(fd.number, new Uint8Array(BigUint64Array.of(FULL).buffer));
  clearNonblock(fd);
  const flags = flagsOf(fd);
  signalEventfd(fd.number); // a write would never return
  expect(flagsOf(fd)).toBe(flags);
  expect(drainEventfd(fd.number)).toBeGreaterThanOrEqual(FULL);
});

test("a duplicate of another process's descriptor is foreign as well, and the next descriptor of its number is not", () => {
  const fd = foreignEventfd();
  const copy = duplicateFd(fd.number, 'copy');
  const { number } = copy;
  expect(isForeign(number)).toBe(true);
  copy[Symbol.dispose]();
  fd[Symbol.dispose]();
  expect(isForeign(number)).toBe(false);
});

test('an eventfd that is blocking and not signalled does not block its reader', () => {
  using fd = foreignEventfd();
  clearNonblock(fd);
  expect(drainEventfd(fd.number)).toBe(0n);
  signalEventfd(fd.number);
  expect(drainEventfd(fd.number)).toBe(1n);
});

test('signals go on after as many as the kernel queues completions for', () => {
  using fd = foreignEventfd();
  for (let i = 0; i < 5000; i++) signalEventfd(fd.number);
  expect(drainEventfd(fd.number)).toBe(5000n);
});

test('a signal to what is closed, or no eventfd, is none', () => {
  const fd = foreignEventfd();
  const { number } = fd;
  fd[Symbol.dispose]();
  setForeign(number, true);
  signalEventfd(number);
  setForeign(number, false);
  using memory = Fd.memfd('no eventfd');
  setForeign(memory.number, true);
  signalEventfd(memory.number);
  expect(readSync(memory.number, new Uint8Array(8), 0, 8, 0)).toBe(0);
});
