/** Base address registers. @see PCI Local Bus 3.0, section 6.2.5 */
import type { Bus } from '../contracts.js';
import type { ConfigSpace } from './config-space.js';
import {
  PCI_BASE_ADDRESS_0,
  PCI_BASE_ADDRESS_MEM_PREFETCH,
  PCI_BASE_ADDRESS_MEM_TYPE_64,
  PCI_BASE_ADDRESS_MEM_TYPE_MASK,
  PCI_BASE_ADDRESS_SPACE_IO,
  PCI_ROM_ADDRESS,
  PCI_ROM_ADDRESS_ENABLE,
  PCI_STD_NUM_BARS,
} from './pci-regs.js';

/** What a BAR decodes: memory at a 32-bit or 64-bit address, or I/O ports. */
export type BarKind = 'memory32' | 'memory64' | 'io';

const MIN_MEMORY_BYTES = 16n;
const MIN_IO_BYTES = 4n;
const MIN_ROM_BYTES = 2048n;
const MAX_BYTES_32 = 1n << 31n;

/** Type and size of one BAR. A 64-bit BAR also occupies the next register. */
export interface BarShape {
  /** 0 to 5 */
  readonly index: number;
  /** What it decodes. */
  readonly kind: BarKind;
  /** Whether reads have no side effects (memory BARs only). */
  readonly isPrefetchable: boolean;
  /** Bytes; a power of two. */
  readonly size: bigint;
}

/** Decodes the type bits of a BAR's low register. */
export function decodeBarType(index: number, low: number): Pick<BarShape, 'kind' | 'isPrefetchable'> {
  if (low & PCI_BASE_ADDRESS_SPACE_IO) return { kind: 'io', isPrefetchable: false };
  const is64 = (low & PCI_BASE_ADDRESS_MEM_TYPE_MASK) === PCI_BASE_ADDRESS_MEM_TYPE_64;
  return {
    // The last register has no next one for the upper half.
    kind: is64 && index < PCI_STD_NUM_BARS - 1 ? 'memory64' : 'memory32',
    isPrefetchable: (low & PCI_BASE_ADDRESS_MEM_PREFETCH) !== 0,
  };
}

/**
 * Smallest size of a BAR of this kind that covers `bytes`.
 * @throws RangeError if no BAR of this kind is large enough
 */
export function barSize(kind: BarKind, bytes: bigint): bigint {
  let size = kind === 'io' ? MIN_IO_BYTES : MIN_MEMORY_BYTES;
  while (size < bytes) size <<= 1n;
  if (size > (kind === 'memory64' ? 1n << 63n : MAX_BYTES_32)) {
    throw new RangeError(`${bytes} bytes are too many for a ${kind} BAR`);
  }
  return size;
}

/** Like {@link barSize}, for the expansion ROM. */
export function romSize(bytes: bigint): bigint {
  let size = MIN_ROM_BYTES;
  while (size < bytes) size <<= 1n;
  if (size > MAX_BYTES_32) throw new RangeError(`${bytes} bytes are too many for an expansion ROM`);
  return size;
}

/** Offset of a BAR's register in configuration space. */
export const barRegister = (index: number): number => PCI_BASE_ADDRESS_0 + 4 * index;

/** The bus that a BAR is decoded on. */
export const barBus = (shape: BarShape): Bus['kind'] => (shape.kind === 'io' ? 'pio' : 'mmio');

const low32 = (value: bigint): number => Number(value & 0xffffffffn);
const addressMask = (size: bigint): bigint => ~(size - 1n) & 0xffffffffffffffffn;

/**
 * Adds a BAR's registers to a configuration space. Address bits below the size stay 0, so that a guest's write of
 * all-ones reads back as the size (the sizing protocol).
 * @param at offset of its register; another one for a BAR of virtual functions
 */
export function addBar(space: ConfigSpace, shape: BarShape, at = barRegister(shape.index)): void {
  const mask = addressMask(shape.size);
  const prefetch = shape.isPrefetchable ? PCI_BASE_ADDRESS_MEM_PREFETCH : 0;
  const flags =
    shape.kind === 'io'
      ? PCI_BASE_ADDRESS_SPACE_IO
      : prefetch | (shape.kind === 'memory64' ? PCI_BASE_ADDRESS_MEM_TYPE_64 : 0);
  space.set(at, 4, flags);
  space.allow(at, 4, low32(mask));
  if (shape.kind !== 'memory64') return;
  space.set(at + 4, 4, 0);
  space.allow(at + 4, 4, low32(mask >> 32n));
}

/** Adds the expansion ROM's register to a configuration space. */
export function addRomBar(space: ConfigSpace, size: bigint): void {
  space.set(PCI_ROM_ADDRESS, 4, 0);
  space.allow(PCI_ROM_ADDRESS, 4, low32(addressMask(size)) | PCI_ROM_ADDRESS_ENABLE);
}

/** The address in a BAR's registers; undefined while they hold the all-ones of a sizing probe. @param at as in {@link addBar} */
export function barAddress(
  space: ConfigSpace,
  shape: BarShape,
  at = barRegister(shape.index),
): bigint | undefined {
  const high = shape.kind === 'memory64' ? BigInt(space.read(at + 4, 4)) << 32n : 0n;
  const address = (high | BigInt(space.read(at, 4))) & addressMask(shape.size);
  const probe = addressMask(shape.size) & (shape.kind === 'memory64' ? ~0n : 0xffffffffn);
  return address === probe ? undefined : address;
}

/** The ROM's address; undefined while it is disabled, or its register holds a sizing probe. */
export function romAddress(space: ConfigSpace, size: bigint): bigint | undefined {
  const register = space.read(PCI_ROM_ADDRESS, 4);
  const mask = addressMask(size) & 0xffffffffn;
  const address = BigInt(register) & mask;
  return (register & PCI_ROM_ADDRESS_ENABLE) === 0 || address === mask ? undefined : address;
}
