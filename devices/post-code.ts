import type { BusDevice } from './contracts.js';

/** Where firmware reports how far it has come. */
export const POST_CODE_PORT = 0x80;

/**
 * A port that takes marks of the guest's progress. Linux writes to it, too, to let time pass. Reads find nobody.
 * @param mark is called with 0 to 255, each time
 */
export function createPostCode(mark: (code: number) => void): BusDevice {
  return {
    name: 'POST code',
    read() {},
    write: (_offset, data) => mark(data[0] ?? 0),
  };
}
