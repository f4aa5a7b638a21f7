/**
 * The real-time clock of a PC (Motorola MC146818): time of day, and 114 bytes of memory for firmware and guests. It
 * raises no interrupts: the alarm registers are plain storage, and updates are reported by register C only.
 */
import type { BusDevice } from '../contracts.js';

/** Port of the index register; the data register follows it. */
export const RTC_PORT = 0x70;
/** Number of ports of {@link Rtc}. */
export const RTC_PORTS = 2;
/** Index of the century register, in the same format as the other time registers; the FADT declares it. */
export const RTC_CENTURY = 0x32;

const INDEX = 0;
/** The highest bit of the index port masks NMIs; it is not part of the index. */
const INDEX_BITS = 0x7f;
const REGISTERS = 128;

const SECONDS = 0x00;
const MINUTES = 0x02;
const HOURS = 0x04;
const DAY_OF_WEEK = 0x06;
const DAY_OF_MONTH = 0x07;
const MONTH = 0x08;
const YEAR = 0x09;
const REG_A = 0x0a;
const REG_B = 0x0b;
const REG_C = 0x0c;
const REG_D = 0x0d;

const REG_A_UIP = 0x80;
/** A 32.768 kHz crystal, and the rate that PC firmware selects. */
const REG_A_AT_RESET = 0x26;
const REG_B_24_HOUR = 0x02;
const REG_B_BINARY = 0x04;
const REG_B_SET = 0x80;
const REG_C_UPDATE_ENDED = 0x10;
const REG_D_VALID = 0x80;
const HOUR_PM = 0x80;

const SECOND_MS = 1000;
/** How long before an update UIP is set. Data sheet: 1984 + 244 us. */
const UPDATE_MS = 2.228;

/** Date and time, UTC. */
interface Calendar {
  readonly second: number;
  readonly minute: number;
  readonly hour: number;
  /** 1 is Sunday. */
  readonly weekday: number;
  readonly day: number;
  readonly month: number;
  readonly year: number;
  readonly century: number;
}

function calendarOf(timeMs: number): Calendar {
  const date = new Date(timeMs);
  return {
    second: date.getUTCSeconds(),
    minute: date.getUTCMinutes(),
    hour: date.getUTCHours(),
    weekday: date.getUTCDay() + 1,
    day: date.getUTCDate(),
    month: date.getUTCMonth() + 1,
    year: date.getUTCFullYear() % 100,
    century: Math.floor(date.getUTCFullYear() / 100),
  };
}

/** Milliseconds since 1970; days past the end of the month overflow into the next, as in Date. */
const timeOf = (at: Calendar): number =>
  Date.UTC(at.century * 100 + at.year, at.month - 1, at.day, at.hour, at.minute, at.second);

const FIELDS: Readonly<Record<number, keyof Calendar>> = {
  [SECONDS]: 'second',
  [MINUTES]: 'minute',
  [HOURS]: 'hour',
  [DAY_OF_WEEK]: 'weekday',
  [DAY_OF_MONTH]: 'day',
  [MONTH]: 'month',
  [YEAR]: 'year',
  [RTC_CENTURY]: 'century',
};

const CALENDAR = Object.values(FIELDS);
// Layout of a saved state: bytes, then the offset and the reported second as 64-bit floats, then the calendar's numbers.
const SAVED_NUMBERS = REGISTERS + 4;
/** Length of Rtc.save's result in bytes. */
const RTC_STATE_BYTES = SAVED_NUMBERS + 8 * (2 + CALENDAR.length);
/** A date beyond this would be none of JavaScript's with the guest's own changes. */
const MOST_OFFSET_MS = 4e15;

/** What {@link Rtc} needs of the machine. */
export interface RtcPorts {
  /** The host's clock: milliseconds since 1970, UTC; may be fractional. */
  readonly nowMs: () => number;
}

/** The clock. It runs on the host's clock, with the offset that the guest sets. Machine thread only. */
export class Rtc implements BusDevice {
  readonly name = 'RTC';
  readonly #nowMs: () => number;
  /** Alarm registers and memory as written; the time registers are computed. */
  readonly #stored = new Uint8Array(REGISTERS);
  #index = 0;
  #regA = REG_A_AT_RESET;
  #regB = REG_B_24_HOUR;
  /** The guest's time minus the host's. */
  #offsetMs = 0;
  /** The time registers while REG_B_SET stops the clock. */
  #frozen: Calendar | undefined;
  /** The second in which the guest last read register C, which clears its flags. */
  #reportedSecond: number;

  constructor(ports: RtcPorts) {
    this.#nowMs = ports.nowMs;
    this.#reportedSecond = this.#second();
  }

  /** The chip has eight data lines: wider accesses are one for each port. */
  read(offset: number, data: Uint8Array): void {
    for (let i = 0; i < data.length; i++) if (offset + i !== INDEX) data[i] = this.#readRegister(this.#index);
  }

  write(offset: number, data: Uint8Array): void {
    for (const [i, value] of data.entries()) {
      if (offset + i === INDEX) this.#index = value & INDEX_BITS;
      else this.#writeRegister(this.#index, value);
    }
  }

