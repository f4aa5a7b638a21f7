import { MSR_CTS, MSR_DCD, MSR_DSR, UART_CONNECTED, type UartLine } from '../uart-16550.js';
import { ChannelReader, ChannelWriter } from './byte-channel.js';
import type { LineBuffers } from './messages.js';

/** The registers' end of a line to the event thread. Machine thread only. @see HostLine, its other end */
export class ChannelLine implements UartLine {
  readonly #sent: ChannelWriter;
  readonly #received: ChannelReader;
  readonly #carrier: Int32Array;
  readonly #isAlwaysOn: boolean;

  /**
   * @param wake wakes the line task
   * @param isAlwaysOn whether the modem lines are on even while no peer is connected, as of a cable that stays plugged in
   */
  constructor(buffers: LineBuffers, wake: () => void, isAlwaysOn = false) {
    this.#sent = new ChannelWriter(buffers.sent, wake);
    this.#received = new ChannelReader(buffers.received, wake);
    this.#carrier = new Int32Array(buffers.carrier);
    this.#isAlwaysOn = isAlwaysOn;
  }

  transmit(bytes: Uint8Array): number {
    return this.#sent.write(bytes);
  }

  receive(): number {
    return this.#received.next();
  }

  get inputs(): number {
    if (this.#isAlwaysOn) return UART_CONNECTED;
    if (Atomics.load(this.#carrier, 0) === 0) return 0;
    return MSR_DSR | MSR_DCD | (this.#sent.room() > 0 ? MSR_CTS : 0);
  }

  /** Drops bytes received before the open, as a modem does while its computer is off. */
  dropReceived(): void {
    for (let bytes = this.#received.peek(); bytes.length > 0; bytes = this.#received.peek())
      this.#received.take(bytes.length);
  }
}
