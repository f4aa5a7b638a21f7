import type { BusDevice } from './contracts.js';

/** The port to which firmware writes progress codes. */
export const POST_CODE_PORT = 0x80;

/**
 * A port that reports progress codes. Linux also writes to it as a short delay. Reads return all-ones.
 * @param mark called with 0 to 255 for each write
 */
export function createPostCode(mark: (code: number) => void): BusDevice {
  return {
    name: 'POST code',
    read() {},
    write: (_offset, data) => mark(data[0] ?? 0),
  };
}
