import { readSync, writeSync } from 'node:fs';
import * as libc from './libc.js';

// Node's own read and write cost a seventh of a call through ffi-rs.
const one = new Uint8Array(new BigUint64Array([1n]).buffer);
const count = new BigUint64Array(1);
const countBytes = new Uint8Array(count.buffer);
const pollfd = new Int32Array(2);
const pollfdBytes = new Uint8Array(pollfd.buffer);
const POLLIN = 1;

/** Adds one to an eventfd. A full or closed one is left alone: a signal has nobody to complain to. */
export function signalEventfd(fd: number): void {
  try {
    writeSync(fd, one, 0, 8);
  } catch {
    // EAGAIN: the counter is full, so its reader is signalled already.
  }
}

/** Takes the count out of a non-blocking eventfd: 0 if it was not signalled. */
export function drainEventfd(fd: number): bigint {
  if (!isReadable(fd)) return 0n;
  try {
    readSync(fd, countBytes, 0, 8, null);
    return count[0] as bigint;
  } catch {
    return 0n; // another reader came first
  }
}

/** Whether a read of `fd` would find something now. */
export function isReadable(fd: number): boolean {
  pollfd[0] = fd;
  pollfd[1] = POLLIN;
  return libc.poll(pollfdBytes, 1, 0) === 1 && (pollfd[1] as number) >> 16 !== 0;
}
