/**
 * ACPI fixed hardware: PM1a event and control registers, the PM timer, one block of general-purpose events, and a reset
 * register, in one port range.
 * @see ACPI 6.5, section 4.8
 */
import { trace } from '../../sys/trace.js';
import type { BusDevice } from '../contracts.js';

/** First port of {@link AcpiPm}. */
export const ACPI_PM_PORT = 0x600;
/** Number of ports of {@link AcpiPm}. */
export const ACPI_PM_PORTS = 0x20;
/** I/O APIC pin of the system control interrupt (SCI). */
export const ACPI_SCI_GSI = 9;

/** Offsets of the register blocks; the FADT declares them. */
export const PM1_EVENT = 0x00;
export const PM1_EVENT_BYTES = 4;
export const PM1_CONTROL = 0x04;
export const PM1_CONTROL_BYTES = 2;
export const PM_TIMER = 0x08;
export const PM_RESET = 0x0c;
export const PM_GPE0_BLOCK = 0x10;
/** Status registers in the first half, enable registers in the second. */
export const PM_GPE0_BYTES = 4;

/** Writing this value to {@link PM_RESET} resets the machine. */
export const ACPI_RESET_VALUE = 0x01;
/** SLP_TYP of S5, soft off; the DSDT's \_S5 declares it. */
export const ACPI_S5_SLEEP_TYPE = 5;

const PM1_STATUS = PM1_EVENT;
const PM1_ENABLE = PM1_EVENT + 2;
const GPE0_STATUS = PM_GPE0_BLOCK;
const GPE0_ENABLE = PM_GPE0_BLOCK + PM_GPE0_BYTES / 2;

/** Set when the PM timer's highest bit changes. */
const TMR_STS = 1 << 0;
const PWRBTN_STS = 1 << 8;
const PM1_EVENTS = TMR_STS | (1 << 5) | PWRBTN_STS | (1 << 9) | (1 << 10);
/** PM1 control: events raise SCIs instead of SMIs. Always set. */
const SCI_EN = 1 << 0;
const SLP_TYP_SHIFT = 10;
const SLP_TYP_MASK = 7;
const SLP_EN = 1 << 13;
/** The bits of PM1 control that read back as written: BM_RLD and the sleep type. */
const CONTROL_STORED = (1 << 1) | (SLP_TYP_MASK << SLP_TYP_SHIFT);

const PM_TIMER_HZ = 3_579_545n;
const NS_PER_SECOND = 1_000_000_000n;

// Layout of a saved state: bytes, then the timer's nanoseconds.
const SAVED_ENABLE = 0;
const SAVED_STATUS = 2;
const SAVED_CONTROL = 4;
const SAVED_TIMER_HIGH = 6;
const SAVED_GPE = 7;
const SAVED_TIMER = SAVED_GPE + PM_GPE0_BYTES;
/** Length of AcpiPm.save's result in bytes. */
const ACPI_PM_STATE_BYTES = SAVED_TIMER + 8;

/** What {@link AcpiPm} needs of the machine. Called in the machine thread. */
export interface AcpiPmPorts {
  /** Monotonic clock in nanoseconds. */
  readonly nowNs: () => bigint;
  /** Sets the level of the SCI; called whenever it changes. */
  readonly raiseSci: (level: boolean) => void;
  /** The guest entered S5. */
  readonly powerOff: () => void;
  /** The guest requested a reset. */
  readonly reset: () => void;
}

/**
 * The registers of ACPI fixed hardware. An overflow of the PM timer sets TMR_STS but raises no SCI by itself: guests do
 * not depend on that. Machine thread only.
 */
export class AcpiPm implements BusDevice {
  readonly name = 'ACPI PM';
  readonly #ports: AcpiPmPorts;
  /** One byte per port. */
  readonly #pm1Enable = new Uint8Array(2);
  readonly #gpeStatus = new Uint8Array(PM_GPE0_BYTES / 2);
  readonly #gpeEnable = new Uint8Array(PM_GPE0_BYTES / 2);
  #pm1Status = 0;
  #control = 0;
  /** The timer's highest bit when the guest last cleared TMR_STS. */
  #seenTimerHigh: boolean;
  #sciLevel = false;
  /** The timer's time minus the machine's clock. */
  #offsetNs = 0n;

  constructor(ports: AcpiPmPorts) {
    this.#ports = ports;
    this.#seenTimerHigh = this.#timer() >= 2 ** 31;
  }

  /** Presses the power button: a guest that handles the event shuts down. */
  pressPowerButton(): void {
    this.#pm1Status |= PWRBTN_STS;
    this.#settle();
  }

  /** Raises a general-purpose event: the guest runs the DSDT's `_Exx`. @param index 0 to 15 */
  raiseGpe(index: number): void {
    this.#gpeStatus[index >> 3] = (this.#gpeStatus[index >> 3] as number) | (1 << (index & 7));
    this.#settle();
  }

  read(offset: number, data: Uint8Array): void {
    const timer = this.#timer(); // once, for consistent bytes
    for (let i = 0; i < data.length; i++) data[i] = this.#readByte(offset + i, timer);
  }

  write(offset: number, data: Uint8Array): void {
    for (let i = 0; i < data.length; i++) this.#writeByte(offset + i, data[i] as number);
    this.#settle();
  }

