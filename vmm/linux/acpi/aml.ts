/**
 * An assembler for AML, ACPI's byte code: each function returns the bytes of one term. Terms are nested by passing the
 * results of inner calls; nothing is kept between calls.
 * @see ACPI 6.5, chapter 20
 */

/** The bytes of one AML term. */
export type Aml = Uint8Array;

const ZERO_OP = 0x00;
const ONE_OP = 0x01;
const NAME_OP = 0x08;
const BYTE_PREFIX = 0x0a;
const WORD_PREFIX = 0x0b;
const DWORD_PREFIX = 0x0c;
const STRING_PREFIX = 0x0d;
const QWORD_PREFIX = 0x0e;
const SCOPE_OP = 0x10;
const BUFFER_OP = 0x11;
const PACKAGE_OP = 0x12;
const METHOD_OP = 0x14;
const DUAL_NAME_PREFIX = 0x2e;
const MULTI_NAME_PREFIX = 0x2f;
const EXT_OP_PREFIX = 0x5b;
const LOCAL0_OP = 0x60;
const ARG0_OP = 0x68;
const STORE_OP = 0x70;
const SHIFT_LEFT_OP = 0x79;
const AND_OP = 0x7b;
const OR_OP = 0x7d;
const NOTIFY_OP = 0x86;
const CREATE_DWORD_FIELD_OP = 0x8a;
const LNOT_OP = 0x92;
const LEQUAL_OP = 0x93;
const IF_OP = 0xa0;
const RETURN_OP = 0xa4;
// After EXT_OP_PREFIX.
const MUTEX_OP = 0x01;
const ACQUIRE_OP = 0x23;
const RELEASE_OP = 0x27;
const OPREGION_OP = 0x80;
const FIELD_OP = 0x81;
const DEVICE_OP = 0x82;

/** The root of the namespace in a path. */
const ROOT_CHAR = 0x5c;
const PARENT_PREFIX_CHAR = 0x5e;
const NAME_SEG_BYTES = 4;
const NAME_SEG = /^[A-Z_][A-Z0-9_]{0,3}$/;

/** Maximum length of a package, including its own length field: 28 bits. @see ACPI 6.5, section 20.2.4 */
const PKG_LENGTH_END = 2 ** 28;

