import type { MachineEvent } from './protocol.js';

const LINE_FEED = 0x0a;
const FLUSH_BYTES = 256;

/**
 * Collects the guest's serial output into lines, so that not every byte is posted to another thread. Announces the
 * start of each line: the owner calls {@link flush} if the line is not completed soon (a prompt, a progress bar).
 */
export class SerialConsole {
  readonly #port: number;
  readonly #emit: (event: MachineEvent) => void;
  readonly #buffer = new Uint8Array(FLUSH_BYTES);
  #length = 0;

  /** @param port number of the serial port, 0 for COM1 */
  constructor(port: number, emit: (event: MachineEvent) => void) {
    this.#port = port;
    this.#emit = emit;
  }

  write(bytes: Uint8Array): void {
    for (const byte of bytes) {
      if (this.#length === 0 && byte !== LINE_FEED) this.#emit({ kind: 'serial-pending', port: this.#port });
      this.#buffer[this.#length++] = byte;
      if (byte === LINE_FEED || this.#length === FLUSH_BYTES) this.flush();
    }
  }

  flush(): void {
    if (this.#length === 0) return;
    this.#emit({ kind: 'serial', port: this.#port, bytes: this.#buffer.slice(0, this.#length) });
    this.#length = 0;
  }
}
