/** The 16550A UART (National PC16550D): eight ports, two FIFOs of 16 bytes, no wire. */
import type { BusDevice } from './contracts.js';

/** Where a PC has its first one, and its I/O APIC pin. */
export const COM1_PORT = 0x3f8;
export const COM1_GSI = 4;
/** Ports a UART takes. */
export const SERIAL_PORTS = 8;

// Registers; with DLAB set the first two are the divisor.
const RBR_THR = 0;
const IER = 1;
const IIR_FCR = 2;
const LCR = 3;
const MCR = 4;
const LSR = 5;
const MSR = 6;
const SCR = 7;

const IER_RDI = 0x01;
const IER_THRI = 0x02;
const IER_RLSI = 0x04;
const IER_MSI = 0x08;
const IER_BITS = 0x0f;

const IIR_NO_INT = 0x01;
const IIR_MSI = 0x00;
const IIR_THRI = 0x02;
const IIR_RDI = 0x04;
const IIR_RLSI = 0x06;
/** Characters wait in the FIFO, fewer than its trigger level. */
const IIR_RX_TIMEOUT = 0x0c;
const IIR_FIFO_ENABLED = 0xc0;

const FCR_ENABLE_FIFO = 0x01;
const FCR_CLEAR_RCVR = 0x02;
const FCR_TRIGGER_SHIFT = 6;
const TRIGGER_LEVELS = [1, 4, 8, 14] as const;

const LCR_DLAB = 0x80;

const MCR_LOOP = 0x10;
const MCR_BITS = 0x1f;

const LSR_DR = 0x01;
const LSR_OE = 0x02;
/** Transmitter and its holding register are empty: what is written is gone at once. */
const LSR_THRE_TEMT = 0x60;

const MSR_DCTS = 0x01;
const MSR_DDSR = 0x02;
const MSR_TERI = 0x04;
const MSR_DDCD = 0x08;
const MSR_CTS = 0x10;
const MSR_DSR = 0x20;
const MSR_RI = 0x40;
const MSR_DCD = 0x80;
/** The other end is there and ready. */
const CONNECTED = MSR_CTS | MSR_DSR | MSR_DCD;
const DIVISOR_115200 = 1;

const FIFO_BYTES = 16;
const WIRE_BYTES = 4096;

export interface SerialPorts {
  readonly name?: string;
  /** What the guest has sent; the bytes are good during the call only. */
  readonly transmit: (bytes: Uint8Array) => void;
  /** Level of the interrupt pin, whenever it changes. */
  readonly raise: (level: boolean) => void;
}

/** Bytes, first in first out. */
class ByteRing {
  readonly #bytes: Uint8Array;
  #first = 0;
  length = 0;

  constructor(capacity: number) {
    this.#bytes = new Uint8Array(capacity);
  }

  get room(): number {
    return this.#bytes.length - this.length;
  }

  push(byte: number): void {
    this.#bytes[(this.#first + this.length) % this.#bytes.length] = byte;
    this.length++;
  }

  /** The oldest byte; 0 of an empty ring. */
  shift(): number {
    if (this.length === 0) return 0;
    const byte = this.#bytes[this.#first] as number;
    this.#first = (this.#first + 1) % this.#bytes.length;
    this.length--;
    return byte;
  }
}

/** A serial port. What is received waits outside while the FIFO is full, so that typing is not lost. Machine thread only. */
export class Serial implements BusDevice {
  readonly name: string;
  readonly #transmit: SerialPorts['transmit'];
  readonly #raise: SerialPorts['raise'];
  readonly #sent = new Uint8Array(1);
  /** What the guest can read, and what waits on the wire for room there. */
  readonly #fifo = new ByteRing(FIFO_BYTES);
  readonly #wire = new ByteRing(WIRE_BYTES);
  #ier = 0;
  #fcr = 0;
  #lcr = 0;
  #mcr = 0;
  #scr = 0;
  #msr = CONNECTED;
  #divisor = DIVISOR_115200;
  #hasOverrun = false;
  /** The transmitter became empty, and nobody has been told. */
  #isThrePending = false;
  #level = false;

  constructor(ports: SerialPorts) {
    this.name = ports.name ?? 'serial';
    this.#transmit = ports.transmit;
    this.#raise = ports.raise;
  }

