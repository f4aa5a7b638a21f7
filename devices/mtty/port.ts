import { MSR_CTS, MSR_DCD, MSR_DSR, UART_CONNECTED, Uart16550, type UartLine } from '../uart-16550.js';
import { ChannelReader, ChannelWriter } from './byte-channel.js';
import type { LineBuffers } from './messages.js';

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

/** The registers' end of a line to the event thread. Machine thread only. @see HostLine, its other end */
export class ChannelLine implements UartLine {
  readonly #sent: ChannelWriter;
  readonly #received: ChannelReader;
  readonly #carrier: Int32Array;

  /** @param wake wakes the line task */
  constructor(buffers: LineBuffers, wake: () => void) {
    this.#sent = new ChannelWriter(buffers.sent, wake);
    this.#received = new ChannelReader(buffers.received, wake);
    this.#carrier = new Int32Array(buffers.carrier);
  }

  transmit(bytes: Uint8Array): number {
    return this.#sent.write(bytes);
  }

  receive(): number {
    return this.#received.next();
  }

  get inputs(): number {
    if (Atomics.load(this.#carrier, 0) === 0) return 0;
    return MSR_DSR | MSR_DCD | (this.#sent.room() > 0 ? MSR_CTS : 0);
  }

  /** Drops bytes received before the open, as a modem does while its computer is off. */
  dropReceived(): void {
    for (let bytes = this.#received.peek(); bytes.length > 0; bytes = this.#received.peek())
      this.#received.take(bytes.length);
  }
}
