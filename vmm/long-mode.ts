import type { MemoryMap } from './assign/memory-map.js';

/** Guest physical addresses of the structures prepared below the image, which starts at 1 MiB. */
const PML4 = 0x1000;
const PDPT = 0x2000;
/** Four page directories: 4 GiB in 2 MiB pages. */
const PAGE_DIRECTORIES = 0x3000;
const GDT = 0x7000;
const COMMAND_LINE = 0x8000;
const COMMAND_LINE_BYTES = 0x1000;

const PAGE_PRESENT = 1n << 0n;
const PAGE_WRITABLE = 1n << 1n;
const PAGE_LARGE = 1n << 7n;
const GIB = 4;

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
// VM entry on Intel processors requires a busy 64-bit TSS in TR.
const TASK_SEGMENT = { ...flat, limit: 0xffff, selector: 0, type: 0xb, s: 0, g: 0, db: 0, l: 0 };

/** System registers (struct kvm_sregs) for long mode at CPL 0, with the low 4 GiB identity-mapped. */
export function longModeSregs() {
  return {
    cr0: CR0_PE | CR0_ET | CR0_NE | CR0_PG,
    cr3: BigInt(PML4),
    cr4: CR4_PAE,
    efer: EFER_LME | EFER_LMA,
    cs: CODE_SEGMENT,
    ds: DATA_SEGMENT,
    es: DATA_SEGMENT,
    fs: DATA_SEGMENT,
    gs: DATA_SEGMENT,
    ss: DATA_SEGMENT,
    tr: TASK_SEGMENT,
    gdt: { base: BigInt(GDT), limit: GDT_ENTRIES.length * 8 - 1, padding: [0, 0, 0] },
  };
}

/** Writes page tables, GDT and command line to the guest's low memory. Returns the command line's address. */
export function prepareLongMode(memory: MemoryMap, commandLine: string): bigint {
  const put = (at: number, values: BigUint64Array) => {
    memory.ram(BigInt(at), values.byteLength).set(new Uint8Array(values.buffer));
  };
  const table = PAGE_PRESENT | PAGE_WRITABLE;

  const pml4 = new BigUint64Array(512);
  pml4[0] = BigInt(PDPT) | table;
  const pdpt = new BigUint64Array(512);
  for (let i = 0; i < GIB; i++) pdpt[i] = BigInt(PAGE_DIRECTORIES + i * 0x1000) | table;
  const directories = new BigUint64Array(512 * GIB);
  for (let i = 0; i < directories.length; i++) directories[i] = (BigInt(i) << 21n) | table | PAGE_LARGE;
  put(PML4, pml4);
  put(PDPT, pdpt);
  put(PAGE_DIRECTORIES, directories);
  put(GDT, new BigUint64Array(GDT_ENTRIES));

  const text = new TextEncoder().encode(`${commandLine}\0`);
  if (text.length > COMMAND_LINE_BYTES)
    throw new RangeError(`the command line has ${text.length} bytes of ${COMMAND_LINE_BYTES}`);
  memory.ram(BigInt(COMMAND_LINE), text.length).set(text);
  return BigInt(COMMAND_LINE);
}
