import type { StoppableDevice } from '../mdev/stop-copy-migration.js';
import { UART_STATE_BYTES, type Uart16550 } from '../uart-16550.js';

/** "mtty", and the version of the format: the number of ports, then each port's state. */
const MAGIC = [0x6d, 0x74, 0x74, 0x79, 1] as const;
const HEADER_BYTES = MAGIC.length + 1;

/**
 * A card's state: registers and FIFOs of its ports. Bytes between a FIFO and the host's end of the line are lost, as with
 * an unplugged cable.
 */
export function mttyState(
  ports: readonly Uart16550[],
  motion: Pick<StoppableDevice, 'stop' | 'start'>,
): StoppableDevice {
  const header = [...MAGIC, ports.length];
  return {
    stateBytes: HEADER_BYTES + ports.length * UART_STATE_BYTES,
    description: `a card with ${ports.length} ports`,
    ...motion,
    save: () => Buffer.concat([Uint8Array.from(header), ...ports.map((port) => port.save())]),
    load: (data) =>
      header.every((byte, i) => data[i] === byte) &&
      ports.every((port, i) => {
        const at = HEADER_BYTES + i * UART_STATE_BYTES;
        return port.load(data.subarray(at, at + UART_STATE_BYTES));
      }),
  };
}
