import { isErrno } from '../sys/error.js';

const LEAST_ROOM = 128;
const MOST_ROOM = 2 ** 19;

/** Calls with room for a list of 128 entries, then more: KVM reports E2BIG if that is too little. */
export function withRoom<T>(call: (length: number) => T): T {
  for (let length = LEAST_ROOM; ; length *= 8) {
    try {
      return call(length);
    } catch (error) {
      if (!isErrno(error, 'E2BIG') || length >= MOST_ROOM) throw error;
    }
  }
}

/** Calls until no signal interrupts it. */
export function uninterrupted<T>(call: () => T): T {
  for (;;) {
    try {
      return call();
    } catch (error) {
      if (!isErrno(error, 'EINTR')) throw error;
    }
  }
}
