import { MSR_CTS, UART_CONNECTED, Uart16550, type UartLine } from '../uart-16550.js';

/** A UART whose transmitter feeds its own receiver, with flow control while the receiver is full. */
export function createLoopedPort(name: string, raise: (level: boolean) => void): Uart16550 {
  let byte = -1;
  let room = (): number => 1;
  const line: UartLine = {
    transmit(bytes) {
      if (byte >= 0 || room() === 0) return 0;
      byte = bytes[0] as number;
      return 1;
    },
    receive() {
      const received = byte;
      byte = -1;
      return received;
    },
    get inputs() {
      return room() > 0 ? UART_CONNECTED : UART_CONNECTED & ~MSR_CTS;
    },
  };
  const uart = new Uart16550(name, { line, raise });
  room = () => uart.receiverRoom;
  return uart;
}
