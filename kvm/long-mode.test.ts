import { expect, test } from 'vitest';
import { LONG_MODE_BYTES, longModeSregs, longModeTables } from './long-mode.js';

const AT = 0x1_2000n;
const ADDRESS = 0x000f_ffff_ffff_f000n;

/** Walks the tables as the processor does. @returns undefined where nothing is mapped */
function translate(tables: DataView, linear: bigint): bigint | undefined {
  const entryOf = (table: bigint, shift: bigint): bigint =>
    tables.getBigUint64(Number((table & ADDRESS) - AT + ((linear >> shift) & 511n) * 8n), true);
  const isTable = (entry: bigint): boolean => (entry & 0x83n) === 3n; // present, writable, not a page
  const pml4 = entryOf(longModeSregs(AT).cr3, 39n);
  if (!isTable(pml4)) return undefined;
  const pdpt = entryOf(pml4, 30n);
  if (!isTable(pdpt)) return undefined;
  const page = entryOf(pdpt, 21n);
  if ((page & 0xfffn) !== 0x83n) return undefined; // present, writable, 2 MiB, for the supervisor
  return (page & ADDRESS) + (linear & 0x1f_ffffn);
}

test('the low 4 GiB are mapped to themselves, and nothing else is', () => {
  const bytes = longModeTables(AT);
  expect(bytes.length).toBe(LONG_MODE_BYTES);
  expect(LONG_MODE_BYTES).toBe(7 * 4096);
  const tables = new DataView(bytes.buffer, bytes.byteOffset);
  for (let linear = 0n; linear < 1n << 32n; linear += 1n << 21n) {
    if (translate(tables, linear + 0x1234n) !== linear + 0x1234n) throw new Error(`0x${linear.toString(16)}`);
  }
  for (const linear of [1n << 32n, 1n << 38n, 1n << 39n, 1n << 47n]) {
    expect(translate(tables, linear), linear.toString(16)).toBe(undefined);
  }
});

/** A segment descriptor as the processor reads it (SDM vol. 3, 3.4.5), in the fields of struct kvm_segment. */
function segmentAt(tables: DataView, selector: number) {
  const gdt = longModeSregs(AT).gdt;
  if (selector + 7 > gdt.limit) throw new RangeError(`selector ${selector} is past the limit ${gdt.limit}`);
  const word = tables.getBigUint64(Number(gdt.base - AT) + selector, true);
  const bits = (at: bigint, count: bigint): number => Number((word >> at) & ((1n << count) - 1n));
  const pages = bits(0n, 16n) | (bits(48n, 4n) << 16);
  return {
    base: BigInt(bits(16n, 24n)) | (BigInt(bits(56n, 8n)) << 24n),
    limit: pages * 4096 + 4095,
    selector,
    type: bits(40n, 4n),
    s: bits(44n, 1n),
    dpl: bits(45n, 2n),
    present: bits(47n, 1n),
    avl: bits(52n, 1n),
    l: bits(53n, 1n),
    db: bits(54n, 1n),
    g: bits(55n, 1n),
    unusable: 0,
    padding: 0,
  };
}

test('the segment registers hold what the GDT says, and the null descriptor is null', () => {
  const bytes = longModeTables(AT);
  const tables = new DataView(bytes.buffer, bytes.byteOffset);
  const { cs, ds, es, fs, gs, ss, gdt } = longModeSregs(AT);
  expect(cs).toEqual(segmentAt(tables, 0x08));
  for (const data of [ds, es, fs, gs, ss]) expect(data).toEqual(segmentAt(tables, 0x10));
  expect(cs).toMatchObject({ base: 0n, limit: 0xffff_ffff, type: 0xb, l: 1, db: 0, dpl: 0, present: 1 });
  expect(ds).toMatchObject({ base: 0n, limit: 0xffff_ffff, type: 0x3, l: 0, db: 1, dpl: 0, present: 1 });
  expect(tables.getBigUint64(Number(gdt.base - AT), true)).toBe(0n);
  expect(gdt).toEqual({ base: AT + 0x6000n, limit: 23, padding: [0, 0, 0] });
});

test('control registers turn on protection, paging and long mode; TR holds a busy 64-bit TSS', () => {
  const { cr0, cr3, cr4, efer, tr } = longModeSregs(AT);
  expect({ cr0, cr3, cr4, efer }).toEqual({ cr0: 0x8000_0031n, cr3: AT, cr4: 0x20n, efer: 0x500n });
  expect(tr).toEqual({
    base: 0n,
    limit: 0xffff,
    selector: 0,
    type: 0xb,
    present: 1,
    dpl: 0,
    db: 0,
    s: 0,
    l: 0,
    g: 0,
    avl: 0,
    unusable: 0,
    padding: 0,
  });
});
