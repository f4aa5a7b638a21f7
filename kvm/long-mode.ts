/** Entering a guest in 64-bit mode without firmware: page tables, GDT, and the registers that go with them. */

/** Bytes that {@link longModeTables} needs: PML4, PDPT, four page directories, GDT, one page each. */
export const LONG_MODE_BYTES = 0x7000;

const PAGE = 0x1000;
const PAGE_DIRECTORIES = 4;
const ENTRIES = 512;
const GDT_AT = LONG_MODE_BYTES - PAGE;

const PAGE_PRESENT = 1n << 0n;
const PAGE_WRITABLE = 1n << 1n;
const PAGE_LARGE = 1n << 7n;

const CR0_PE = 1n << 0n;
const CR0_ET = 1n << 4n;
const CR0_NE = 1n << 5n;
const CR0_PG = 1n << 31n;
const CR4_PAE = 1n << 5n;
const EFER_LME = 1n << 8n;
const EFER_LMA = 1n << 10n;

// Flat 64-bit code and data segments (SDM vol. 3, 3.4.5), as GDT entries and as KVM's unpacked form.
const CODE_SELECTOR = 0x08;
const DATA_SELECTOR = 0x10;
const GDT_ENTRIES = [0n, 0x00af_9b00_0000_ffffn, 0x00cf_9300_0000_ffffn];
const flat = {
  base: 0n,
  limit: 0xffff_ffff,
  present: 1,
  dpl: 0,
  s: 1,
  g: 1,
  avl: 0,
  unusable: 0,
  padding: 0,
};
const CODE_SEGMENT = { ...flat, selector: CODE_SELECTOR, type: 0xb, db: 0, l: 1 };
const DATA_SEGMENT = { ...flat, selector: DATA_SELECTOR, type: 0x3, db: 1, l: 0 };
// VM entry on Intel demands a busy 64-bit TSS in TR.
const TASK_SEGMENT = { ...flat, limit: 0xffff, selector: 0, type: 0xb, s: 0, g: 0, db: 0, l: 0 };

/**
 * Page tables that map the low 4 GiB to themselves in pages of 2 MiB, and a GDT with flat segments.
 * @param at guest physical address to copy the result to; page-aligned
 * @returns {@link LONG_MODE_BYTES} bytes
 */
export function longModeTables(at: bigint): Uint8Array {
  const words = new BigUint64Array(LONG_MODE_BYTES / 8);
  const table = PAGE_PRESENT | PAGE_WRITABLE;
  const pageAt = (page: number) => at + BigInt(page * PAGE);
  words[0] = pageAt(1) | table;
  for (let i = 0; i < PAGE_DIRECTORIES; i++) words[ENTRIES + i] = pageAt(2 + i) | table;
  for (let i = 0; i < PAGE_DIRECTORIES * ENTRIES; i++)
    words[2 * ENTRIES + i] = (BigInt(i) << 21n) | table | PAGE_LARGE;
  words.set(GDT_ENTRIES, GDT_AT / 8);
  return new Uint8Array(words.buffer);
}

/**
 * System registers of a processor in long mode at CPL 0: fields of struct kvm_sregs, to be set over those that KVM
 * made.
 * @param at where {@link longModeTables} lie
 */
export function longModeSregs(at: bigint) {
  return {
    cr0: CR0_PE | CR0_ET | CR0_NE | CR0_PG,
    cr3: at,
    cr4: CR4_PAE,
    efer: EFER_LME | EFER_LMA,
    cs: CODE_SEGMENT,
    ds: DATA_SEGMENT,
    es: DATA_SEGMENT,
    fs: DATA_SEGMENT,
    gs: DATA_SEGMENT,
    ss: DATA_SEGMENT,
    tr: TASK_SEGMENT,
    gdt: { base: at + BigInt(GDT_AT), limit: GDT_ENTRIES.length * 8 - 1, padding: [0, 0, 0] },
  };
}
