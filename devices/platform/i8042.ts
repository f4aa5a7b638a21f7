/**
 * A keyboard controller (Intel 8042) without a keyboard: guests run its self-tests, detect no keyboard, and pulse its
 * reset line to restart the machine.
 */
import type { BusDevice } from '../contracts.js';

/** Data port. The ports between it and the command port belong to other devices. */
export const I8042_DATA_PORT = 0x60;
/** Command and status port. */
export const I8042_COMMAND_PORT = 0x64;

const STATUS_OUTPUT_FULL = 0x01;
const STATUS_SYSTEM = 0x04;
const STATUS_UNLOCKED = 0x10;
/** The addressed device does not respond. */
const STATUS_TIMEOUT = 0x40;

const COMMAND_READ_CONFIG = 0x20;
const COMMAND_WRITE_CONFIG = 0x60;
const COMMAND_TEST_AUX = 0xa9;
const COMMAND_SELF_TEST = 0xaa;
const COMMAND_TEST_KEYBOARD = 0xab;
const COMMAND_READ_OUTPUT = 0xd0;
const COMMAND_WRITE_OUTPUT = 0xd1;
/** 0xF0 to 0xFF pulse the output lines whose bits are 0. Line 0 is the processor's reset. */
const COMMAND_PULSE = 0xf0;

const SELF_TEST_PASSED = 0x55;
const INTERFACE_TEST_PASSED = 0x00;
const INTERFACE_TEST_NO_AUX = 0xff;
const RESEND = 0xfe;
/** System flag set, both interfaces disabled. */
const CONFIG_AT_RESET = 0x34;
const OUTPUT_RESET_LINE = 0x01;
const OUTPUT_A20 = 0x02;

/** Length of I8042.save's result in bytes: configuration, output, whether a byte waits, it and its status, the command. */
const I8042_STATE_BYTES = 6;
const OPERAND_COMMANDS = [COMMAND_WRITE_CONFIG, COMMAND_WRITE_OUTPUT];

/** What {@link I8042} needs of the machine. Called in the machine thread. */
export interface I8042Ports {
  /** The guest pulsed the reset line, or drove it low. */
  readonly reset: () => void;
}

/** The controller: one bus device per port. Machine thread only. */
export class I8042 {
  /** The device at {@link I8042_DATA_PORT}. */
  readonly data: BusDevice;
  /** The device at {@link I8042_COMMAND_PORT}. */
  readonly command: BusDevice;
  readonly #reset: () => void;
  #config = CONFIG_AT_RESET;
  #output = OUTPUT_RESET_LINE | OUTPUT_A20;
  /** Output buffer: the byte that the guest reads next, with its status bits. */
  #answer: { readonly value: number; readonly status: number } | undefined;
  /** The command that takes the next byte written to the data port as its operand. */
  #operandOf: number | undefined;

  constructor(ports: I8042Ports) {
    this.#reset = ports.reset;
    this.data = {
      name: 'i8042 data',
      read: (_offset, bytes) => {
        bytes[0] = this.#readData();
      },
      write: (_offset, bytes) => this.#writeData(bytes[0] ?? 0),
    };
    this.command = {
      name: 'i8042 command',
      read: (_offset, bytes) => {
        bytes[0] = this.#status();
      },
      write: (_offset, bytes) => this.#writeCommand(bytes[0] ?? 0),
    };
  }

  /** Saves all that a guest can observe, always of one length. */
  save(): Uint8Array {
    const { value = 0, status = 0 } = this.#answer ?? {};
    const isFull = this.#answer === undefined ? 0 : 1;
    return Uint8Array.of(this.#config, this.#output, isFull, value, status, this.#operandOf ?? 0);
  }

  /** Takes over a saved state. Returns false if it is not a valid one. */
  load(state: Uint8Array): boolean {
    const [config = 0, output = 0, isFull, value = 0, status = 0, command = 0] = state;
    const isKnown = command === 0 || OPERAND_COMMANDS.includes(command);
    if (state.length !== I8042_STATE_BYTES || !isKnown || (status & ~STATUS_TIMEOUT) !== 0) return false;
    this.#config = config;
    this.#output = output;
    this.#answer = isFull === 1 ? { value, status } : undefined;
    this.#operandOf = command === 0 ? undefined : command;
    return true;
  }

  #status(): number {
    const always = STATUS_SYSTEM | STATUS_UNLOCKED;
    return this.#answer === undefined ? always : always | STATUS_OUTPUT_FULL | this.#answer.status;
  }

  #readData(): number {
    const value = this.#answer?.value ?? 0;
    this.#answer = undefined;
    return value;
  }

  #tell(value: number, status = 0): void {
    this.#answer = { value, status };
  }

  #writeData(value: number): void {
    const command = this.#operandOf;
    this.#operandOf = undefined;
    switch (command) {
      case COMMAND_WRITE_CONFIG:
        this.#config = value;
        break;
      case COMMAND_WRITE_OUTPUT:
        this.#output = value;
        if ((value & OUTPUT_RESET_LINE) === 0) this.#reset();
        break;
      default: // addressed to the absent keyboard
        this.#tell(RESEND, STATUS_TIMEOUT);
    }
  }

  #writeCommand(command: number): void {
    this.#operandOf = undefined;
    switch (command) {
      case COMMAND_READ_CONFIG:
        this.#tell(this.#config);
        break;
      case COMMAND_WRITE_CONFIG:
      case COMMAND_WRITE_OUTPUT:
        this.#operandOf = command;
        break;
      case COMMAND_SELF_TEST:
        this.#config = CONFIG_AT_RESET;
        this.#tell(SELF_TEST_PASSED);
        break;
      case COMMAND_TEST_KEYBOARD:
        this.#tell(INTERFACE_TEST_PASSED);
        break;
      case COMMAND_TEST_AUX:
        this.#tell(INTERFACE_TEST_NO_AUX);
        break;
      case COMMAND_READ_OUTPUT:
        this.#tell(this.#output);
        break;
      default:
        if (command >= COMMAND_PULSE && (command & OUTPUT_RESET_LINE) === 0) this.#reset();
    }
  }
}
