import { readSync, writeSync } from 'node:fs';
import { errno } from './errno.js';
import { isForeign } from './foreign-fds.js';
import { KernelSignals } from './kernel-signals.js';
import * as libc from './libc.js';

// Node's read and write take a seventh of the time of a call through ffi-rs.
const one = new Uint8Array(new BigUint64Array([1n]).buffer);
const count = new BigUint64Array(1);
const countBytes = new Uint8Array(count.buffer);
const pollfd = new Int32Array(2);
const pollfdBytes = new Uint8Array(pollfd.buffer);
const POLLIN = 1;
const POLLOUT = 4;
const RWF_NOWAIT = 8;

/** Undefined until the first foreign eventfd is signalled; null if the kernel cannot. */
let kernel: KernelSignals | null | undefined;

/**
 * Adds 1 to an eventfd. Ignores a closed one: a signal has no way to report errors. Never blocks, even if another process
 * has the eventfd, fills its counter and clears its O_NONBLOCK; such a signal takes about 6 us more.
 */
export function signalEventfd(fd: number): void {
  if (!isForeign(fd)) {
    write(fd);
    return;
  }
  if (kernel === undefined) kernel = KernelSignals.open() ?? null;
  if (kernel?.signal(fd) === true) return;
  // A kernel without AIO: the owner could still fill the counter between these two calls.
  if (isReady(fd, POLLOUT)) write(fd);
}

function write(fd: number): void {
  try {
    writeSync(fd, one, 0, 8);
  } catch {
    // EAGAIN: the counter is at its maximum, so the reader is signalled already.
  }
}

/** struct iovec, and what it points to. */
const block = new libc.PinnedBytes(24);
const words = new BigUint64Array(block.bytes.buffer);
words.set([BigInt(block.address + 16), 8n]);

/**
 * Reads and resets the count of an eventfd; 0 if it was not signalled. Never blocks, whatever another process does with
 * it.
 */
export function drainEventfd(fd: number): bigint {
  const got = libc.preadv2(fd, block.address, 1, -1, RWF_NOWAIT);
  if (got === 8) return words[2] as bigint;
  // Linux before 5.8 has no RWF_NOWAIT for eventfds.
  if (got !== -errno.EOPNOTSUPP || !isReadable(fd)) return 0n;
  try {
    readSync(fd, countBytes, 0, 8, null);
    return count[0] as bigint;
  } catch {
    return 0n; // another reader was first
  }
}

/** Whether reading `fd` would not block. */
export const isReadable = (fd: number): boolean => isReady(fd, POLLIN);

function isReady(fd: number, events: number): boolean {
  pollfd[0] = fd;
  pollfd[1] = events;
  return libc.poll(pollfdBytes, 1, 0) === 1 && (pollfd[1] as number) >> 16 !== 0;
}