export function concat(...parts: readonly Aml[]): Aml {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

const bytesOf = (...values: readonly number[]): Aml => Uint8Array.from(values);
const ascii = (text: string): Aml => new TextEncoder().encode(text);

function littleEndian(value: bigint, bytes: number): Aml {
  return Uint8Array.from({ length: bytes }, (_, i) => Number((value >> BigInt(8 * i)) & 0xffn));
}

/**
 * PkgLength of a package with `bytes` bytes of contents: one byte up to 63, otherwise two to four, the first of which
 * gives the number of following ones. The length includes itself.
 * @throws RangeError past 2^28 - 1
 */
export function pkgLength(bytes: number): Aml {
  if (bytes + 1 < 0x40) return bytesOf(bytes + 1);
  const size = bytes + 2 < 2 ** 12 ? 2 : bytes + 3 < 2 ** 20 ? 3 : 4;
  const length = bytes + size;
  if (length >= PKG_LENGTH_END) throw new RangeError(`an AML package cannot have ${bytes} bytes`);
  const following = Array.from({ length: size - 1 }, (_, i) => (length >> (4 + 8 * i)) & 0xff);
  return bytesOf(((size - 1) << 6) | (length & 0xf), ...following);
}

function packaged(op: Aml, ...parts: readonly Aml[]): Aml {
  const body = concat(...parts);
  return concat(op, pkgLength(body.length), body);
}

function nameSeg(segment: string): Aml {
  if (!NAME_SEG.test(segment)) throw new RangeError(`${JSON.stringify(segment)} is not an ACPI name`);
  return ascii(segment.padEnd(NAME_SEG_BYTES, '_'));
}

/**
 * A name or path: `_CRS`, `\_SB.PCI0`, `^PRES`. As a term, it refers to the object. @throws RangeError if it is invalid
 */
export function path(text: string): Aml {
  const [prefix = ''] = /^\\|^\^*/.exec(text) ?? [];
  const segments = text.length === prefix.length ? [] : text.slice(prefix.length).split('.').map(nameSeg);
  const start = Uint8Array.from(prefix, (char) => (char === '\\' ? ROOT_CHAR : PARENT_PREFIX_CHAR));
  if (text === '') throw new RangeError('an ACPI name cannot be empty');
  if (segments.length === 0) return concat(start, bytesOf(0));
  if (segments.length === 1) return concat(start, ...segments);
  if (segments.length === 2) return concat(start, bytesOf(DUAL_NAME_PREFIX), ...segments);
  return concat(start, bytesOf(MULTI_NAME_PREFIX, segments.length), ...segments);
}

/** The shortest encoding of an integer of up to 64 bits. */
export function integer(value: number | bigint): Aml {
  const number = BigInt(value);
  if (number < 0n || number >= 1n << 64n) throw new RangeError(`${value} does not fit in 64 bits`);
  if (number === 0n) return bytesOf(ZERO_OP);
  if (number === 1n) return bytesOf(ONE_OP);
  if (number < 1n << 8n) return concat(bytesOf(BYTE_PREFIX), littleEndian(number, 1));
  if (number < 1n << 16n) return concat(bytesOf(WORD_PREFIX), littleEndian(number, 2));
  if (number < 1n << 32n) return concat(bytesOf(DWORD_PREFIX), littleEndian(number, 4));
  return concat(bytesOf(QWORD_PREFIX), littleEndian(number, 8));
}

/** A text, which ends with a zero byte. @throws RangeError for more than printable ASCII */
export function string(text: string): Aml {
  if (!/^[ -~]*$/.test(text)) throw new RangeError(`${JSON.stringify(text)} is not an AML string`);
  return concat(bytesOf(STRING_PREFIX), ascii(text), bytesOf(0));
}

export const buffer = (data: Uint8Array): Aml => packaged(bytesOf(BUFFER_OP), integer(data.length), data);

/** @throws RangeError past 255 elements */
export function pkg(...elements: readonly Aml[]): Aml {
  if (elements.length > 255) throw new RangeError(`an AML package cannot have ${elements.length} elements`);
  return packaged(bytesOf(PACKAGE_OP), bytesOf(elements.length), ...elements);
}

/**
 * A compressed EISA identifier such as `PNP0A08`, as an integer. @see ACPI 6.5, section 19.3.4 @throws RangeError if it
 * is invalid
 */
export function eisaId(id: string): Aml {
  if (!/^[A-Z]{3}[0-9A-F]{4}$/.test(id)) throw new RangeError(`${id} is not an EISA identifier`);
  const letters = [0, 1, 2].reduce((value, i) => (value << 5) | (id.charCodeAt(i) - 0x40), 0);
  const product = Number.parseInt(id.slice(3), 16);
  const swapped = (value: number) => ((value & 0xff) << 8) | (value >> 8);
  return integer((BigInt(swapped(product)) << 16n) | BigInt(swapped(letters)));
}

/** A UUID as encoded by ToUUID: its first three fields are little-endian. */
export function uuid(text: string): Aml {
  const order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
  const digits = text.replaceAll('-', '');
  if (!/^[0-9a-fA-F]{32}$/.test(digits)) throw new RangeError(`${text} is not a UUID`);
  return buffer(Uint8Array.from(order, (i) => Number.parseInt(digits.slice(2 * i, 2 * i + 2), 16)));
}

// --- declarations ---

export const name = (at: string, value: Aml): Aml => concat(bytesOf(NAME_OP), path(at), value);

export const scope = (at: string, ...terms: readonly Aml[]): Aml =>
  packaged(bytesOf(SCOPE_OP), path(at), ...terms);

export const device = (at: string, ...terms: readonly Aml[]): Aml =>
  packaged(bytesOf(EXT_OP_PREFIX, DEVICE_OP), path(at), ...terms);

/** @param argCount 0 to 7 */
export const method = (at: string, argCount: number, ...terms: readonly Aml[]): Aml =>
  packaged(bytesOf(METHOD_OP), path(at), bytesOf(argCount), ...terms);

/** A mutex of sync level 0. */
export const mutex = (at: string): Aml => concat(bytesOf(EXT_OP_PREFIX, MUTEX_OP), path(at), bytesOf(0));

/** A region of I/O ports, for fields. */
export const ioRegion = (at: string, base: number, bytes: number): Aml =>
  concat(bytesOf(EXT_OP_PREFIX, OPREGION_OP), path(at), bytesOf(1), integer(base), integer(bytes));

/** Consecutive 32-bit registers in a region. Bits that are not written are written as 0. */
export function dwordFields(region: string, ...names: readonly string[]): Aml {
  const [DWORD_ACCESS, WRITE_AS_ZEROS] = [3, 2];
  const fields = names.map((field) => concat(nameSeg(field), pkgLengthOfBits(32)));
  const flags = bytesOf(DWORD_ACCESS | (WRITE_AS_ZEROS << 5));
  return packaged(bytesOf(EXT_OP_PREFIX, FIELD_OP), path(region), flags, ...fields);
}

/** A field's width is encoded as a PkgLength that does not include itself. */
const pkgLengthOfBits = (bits: number): Aml => bytesOf(bits);

// --- terms of methods ---

export const arg = (index: number): Aml => bytesOf(ARG0_OP + index);
export const local = (index: number): Aml => bytesOf(LOCAL0_OP + index);
export const store = (value: Aml, target: Aml): Aml => concat(bytesOf(STORE_OP), value, target);
export const and = (a: Aml, b: Aml, target: Aml): Aml => concat(bytesOf(AND_OP), a, b, target);
export const or = (a: Aml, b: Aml, target: Aml): Aml => concat(bytesOf(OR_OP), a, b, target);
export const shiftLeft = (value: Aml, count: Aml, target: Aml): Aml =>
  concat(bytesOf(SHIFT_LEFT_OP), value, count, target);
export const lequal = (a: Aml, b: Aml): Aml => concat(bytesOf(LEQUAL_OP), a, b);
export const lnot = (a: Aml): Aml => concat(bytesOf(LNOT_OP), a);
export const notify = (object: string, value: number): Aml =>
  concat(bytesOf(NOTIFY_OP), path(object), integer(value));
export const ret = (value: Aml): Aml => concat(bytesOf(RETURN_OP), value);
export const createDwordField = (source: Aml, byte: number, field: string): Aml =>
  concat(bytesOf(CREATE_DWORD_FIELD_OP), source, integer(byte), path(field));
export const ifThen = (condition: Aml, ...terms: readonly Aml[]): Aml =>
  packaged(bytesOf(IF_OP), condition, ...terms);
/** Waits without timeout. */
export const acquire = (at: string): Aml =>
  concat(bytesOf(EXT_OP_PREFIX, ACQUIRE_OP), path(at), bytesOf(0xff, 0xff));
export const release = (at: string): Aml => concat(bytesOf(EXT_OP_PREFIX, RELEASE_OP), path(at));