  /** Bytes for the guest. Returns how many were taken: what does not fit is to be offered again later. */
  receive(bytes: Uint8Array): number {
    const taken = Math.min(bytes.length, this.#wire.room);
    for (let i = 0; i < taken; i++) this.#wire.push(bytes[i] as number);
    this.#settle();
    return taken;
  }

  read(offset: number, data: Uint8Array): void {
    for (let i = 0; i < data.length; i++) data[i] = this.#readRegister(offset + i);
    this.#settle();
  }

  write(offset: number, data: Uint8Array): void {
    for (let i = 0; i < data.length; i++) this.#writeRegister(offset + i, data[i] as number);
    this.#settle();
  }

  #readRegister(register: number): number {
    const isDivisor = (this.#lcr & LCR_DLAB) !== 0;
    switch (register) {
      case RBR_THR:
        return isDivisor ? this.#divisor & 0xff : this.#fifo.shift();
      case IER:
        return isDivisor ? this.#divisor >> 8 : this.#ier;
      case IIR_FCR: {
        const source = this.#source();
        if (source === IIR_THRI) this.#isThrePending = false;
        return source | (this.#isFifoEnabled ? IIR_FIFO_ENABLED : 0);
      }
      case LCR:
        return this.#lcr;
      case MCR:
        return this.#mcr;
      case LSR: {
        const status = LSR_THRE_TEMT | (this.#fifo.length > 0 ? LSR_DR : 0) | (this.#hasOverrun ? LSR_OE : 0);
        this.#hasOverrun = false;
        return status;
      }
      case MSR: {
        const status = this.#msr;
        this.#msr &= ~(MSR_DCTS | MSR_DDSR | MSR_TERI | MSR_DDCD);
        return status;
      }
      case SCR:
        return this.#scr;
      default:
        return 0xff;
    }
  }

  #writeRegister(register: number, value: number): void {
    const isDivisor = (this.#lcr & LCR_DLAB) !== 0;
    switch (register) {
      case RBR_THR:
        if (isDivisor) this.#divisor = (this.#divisor & 0xff00) | value;
        else this.#send(value);
        break;
      case IER:
        if (isDivisor) this.#divisor = (this.#divisor & 0xff) | (value << 8);
        else this.#enableInterrupts(value & IER_BITS);
        break;
      case IIR_FCR:
        this.#controlFifo(value);
        break;
      case LCR:
        this.#lcr = value;
        break;
      case MCR:
        this.#mcr = value & MCR_BITS;
        this.#updateModem();
        break;
      case SCR:
        this.#scr = value;
        break;
      default: // LSR and MSR are read-only
    }
  }

  get #isFifoEnabled(): boolean {
    return (this.#fcr & FCR_ENABLE_FIFO) !== 0;
  }

  get #fifoBytes(): number {
    return this.#isFifoEnabled ? FIFO_BYTES : 1;
  }

  #send(byte: number): void {
    if ((this.#mcr & MCR_LOOP) === 0) {
      this.#sent[0] = byte;
      this.#transmit(this.#sent);
    } else if (this.#fifo.length < this.#fifoBytes) {
      this.#fifo.push(byte);
    } else {
      this.#hasOverrun = true;
    }
    this.#isThrePending = true;
  }

  #enableInterrupts(value: number): void {
    // Enabling it while the transmitter is empty, which it always is, raises it.
    if ((value & ~this.#ier & IER_THRI) !== 0) this.#isThrePending = true;
    this.#ier = value;
  }

  #controlFifo(value: number): void {
    const isToggled = ((value ^ this.#fcr) & FCR_ENABLE_FIFO) !== 0;
    if (isToggled || (value & FCR_CLEAR_RCVR) !== 0) this.#fifo.length = 0;
    this.#fcr = value & ~FCR_CLEAR_RCVR;
  }

  /** Loopback connects the four outputs to the four inputs. */
  #updateModem(): void {
    const inputs = (this.#mcr & MCR_LOOP) === 0 ? CONNECTED : loopedInputs(this.#mcr);
    const changed = inputs ^ this.#msr;
    if ((changed & MSR_CTS) !== 0) this.#msr |= MSR_DCTS;
    if ((changed & MSR_DSR) !== 0) this.#msr |= MSR_DDSR;
    if ((changed & ~inputs & MSR_RI) !== 0) this.#msr |= MSR_TERI;
    if ((changed & MSR_DCD) !== 0) this.#msr |= MSR_DDCD;
    this.#msr = (this.#msr & 0x0f) | inputs;
  }

  /** The enabled source of the highest priority, as the low bits of IIR. */
  #source(): number {
    if ((this.#ier & IER_RLSI) !== 0 && this.#hasOverrun) return IIR_RLSI;
    if ((this.#ier & IER_RDI) !== 0 && this.#fifo.length > 0) {
      const trigger = this.#isFifoEnabled ? (TRIGGER_LEVELS[this.#fcr >> FCR_TRIGGER_SHIFT] as number) : 1;
      // The line is idle whenever anybody looks, so the time-out of four characters has passed.
      return this.#fifo.length >= trigger ? IIR_RDI : IIR_RX_TIMEOUT;
    }
    if ((this.#ier & IER_THRI) !== 0 && this.#isThrePending) return IIR_THRI;
    const deltas = MSR_DCTS | MSR_DDSR | MSR_TERI | MSR_DDCD;
    if ((this.#ier & IER_MSI) !== 0 && (this.#msr & deltas) !== 0) return IIR_MSI;
    return IIR_NO_INT;
  }

  /** Lets the wire fill the FIFO (loopback cuts the wire), and brings the interrupt pin up to date. */
  #settle(): void {
    if ((this.#mcr & MCR_LOOP) === 0) {
      while (this.#wire.length > 0 && this.#fifo.length < this.#fifoBytes)
        this.#fifo.push(this.#wire.shift());
    }
    const level = this.#source() !== IIR_NO_INT;
    if (level === this.#level) return;
    this.#level = level;
    this.#raise(level);
  }
}

/** RTS to CTS, DTR to DSR, OUT1 to RI, OUT2 to DCD. */
function loopedInputs(mcr: number): number {
  const [dtr, rts, out1, out2] = [0x01, 0x02, 0x04, 0x08];
  return (
    ((mcr & rts) !== 0 ? MSR_CTS : 0) |
    ((mcr & dtr) !== 0 ? MSR_DSR : 0) |
    ((mcr & out1) !== 0 ? MSR_RI : 0) |
    ((mcr & out2) !== 0 ? MSR_DCD : 0)
  );
}
