import { getProcessData, setProcessData } from './thread-ahead.js';

/** Copies of this package share it: descriptors are the process's. */
const KEY = 'tsvisor: descriptors whose file other processes have';
/** Descriptors from here on are taken for foreign. */
const MOST = 65_536;

/**
 * Which descriptors of this process refer to a file that another process, which may be hostile, has as well: those that
 * came in a message, those that were sent in one, and their duplicates. By number, and for all threads.
 *
 * Flags, timeouts and counters belong to the file, so the other process changes them, too: it can clear O_NONBLOCK and
 * fill an eventfd at any moment. No thread may make a call on such a descriptor that could block, or that changes it.
 */
const foreign: Uint8Array = shared();

function shared(): Uint8Array {
  const known = getProcessData(KEY);
  if (known instanceof SharedArrayBuffer) return new Uint8Array(known);
  const buffer = new SharedArrayBuffer(MOST);
  setProcessData(KEY, buffer);
  return new Uint8Array(buffer);
}

export const isForeign = (fd: number): boolean => fd >= MOST || Atomics.load(foreign, fd) === 1;

/** Marks an open descriptor. @see Fd, which unmarks it when it is closed */
export function setForeign(fd: number, is: boolean): void {
  if (fd < MOST) Atomics.store(foreign, fd, is ? 1 : 0);
}