  /** Saves all that a guest can observe, always of one length. */
  save(): Uint8Array {
    const state = new Uint8Array(ACPI_PM_STATE_BYTES);
    const view = new DataView(state.buffer);
    state.set(this.#pm1Enable, SAVED_ENABLE);
    view.setUint16(SAVED_STATUS, this.#readPm1Status(this.#timer()), true);
    view.setUint16(SAVED_CONTROL, this.#control, true);
    state[SAVED_TIMER_HIGH] = this.#seenTimerHigh ? 1 : 0;
    state.set([...this.#gpeStatus, ...this.#gpeEnable], SAVED_GPE);
    view.setBigUint64(SAVED_TIMER, BigInt.asUintN(64, this.#timeNs()), true);
    return state;
  }

  /** Takes over a saved state, ignoring bits that there are not; the timer goes on where it was. Returns false if it is no state. */
  load(state: Uint8Array): boolean {
    if (state.length !== ACPI_PM_STATE_BYTES) return false;
    const view = new DataView(state.buffer, state.byteOffset, state.length);
    const enable = view.getUint16(SAVED_ENABLE, true) & PM1_EVENTS;
    this.#pm1Enable.set([enable & 0xff, enable >> 8]);
    this.#pm1Status = view.getUint16(SAVED_STATUS, true) & PM1_EVENTS;
    this.#control = view.getUint16(SAVED_CONTROL, true) & CONTROL_STORED;
    this.#seenTimerHigh = state[SAVED_TIMER_HIGH] === 1;
    const half = PM_GPE0_BYTES / 2;
    this.#gpeStatus.set(state.subarray(SAVED_GPE, SAVED_GPE + half));
    this.#gpeEnable.set(state.subarray(SAVED_GPE + half, SAVED_TIMER));
    this.#offsetNs = view.getBigUint64(SAVED_TIMER, true) - this.#ports.nowNs();
    this.#settle();
    return true;
  }

  #timeNs(): bigint {
    return this.#ports.nowNs() + this.#offsetNs;
  }

  #timer(): number {
    return Number(BigInt.asUintN(32, (this.#timeNs() * PM_TIMER_HZ) / NS_PER_SECOND));
  }

  #readByte(port: number, timer: number): number {
    switch (port) {
      case PM1_STATUS:
        return this.#readPm1Status(timer) & 0xff;
      case PM1_STATUS + 1:
        return this.#readPm1Status(timer) >> 8;
      case PM1_ENABLE:
      case PM1_ENABLE + 1:
        return this.#pm1Enable[port - PM1_ENABLE] as number;
      case PM1_CONTROL:
        return (this.#control | SCI_EN) & 0xff;
      case PM1_CONTROL + 1:
        return this.#control >> 8;
      case PM_TIMER:
      case PM_TIMER + 1:
      case PM_TIMER + 2:
      case PM_TIMER + 3:
        return (timer >>> (8 * (port - PM_TIMER))) & 0xff;
      case PM_RESET:
        return 0;
      case GPE0_STATUS:
      case GPE0_STATUS + 1:
        return this.#gpeStatus[port - GPE0_STATUS] as number;
      case GPE0_ENABLE:
      case GPE0_ENABLE + 1:
        return this.#gpeEnable[port - GPE0_ENABLE] as number;
      default:
        return 0xff;
    }
  }

  #readPm1Status(timer: number): number {
    if (timer >= 2 ** 31 !== this.#seenTimerHigh) this.#pm1Status |= TMR_STS;
    return this.#pm1Status;
  }

  #writeByte(port: number, value: number): void {
    switch (port) {
      case PM1_STATUS:
        if ((value & TMR_STS) !== 0) this.#seenTimerHigh = this.#timer() >= 2 ** 31;
        this.#pm1Status &= ~value;
        break;
      case PM1_STATUS + 1:
        this.#pm1Status &= ~(value << 8);
        break;
      case PM1_ENABLE:
      case PM1_ENABLE + 1:
        this.#pm1Enable[port - PM1_ENABLE] = value & (PM1_EVENTS >> (8 * (port - PM1_ENABLE)));
        break;
      case PM1_CONTROL:
        this.#control = ((this.#control & 0xff00) | value) & CONTROL_STORED;
        break;
      case PM1_CONTROL + 1:
        this.#control = ((this.#control & 0xff) | (value << 8)) & CONTROL_STORED;
        if (((value << 8) & SLP_EN) !== 0) this.#sleep();
        break;
      case PM_RESET:
        if (value === ACPI_RESET_VALUE) this.#ports.reset();
        break;
      case GPE0_STATUS:
      case GPE0_STATUS + 1:
        this.#gpeStatus[port - GPE0_STATUS] = (this.#gpeStatus[port - GPE0_STATUS] as number) & ~value;
        break;
      case GPE0_ENABLE:
      case GPE0_ENABLE + 1:
        this.#gpeEnable[port - GPE0_ENABLE] = value;
        break;
      default: // the timer is read-only, other ports have no register
    }
  }

  #sleep(): void {
    const type = (this.#control >> SLP_TYP_SHIFT) & SLP_TYP_MASK;
    if (type === ACPI_S5_SLEEP_TYPE) this.#ports.powerOff();
    else if (trace.guestMisuse.hasSubscribers)
      trace.guestMisuse.publish({
        device: this.name,
        what: 'sleep',
        text: `sleep type ${type} does not exist`,
      });
  }

  /** Raises the SCI while an enabled event is pending. */
  #settle(): void {
    const pm1Enable = (this.#pm1Enable[0] as number) | ((this.#pm1Enable[1] as number) << 8);
    const isGpe = this.#gpeStatus.some((status, i) => (status & (this.#gpeEnable[i] as number)) !== 0);
    const level = (this.#pm1Status & pm1Enable) !== 0 || isGpe;
    if (level === this.#sciLevel) return;
    this.#sciLevel = level;
    this.#ports.raiseSci(level);
  }
}
