import { readSync, writeSync } from 'node:fs';
import * as libc from './libc.js';

// Node's read and write take a seventh of the time of a call through ffi-rs.
const one = new Uint8Array(new BigUint64Array([1n]).buffer);
const count = new BigUint64Array(1);
const countBytes = new Uint8Array(count.buffer);
const pollfd = new Int32Array(2);
const pollfdBytes = new Uint8Array(pollfd.buffer);
const POLLIN = 1;

/** Adds 1 to an eventfd. Ignores a closed one: a signal has no way to report errors. */
export function signalEventfd(fd: number): void {
  try {
    writeSync(fd, one, 0, 8);
  } catch {
    // EAGAIN: the counter is at its maximum, so the reader is signalled already.
  }
}

/** Reads and resets the count of an eventfd without blocking; 0 if it was not signalled. */
export function drainEventfd(fd: number): bigint {
  if (!isReadable(fd)) return 0n;
  try {
    readSync(fd, countBytes, 0, 8, null);
    return count[0] as bigint;
  } catch {
    return 0n; // another reader was first
  }
}

/** Whether reading `fd` would not block. */
export function isReadable(fd: number): boolean {
  pollfd[0] = fd;
  pollfd[1] = POLLIN;
  return libc.poll(pollfdBytes, 1, 0) === 1 && (pollfd[1] as number) >> 16 !== 0;
}
