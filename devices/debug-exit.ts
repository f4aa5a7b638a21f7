import type { BusDevice } from './contracts.js';

/** The port that test guests use. */
export const DEBUG_EXIT_PORT = 0xf4;

/**
 * A port by which a guest ends its machine: the first byte written is its verdict, 0 for success. Reads return
 * all-ones.
 * @param exit called with 0 to 255 for each write
 */
export function createDebugExit(exit: (status: number) => void): BusDevice {
  return {
    name: 'debug exit',
    read() {},
    write: (_offset, data) => exit(data[0] ?? 0),
  };
}
