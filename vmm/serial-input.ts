import { type ByteChannelBuffer, ChannelWriter, createByteChannel } from '../devices/line/byte-channel.js';

interface Waiting {
  readonly bytes: Uint8Array;
  at: number;
  readonly settle: (isTaken: boolean) => void;
}

/**
 * Input of a serial port, on its way to the machine thread. What the guest has not read waits in a ring of 4 KiB, and the
 * rest with whoever typed it, who is told when it is taken. The ring outlives a restart of the machine. Main thread only.
 */
export class SerialInput {
  readonly buffer: ByteChannelBuffer = createByteChannel();
  readonly #writer: ChannelWriter;
  readonly #waiting: Waiting[] = [];
  #isEnded = false;

  /** @param wake called when the port has input again */
  constructor(wake: () => void) {
    this.#writer = new ChannelWriter(this.buffer, wake);
  }

  /** Resolves to true once all bytes are in the ring, after those of earlier calls; to false if the machine has ended. */
  type(bytes: Uint8Array): Promise<boolean> {
    if (this.#isEnded) return Promise.resolve(false);
    return new Promise((settle) => {
      this.#waiting.push({ bytes, at: 0, settle });
      this.pump();
    });
  }

  /** Call when the ring has room. */
  pump(): void {
    for (let first = this.#waiting[0]; first !== undefined; first = this.#waiting[0]) {
      const rest = first.bytes.subarray(first.at);
      const written = this.#writer.write(rest);
      first.at += written;
      if (written === rest.length) this.#waiting.shift()?.settle(true);
      else if (written === 0) return; // the port asks for more once it has read half of the ring
    }
  }

  /** Nobody reads it any more. */
  end(): void {
    this.#isEnded = true;
    for (const { settle } of this.#waiting.splice(0)) settle(false);
  }
}
