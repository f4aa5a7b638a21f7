/** Resource descriptors for _CRS: ports, memory, buses and interrupts. @see ACPI 6.5, section 6.4 */
import { type Aml, buffer, concat } from './aml.js';

const IRQ_NO_FLAGS = 0x22;
const IRQ_WITH_FLAGS = 0x23;
const EDGE_SHARED = 0x11;
const IO_PORT = 0x47;
const END_TAG = 0x79;
const MEMORY32_FIXED = 0x86;
const DWORD_ADDRESS_SPACE = 0x87;
const WORD_ADDRESS_SPACE = 0x88;
const QWORD_ADDRESS_SPACE = 0x8a;

const DECODES_16_BITS = 1;
const READ_WRITE = 1;

const MEMORY_RANGE = 0;
const IO_RANGE = 1;
const BUS_NUMBER_RANGE = 2;
/** A resource producer (the bridge forwards the range) with fixed limits. */
const PRODUCER_FIXED = 0x0c;
const ENTIRE_IO_RANGE = 3;

function words(size: 2 | 4 | 8, ...values: readonly bigint[]): Aml {
  const bytes = new Uint8Array(values.length * size);
  for (const [i, value] of values.entries()) {
    if (value < 0n || value >> BigInt(8 * size) !== 0n)
      throw new RangeError(`0x${value.toString(16)} does not fit in ${size} bytes of a resource descriptor`);
    for (let j = 0; j < size; j++) bytes[i * size + j] = Number((value >> BigInt(8 * j)) & 0xffn);
  }
  return bytes;
}

/** Ports of a device. @throws RangeError for more than 255 */
export function ioPorts(base: number, count: number): Aml {
  if (count < 1 || count > 0xff) throw new RangeError(`${count} ports do not fit in a resource descriptor`);
  return concat(
    Uint8Array.of(IO_PORT, DECODES_16_BITS),
    words(2, BigInt(base), BigInt(base)),
    Uint8Array.of(1, count),
  );
}

/** An ISA interrupt: edge-triggered, not shared. */
export const isaIrq = (irq: number): Aml => concat(Uint8Array.of(IRQ_NO_FLAGS), words(2, 1n << BigInt(irq)));

/** An ISA interrupt that several devices share: edge-triggered, so each has to be asked until none wants it. */
export const sharedIsaIrq = (irq: number): Aml =>
  concat(Uint8Array.of(IRQ_WITH_FLAGS), words(2, 1n << BigInt(irq)), Uint8Array.of(EDGE_SHARED));

/** Registers of a device. */
export const fixedMemory32 = (base: bigint, bytes: bigint): Aml =>
  concat(Uint8Array.of(MEMORY32_FIXED, 9, 0, READ_WRITE), words(4, base, bytes));

const DESCRIPTORS = { 2: WORD_ADDRESS_SPACE, 4: DWORD_ADDRESS_SPACE, 8: QWORD_ADDRESS_SPACE } as const;

function addressSpace(size: 2 | 4 | 8, type: number, flags: number, base: bigint, length: bigint): Aml {
  const [granularity, translation] = [0n, 0n];
  const fields = words(size, granularity, base, base + length - 1n, translation, length);
  const head = Uint8Array.of(type, PRODUCER_FIXED, flags);
  const count = BigInt(head.length + fields.length);
  return concat(Uint8Array.of(DESCRIPTORS[size]), words(2, count), head, fields);
}

/** Buses below a bridge. */
export const busNumbers = (first: number, count: number): Aml =>
  addressSpace(2, BUS_NUMBER_RANGE, 0, BigInt(first), BigInt(count));

/** Ports that a bridge forwards. */
export const ioWindow = (base: bigint, length: bigint): Aml =>
  addressSpace(2, IO_RANGE, ENTIRE_IO_RANGE, base, length);

/** Memory that a bridge forwards, prefetchable or not. */
export const memoryWindow = (base: bigint, length: bigint): Aml =>
  addressSpace(base + length <= 1n << 32n ? 4 : 8, MEMORY_RANGE, READ_WRITE, base, length);

/** The buffer that _CRS returns. A checksum of 0 counts as valid. */
export const resourceTemplate = (...descriptors: readonly Aml[]): Aml =>
  buffer(concat(...descriptors, Uint8Array.of(END_TAG, 0)));
