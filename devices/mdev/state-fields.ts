/** The fields of a device's saved state: little-endian, in a fixed order, after a name and a version of the format. */

const NAME_BYTES = 4;
const HEADER_BYTES = NAME_BYTES + 4;

/**
 * Writes the fields of a device's state one after another. A value that its field cannot hold is a RangeError, as that is a fault of the
 * device. @see readState
 */
export class StateWriter {
  readonly #pieces: Uint8Array[] = [];

  /**
   * @param name of the kind of device, 4 characters of ASCII
   * @param version of its format, from 1 on
   */
  constructor(name: string, version: number) {
    if (!/^[ -~]{4}$/.test(name)) throw new RangeError(`a state cannot be called '${name}'`);
    this.bytes(Buffer.from(name, 'latin1')).u32(version);
  }

  /** A number of 8 bits, unsigned. */
  u8(value: number): this {
    return this.#number(1, value);
  }

  /** A number of 16 bits, unsigned. */
  u16(value: number): this {
    return this.#number(2, value);
  }

  /** A number of 32 bits, unsigned. */
  u32(value: number): this {
    return this.#number(4, value);
  }

  /** A number of 64 bits, unsigned. */
  u64(value: bigint): this {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64LE(value);
    return this.bytes(bytes);
  }

  /** Bytes whose number the reader knows. They are not copied: change them only after {@link finish}. */
  bytes(data: Uint8Array): this {
    this.#pieces.push(data);
    return this;
  }

  /** The state as the fields one after the other, without a copy: bytes are those that were given. */
  get parts(): readonly Uint8Array[] {
    return this.#pieces;
  }

  /** The state: a copy of all fields. */
  finish(): Uint8Array {
    return Buffer.concat(this.#pieces);
  }

  #number(bytes: number, value: number): this {
    const field = Buffer.alloc(bytes);
    field.writeUIntLE(value, 0, bytes);
    return this.bytes(field);
  }
}

/** What is wrong with a state; {@link readState} catches it. */
class StateProblem extends Error {}

/** Reads the fields of an untrusted state. A method whose field is not there ends {@link readState}, which returns why. */
export class StateReader {
  readonly #data: Buffer;
  #at = 0;

  constructor(data: Uint8Array) {
    this.#data = Buffer.from(data.buffer, data.byteOffset, data.length);
  }

  /** Number of bytes that follow. */
  get left(): number {
    return this.#data.length - this.#at;
  }

  /** A number of 8 bits, unsigned. */
  u8(): number {
    return this.bytes(1).readUInt8();
  }

  /** A number of 16 bits, unsigned. */
  u16(): number {
    return this.bytes(2).readUInt16LE();
  }

  /** A number of 32 bits, unsigned. */
  u32(): number {
    return this.bytes(4).readUInt32LE();
  }

  /** A number of 64 bits, unsigned. */
  u64(): bigint {
    return this.bytes(8).readBigUInt64LE();
  }

  /** A field of one byte that is 0 or 1. */
  flag(what: string): boolean {
    const value = this.u8();
    if (value > 1) this.fail(`${what} is ${value}, and neither 0 nor 1`);
    return value === 1;
  }

  /** The next bytes: a view of the state. */
  bytes(count: number): Buffer {
    if (count > this.left) this.fail(`it ends after ${this.#data.length} bytes, inside a field`);
    this.#at += count;
    return this.#data.subarray(this.#at - count, this.#at);
  }

  /** Ends {@link readState}: the state is none of this device's. @param problem for a person */
  fail(problem: string): never {
    throw new StateProblem(problem);
  }

  /** As {@link fail}, unless the state and the device have the same. @param what they must have in common */
  same(what: string, saved: number, own: number): void {
    if (saved !== own) this.fail(`its ${what} is ${saved}, and this device's is ${own}`);
  }
}

/**
 * Reads a state of that name and version to its end. `read` changes nothing of the device: what it returns does, once all is known to
 * be right.
 * @returns what `read` returns, or what is wrong with the state
 */
export function readState<T extends object>(
  data: Uint8Array,
  name: string,
  version: number,
  read: (reader: StateReader) => T,
): T | string {
  const reader = new StateReader(data);
  try {
    const saved = reader.left < HEADER_BYTES ? '' : reader.bytes(NAME_BYTES).toString('latin1');
    if (saved !== name) reader.fail('it does not begin as one');
    const savedVersion = reader.u32();
    if (savedVersion !== version)
      reader.fail(`its format is version ${savedVersion}, and this reads version ${version}`);
    const result = read(reader);
    if (reader.left > 0) reader.fail(`${reader.left} bytes follow its end`);
    return result;
  } catch (error) {
    if (error instanceof StateProblem) return error.message;
    throw error;
  }
}
