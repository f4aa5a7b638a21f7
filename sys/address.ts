declare const space: unique symbol;

/** Guest physical address. */
export type Gpa = bigint & { readonly [space]: 'gpa' };
/** Host virtual address: a byte in this process, valid in all its threads. */
export type Hva = bigint & { readonly [space]: 'hva' };
/** I/O virtual address: a byte as an assigned device addresses it. */
export type Iova = bigint & { readonly [space]: 'iova' };

export const PAGE_SIZE = 4096n;
const U64_END = 1n << 64n;

function inU64(value: bigint, what: string): bigint {
  if (value < 0n || value >= U64_END) throw new RangeError(`${what} ${value} does not fit in 64 bits`);
  return value;
}

/** Brands a guest physical address. @throws RangeError if it does not fit in 64 bits */
export const gpa = (value: bigint): Gpa => inU64(value, 'guest physical address') as Gpa;
/** Brands a host virtual address. @throws RangeError if it does not fit in 64 bits */
export const hva = (value: bigint): Hva => inU64(value, 'host virtual address') as Hva;
/** Brands an I/O virtual address. @throws RangeError if it does not fit in 64 bits */
export const iova = (value: bigint): Iova => inU64(value, 'I/O virtual address') as Iova;

/** `base + bytes`, in the same address space. @throws RangeError past 64 bits */
export function offset<A extends Gpa | Hva | Iova>(base: A, bytes: bigint): A {
  return inU64(base + bytes, 'address') as A;
}

export function isAligned(value: bigint, alignment: bigint = PAGE_SIZE): boolean {
  return value % alignment === 0n;
}

export function alignUp(value: bigint, alignment: bigint = PAGE_SIZE): bigint {
  return ((value + alignment - 1n) / alignment) * alignment;
}

/** First and last byte, `0x1000-0x1fff`, as Linux prints a range. */
export function formatRange(base: bigint, bytes: bigint): string {
  return `0x${base.toString(16)}-0x${(base + bytes - 1n).toString(16)}`;
}
