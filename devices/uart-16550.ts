/** The 16550A UART: eight ports and two 16-byte FIFOs. @see National PC16550D data sheet */
import { ByteRing } from './byte-ring.js';
import type { BusDevice } from './contracts.js';

/** Number of ports. */
export const UART_PORTS = 8;

// Registers. With DLAB set, the first two are the divisor.
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
/** Characters wait in the FIFO, but fewer than its trigger level. */
const IIR_RX_TIMEOUT = 0x0c;
const IIR_FIFO_ENABLED = 0xc0;

const FCR_ENABLE_FIFO = 0x01;
const FCR_CLEAR_RCVR = 0x02;
const FCR_CLEAR_XMIT = 0x04;
/** Self-clearing bits. */
const FCR_CLEARS = FCR_CLEAR_RCVR | FCR_CLEAR_XMIT;
const FCR_TRIGGER_SHIFT = 6;
const TRIGGER_LEVELS = [1, 4, 8, 14] as const;

const LCR_DLAB = 0x80;

const MCR_DTR = 0x01;
const MCR_RTS = 0x02;
const MCR_LOOP = 0x10;
const MCR_BITS = 0x1f;

const LSR_DR = 0x01;
const LSR_OE = 0x02;
/** The transmitter and its holding register are empty. */
const LSR_THRE_TEMT = 0x60;

const MSR_DCTS = 0x01;
const MSR_DDSR = 0x02;
const MSR_TERI = 0x04;
const MSR_DDCD = 0x08;
const MSR_DELTAS = MSR_DCTS | MSR_DDSR | MSR_TERI | MSR_DDCD;
export const MSR_CTS = 0x10;
export const MSR_DSR = 0x20;
export const MSR_RI = 0x40;
export const MSR_DCD = 0x80;
/** The peer is connected and ready. */
export const UART_CONNECTED = MSR_CTS | MSR_DSR | MSR_DCD;
const DIVISOR_115200 = 1;

const FIFO_BYTES = 16;

// Layout of a saved state: registers, then each FIFO's length and bytes.
const SAVED_IER = 0;
const SAVED_FCR = 1;
const SAVED_LCR = 2;
const SAVED_MCR = 3;
const SAVED_SCR = 4;
const SAVED_MSR = 5;
const SAVED_DIVISOR = 6;
const SAVED_FLAGS = 8;
const SAVED_RECEIVER = 9;
const SAVED_TRANSMITTER = SAVED_RECEIVER + 1 + FIFO_BYTES;
/** Length of {@link Uart16550.save}'s result in bytes. */
export const UART_STATE_BYTES = SAVED_TRANSMITTER + 1 + FIFO_BYTES;
const FLAG_OVERRUN = 1;
const FLAG_THRE_PENDING = 2;
const FLAG_READY_ONCE = 4;

/** The other end of the UART's cable. Its speed is unlimited: a virtual UART has no line rate. */
export interface UartLine {
  /** Accepts bytes from the transmitter, oldest first. Returns how many; the others remain until the next call. */
  transmit(bytes: Uint8Array): number;
  /** The next byte for the receiver; -1 if there is none. */
  receive(): number;
  /** The current MSR_CTS, MSR_DSR, MSR_RI and MSR_DCD. */
  readonly inputs: number;
}

export interface UartPorts {
  readonly line: UartLine;
  /** Sets the level of the interrupt pin; called whenever it changes. */
  readonly raise: (level: boolean) => void;
}

/**
 * The registers. A byte is passed to the line when written, and stays in the transmitter's FIFO while the line accepts
 * none. A byte written to a full FIFO is lost. Input stays on the line until the receiver has room, and while a guest that had
 * asserted RTS clears it and keeps DTR, as flow control does (Linux: stty crtscts); closing a port clears both.
 */
export class Uart16550 implements BusDevice {
  readonly name: string;
  readonly #line: UartLine;
  readonly #raise: UartPorts['raise'];
  readonly #receiver = new ByteRing(FIFO_BYTES);
  readonly #transmitter = new ByteRing(FIFO_BYTES);
  readonly #scratch = new Uint8Array(FIFO_BYTES);
  #ier = 0;
  #fcr = 0;
  #lcr = 0;
  #mcr = 0;
  #scr = 0;
  #msr = 0;
  #divisor = DIVISOR_115200;
  #hasOverrun = false;
  /** The transmitter became empty, and this has not been reported. */
  #isThrePending = false;
  /** DTR and RTS have been asserted together: RTS alone says something from now on. Some programs never assert it. */
  #wasReady = false;
  #isPaused = false;
  #level = false;
  #lost = 0;