  /** Saves all that a guest can observe, always of one length. */
  save(): Uint8Array {
    const state = new Uint8Array(RTC_STATE_BYTES);
    const isFrozen = this.#frozen !== undefined;
    state.set(this.#stored);
    state.set([this.#index, this.#regA, this.#regB, isFrozen ? 1 : 0], REGISTERS);
    const numbers = new DataView(state.buffer, SAVED_NUMBERS);
    const calendar = this.#calendar();
    for (const [i, value] of [
      this.#offsetMs,
      this.#reportedSecond,
      ...CALENDAR.map((field) => calendar[field]),
    ].entries())
      numbers.setFloat64(8 * i, value, true);
    return state;
  }

  /** Takes over a saved state: the clock shows what it would show if it had run on. Returns false if it is not a valid one. */
  load(state: Uint8Array): boolean {
    if (state.length !== RTC_STATE_BYTES) return false;
    const view = new DataView(state.buffer, state.byteOffset + SAVED_NUMBERS);
    const [offsetMs = 0, second = 0, ...calendar] = Array.from({ length: 2 + CALENDAR.length }, (_, i) =>
      view.getFloat64(8 * i, true),
    );
    const [index = 0, regA = 0, regB = 0, frozen] = state.subarray(REGISTERS);
    const isSane = Math.abs(offsetMs) <= MOST_OFFSET_MS && Number.isFinite(second);
    if (!isSane || !calendar.every((value) => Number.isInteger(value) && value >= 0 && value < 256))
      return false;
    this.#stored.set(state.subarray(0, REGISTERS));
    this.#index = index & INDEX_BITS;
    this.#regA = regA & ~REG_A_UIP;
    this.#regB = regB;
    this.#offsetMs = offsetMs;
    this.#reportedSecond = second;
    const fields = Object.fromEntries(CALENDAR.map((field, i) => [field, calendar[i]]));
    this.#frozen = frozen === 1 ? (fields as unknown as Calendar) : undefined;
    return true;
  }

  #timeMs(): number {
    return this.#nowMs() + this.#offsetMs;
  }

  #second(): number {
    return Math.floor(this.#timeMs() / SECOND_MS);
  }

  #readRegister(register: number): number {
    const field = FIELDS[register];
    if (field !== undefined) return this.#encode(field, this.#calendar()[field]);
    switch (register) {
      case REG_A:
        return this.#regA | (this.#isUpdateNear() ? REG_A_UIP : 0);
      case REG_B:
        return this.#regB;
      case REG_C: {
        const second = this.#second();
        const hasUpdated = this.#frozen === undefined && second !== this.#reportedSecond;
        this.#reportedSecond = second;
        return hasUpdated ? REG_C_UPDATE_ENDED : 0;
      }
      case REG_D:
        return REG_D_VALID;
      default:
        return this.#stored[register] as number;
    }
  }

  #writeRegister(register: number, value: number): void {
    const field = FIELDS[register];
    if (field !== undefined) {
      this.#setTime({ ...this.#calendar(), [field]: this.#decode(field, value) });
      return;
    }
    switch (register) {
      case REG_A:
        this.#regA = value & ~REG_A_UIP;
        break;
      case REG_B:
        this.#writeRegB(value);
        break;
      case REG_C:
      case REG_D:
        break; // read-only
      default:
        this.#stored[register] = value;
    }
  }

  /** SET stops the clock; clearing it resumes the clock from the time that was written. */
  #writeRegB(value: number): void {
    const wasSetting = this.#frozen;
    const isSetting = (value & REG_B_SET) !== 0;
    if (isSetting) this.#frozen ??= this.#calendar();
    else this.#frozen = undefined;
    this.#regB = value;
    if (wasSetting !== undefined && !isSetting) this.#setTime(wasSetting);
  }

  #setTime(to: Calendar): void {
    if (this.#frozen !== undefined) this.#frozen = to;
    else this.#offsetMs = timeOf(to) - this.#nowMs();
  }

  #calendar(): Calendar {
    return this.#frozen ?? calendarOf(this.#timeMs());
  }

  #isUpdateNear(): boolean {
    const time = this.#timeMs();
    const sinceUpdate = time - Math.floor(time / SECOND_MS) * SECOND_MS;
    return this.#frozen === undefined && sinceUpdate >= SECOND_MS - UPDATE_MS;
  }

  #encode(field: keyof Calendar, value: number): number {
    if (field !== 'hour' || (this.#regB & REG_B_24_HOUR) !== 0) return this.#encodeNumber(value);
    return this.#encodeNumber(value % 12 === 0 ? 12 : value % 12) | (value >= 12 ? HOUR_PM : 0);
  }

  #decode(field: keyof Calendar, value: number): number {
    if (field !== 'hour' || (this.#regB & REG_B_24_HOUR) !== 0) return this.#decodeNumber(value);
    return (this.#decodeNumber(value & ~HOUR_PM) % 12) + ((value & HOUR_PM) !== 0 ? 12 : 0);
  }

  #encodeNumber(value: number): number {
    return (this.#regB & REG_B_BINARY) !== 0
      ? value & 0xff
      : ((Math.floor(value / 10) << 4) | (value % 10)) & 0xff;
  }

  #decodeNumber(value: number): number {
    return (this.#regB & REG_B_BINARY) !== 0 ? value : (value >> 4) * 10 + (value & 0xf);
  }
}
