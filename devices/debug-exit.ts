import type { BusDevice } from './contracts.js';

/** Where a guest that is a test looks for it. */
export const DEBUG_EXIT_PORT = 0xf4;

/**
 * A port by which a guest ends its machine: the first byte written is its verdict, 0 for success. Reads find nobody.
 * @param exit is called with 0 to 255, each time
 */
export function createDebugExit(exit: (status: number) => void): BusDevice {
  return {
    name: 'debug exit',
    read() {},
    write: (_offset, data) => exit(data[0] ?? 0),
  };
}