  constructor(name: string, { line, raise }: UartPorts) {
    this.name = name;
    this.#line = line;
    this.#raise = raise;
    this.#msr = line.inputs;
  }

  /** Number of bytes that were written to a full transmitter. */
  get lost(): number {
    return this.#lost;
  }

  /** Number of bytes that the receiver takes now. */
  get receiverRoom(): number {
    const isHeld = this.#wasReady && outputsOf(this.#mcr) === MCR_DTR;
    return isHeld ? 0 : Math.max(0, this.#fifoBytes - this.#receiver.length);
  }

  /** Call when the line has new bytes, room or inputs. */
  update(): void {
    if (!this.#isPaused) {
      while (this.#moveBytes());
      this.#updateModem();
    }
    const level = this.#source() !== IIR_NO_INT;
    if (level === this.#level) return;
    this.#level = level;
    this.#raise(level);
  }

  read(offset: number, data: Uint8Array): void {
    for (let i = 0; i < data.length; i++) data[i] = this.#readRegister(offset + i);
    this.update();
  }

  write(offset: number, data: Uint8Array): void {
    for (let i = 0; i < data.length; i++) {
      this.#writeRegister(offset + i, data[i] as number);
      this.update();
    }
  }

  /** Resets to the power-on state. The line is unchanged. */
  reset(): void {
    this.#ier = this.#fcr = this.#lcr = this.#mcr = this.#scr = 0;
    this.#msr = this.#line.inputs;
    this.#divisor = DIVISOR_115200;
    this.#hasOverrun = this.#isThrePending = this.#wasReady = false;
    this.#receiver.clear();
    this.#transmitter.clear();
    this.update();
  }

  /** Stops using the line until {@link resume}; the registers keep working. */
  pause(): void {
    this.#isPaused = true;
  }

  resume(): void {
    this.#isPaused = false;
    this.update();
  }

  /** Saves all state that a guest can observe, {@link UART_STATE_BYTES} bytes. */
  save(): Uint8Array {
    const state = new Uint8Array(UART_STATE_BYTES);
    state[SAVED_IER] = this.#ier;
    state[SAVED_FCR] = this.#fcr;
    state[SAVED_LCR] = this.#lcr;
    state[SAVED_MCR] = this.#mcr;
    state[SAVED_SCR] = this.#scr;
    state[SAVED_MSR] = this.#msr;
    state[SAVED_DIVISOR] = this.#divisor & 0xff;
    state[SAVED_DIVISOR + 1] = this.#divisor >> 8;
    state[SAVED_FLAGS] =
      (this.#hasOverrun ? FLAG_OVERRUN : 0) |
      (this.#isThrePending ? FLAG_THRE_PENDING : 0) |
      (this.#wasReady ? FLAG_READY_ONCE : 0);
    saveRing(this.#receiver, state, SAVED_RECEIVER);
    saveRing(this.#transmitter, state, SAVED_TRANSMITTER);
    return state;
  }

  /** Restores a saved state, ignoring bits that no UART has. Returns false if it is not a valid state. */
  load(state: Uint8Array): boolean {
    const at = (index: number): number => state[index] as number;
    const isWhole = state.length === UART_STATE_BYTES;
    if (!isWhole || at(SAVED_RECEIVER) > FIFO_BYTES || at(SAVED_TRANSMITTER) > FIFO_BYTES) return false;
    this.#ier = at(SAVED_IER) & IER_BITS;
    this.#fcr = at(SAVED_FCR) & ~FCR_CLEARS;
    this.#lcr = at(SAVED_LCR);
    this.#mcr = at(SAVED_MCR) & MCR_BITS;
    this.#scr = at(SAVED_SCR);
    this.#msr = at(SAVED_MSR);
    this.#divisor = at(SAVED_DIVISOR) | (at(SAVED_DIVISOR + 1) << 8);
    this.#hasOverrun = (at(SAVED_FLAGS) & FLAG_OVERRUN) !== 0;
    this.#isThrePending = (at(SAVED_FLAGS) & FLAG_THRE_PENDING) !== 0;
    this.#wasReady = (at(SAVED_FLAGS) & FLAG_READY_ONCE) !== 0;
    loadRing(this.#receiver, state, SAVED_RECEIVER);
    loadRing(this.#transmitter, state, SAVED_TRANSMITTER);
    this.update();
    return true;
  }

  #readRegister(register: number): number {
    const isDivisor = (this.#lcr & LCR_DLAB) !== 0;
    switch (register) {
      case RBR_THR:
        return isDivisor ? this.#divisor & 0xff : this.#receiver.shift();
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
        const status =
          (this.#transmitter.length === 0 ? LSR_THRE_TEMT : 0) |
          (this.#receiver.length > 0 ? LSR_DR : 0) |
          (this.#hasOverrun ? LSR_OE : 0);
        this.#hasOverrun = false;
        return status;
      }
      case MSR: {
        const status = this.#msr;
        this.#msr &= ~MSR_DELTAS;
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
        if (outputsOf(value) === (MCR_DTR | MCR_RTS)) this.#wasReady = true;
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
    this.#isThrePending = false;
    if (this.#transmitter.length < this.#fifoBytes) this.#transmitter.push(byte);
    else this.#lost++;
  }

  #enableInterrupts(value: number): void {
    // Enabling it while the transmitter is empty raises it.
    if ((value & ~this.#ier & IER_THRI) !== 0 && this.#transmitter.length === 0) this.#isThrePending = true;
    this.#ier = value;
  }

  #controlFifo(value: number): void {
    const isToggled = ((value ^ this.#fcr) & FCR_ENABLE_FIFO) !== 0;
    if (isToggled || (value & FCR_CLEAR_RCVR) !== 0) this.#receiver.clear();
    if ((isToggled || (value & FCR_CLEAR_XMIT) !== 0) && this.#transmitter.length > 0) {
      this.#transmitter.clear();
      this.#isThrePending = true;
    }
    this.#fcr = value & ~FCR_CLEARS;
  }

  /**
   * Moves bytes between FIFOs and line, or in loopback from one FIFO to the other. Returns whether more may be
   * possible.
   */
  #moveBytes(): boolean {
    const waiting = this.#transmitter.length;
    if ((this.#mcr & MCR_LOOP) !== 0) {
      while (this.#transmitter.length > 0) this.#hearOneself(this.#transmitter.shift());
    } else {
      const bytes = this.#transmitter.peek(this.#scratch);
      if (bytes.length > 0) this.#transmitter.drop(this.#line.transmit(bytes));
      for (let byte = this.#nextByte(); byte >= 0; byte = this.#nextByte()) this.#receiver.push(byte);
    }
    if (waiting > 0 && this.#transmitter.length === 0) this.#isThrePending = true;
    return this.#transmitter.length > 0 && this.#transmitter.length < waiting;
  }

  #nextByte(): number {
    return this.receiverRoom > 0 ? this.#line.receive() : -1;
  }

  #hearOneself(byte: number): void {
    if (this.receiverRoom > 0) this.#receiver.push(byte);
    else this.#hasOverrun = true;
  }

  /** In loopback, the four outputs are connected to the four inputs. */
  #updateModem(): void {
    const inputs = (this.#mcr & MCR_LOOP) === 0 ? this.#line.inputs : loopedInputs(this.#mcr);
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
    if ((this.#ier & IER_RDI) !== 0 && this.#receiver.length > 0) {
      const trigger = this.#isFifoEnabled ? (TRIGGER_LEVELS[this.#fcr >> FCR_TRIGGER_SHIFT] as number) : 1;
      // The line is always idle by now, so the time-out of four characters has passed.
      return this.#receiver.length >= trigger ? IIR_RDI : IIR_RX_TIMEOUT;
    }
    if ((this.#ier & IER_THRI) !== 0 && this.#isThrePending) return IIR_THRI;
    if ((this.#ier & IER_MSI) !== 0 && (this.#msr & MSR_DELTAS) !== 0) return IIR_MSI;
    return IIR_NO_INT;
  }
}

/** DTR and RTS as they leave the chip; in loopback, both are inactive. */
const outputsOf = (mcr: number): number => ((mcr & MCR_LOOP) !== 0 ? 0 : mcr & (MCR_DTR | MCR_RTS));

/** RTS to CTS, DTR to DSR, OUT1 to RI, OUT2 to DCD. */
function loopedInputs(mcr: number): number {
  const [out1, out2] = [0x04, 0x08];
  return (
    ((mcr & MCR_RTS) !== 0 ? MSR_CTS : 0) |
    ((mcr & MCR_DTR) !== 0 ? MSR_DSR : 0) |
    ((mcr & out1) !== 0 ? MSR_RI : 0) |
    ((mcr & out2) !== 0 ? MSR_DCD : 0)
  );
}

function saveRing(ring: ByteRing, state: Uint8Array, at: number): void {
  state[at] = ring.length;
  ring.peek(state.subarray(at + 1, at + 1 + FIFO_BYTES));
}

function loadRing(ring: ByteRing, state: Uint8Array, at: number): void {
  ring.clear();
  for (let i = 0; i < (state[at] as number); i++) ring.push(state[at + 1 + i] as number);
}
