import { ByteRing } from './byte-ring.js';
import type { BusDevice } from './contracts.js';
import { UART_CONNECTED, UART_PORTS, Uart16550 } from './uart-16550.js';

/** Port of a PC's first serial port, and its I/O APIC pin. */
export const COM1_PORT = 0x3f8;
/** I/O APIC pin of a PC's first serial port. */
export const COM1_GSI = 4;
/** Number of ports. */
export const SERIAL_PORTS = UART_PORTS;

/** A PC's serial ports, with their I/O APIC pins; two of them share each pin. */
export const COM_PORTS = [
  { name: 'COM1', port: COM1_PORT, gsi: COM1_GSI },
  { name: 'COM2', port: 0x2f8, gsi: 3 },
  { name: 'COM3', port: 0x3e8, gsi: 4 },
  { name: 'COM4', port: 0x2e8, gsi: 3 },
] as const;

const WIRE_BYTES = 4096;

/** What a {@link Serial} is connected to. */
export interface SerialPorts {
  /** Name in errors and reports; `serial` by default. */
  readonly name?: string;
  /** Receives what the guest sends. The bytes are valid only during the call. */
  readonly transmit: (bytes: Uint8Array) => void;
  /**
   * Whether `transmit` can take bytes; always if absent. While it cannot, they stay in the UART, whose transmitter the
   * guest sees as busy. Call {@link Serial.update} when it can again.
   */
  readonly hasRoom?: () => boolean;
  /** Called when {@link Serial.receive} would accept more, after it has accepted less than it was offered. */
  readonly wants?: () => void;
  /** Sets the level of the interrupt pin; called whenever it changes. */
  readonly raise: (level: boolean) => void;
}

/**
 * A serial port. Input is queued outside the UART while its FIFO is full, so that typed characters are not lost.
 * Machine thread only.
 */
export class Serial implements BusDevice {
  readonly name: string;
  readonly #wire = new ByteRing(WIRE_BYTES);
  readonly #uart: Uart16550;

  /** It accepted less than it was offered, and the owner has not been told that there is room again. */
  #isRefused = false;
  readonly #wants: () => void;

  constructor({ name = 'serial', transmit, hasRoom = () => true, wants = () => {}, raise }: SerialPorts) {
    this.name = name;
    this.#wants = wants;
    const wire = this.#wire;
    const line = {
      inputs: UART_CONNECTED,
      receive: () => (wire.length > 0 ? wire.shift() : -1),
      transmit(bytes: Uint8Array) {
        if (!hasRoom()) return 0;
        transmit(bytes);
        return bytes.length;
      },
    };
    this.#uart = new Uart16550(name, { line, raise });
  }

  /** Number of bytes that the guest sent while the transmitter was full; as on hardware, they are lost. */
  get lost(): number {
    return this.#uart.lost;
  }

  /** Call when `hasRoom` is true again. */
  update(): void {
    this.#uart.update();
  }

  /** Queues input for the guest. Returns how many bytes were accepted; offer the rest again when `wants` is called. */
  receive(bytes: Uint8Array): number {
    const taken = Math.min(bytes.length, this.#wire.room);
    this.#isRefused = taken < bytes.length;
    for (let i = 0; i < taken; i++) this.#wire.push(bytes[i] as number);
    this.#uart.update();
    return taken;
  }

  read(offset: number, data: Uint8Array): void {
    this.#uart.read(offset, data);
    // Not for each byte: the owner may be another thread.
    if (!this.#isRefused || this.#wire.length > WIRE_BYTES / 2) return;
    this.#isRefused = false;
    this.#wants();
  }

  write(offset: number, data: Uint8Array): void {
    this.#uart.write(offset, data);
  }
}
