/** The processor state at a kernel's entry. */
import type { Regs, Sregs } from '../../kvm/uapi-vcpu.js';
import { bootSregs } from '../long-mode.js';
import { BOOT_GDT } from './placement.js';

/**
 * The boot processor's state. Omitted system registers keep their values from KVM, omitted general registers become 0.
 */
export interface EntryState {
  readonly regs: Partial<Regs>;
  readonly sregs: Partial<Sregs>;
}

const RFLAGS_ALWAYS_ONE = 2n;
const CR0_PE = 1n << 0n;
const CR0_ET = 1n << 4n;

/** Selectors required by Linux: __BOOT_CS and __BOOT_DS. */
const BOOT_CS = 0x10;
const BOOT_DS = 0x18;
/** Flat 64-bit code and data segments, at those selectors. */
const GDT_ENTRIES = [0n, 0n, 0x00af_9b00_0000_ffffn, 0x00cf_9300_0000_ffffn];

/** The contents of {@link BOOT_GDT}. */
export const bootGdt = (): Uint8Array => new Uint8Array(new BigUint64Array(GDT_ENTRIES).buffer);

/**
 * The 64-bit entry of a bzImage: paging on, memory identity-mapped, interrupts off, boot_params in RSI.
 * @see Documentation/arch/x86/boot.rst, "64-bit boot protocol"
 */
export function entry64(rip: bigint, bootParams: bigint): EntryState {
  const sregs = bootSregs();
  const data = { ...sregs.ds, selector: BOOT_DS };
  return {
    regs: { rip, rsi: bootParams, rflags: RFLAGS_ALWAYS_ONE },
    sregs: {
      ...sregs,
      cs: { ...sregs.cs, selector: BOOT_CS },
      ds: data,
      es: data,
      fs: data,
      gs: data,
      ss: data,
      gdt: { base: BOOT_GDT, limit: GDT_ENTRIES.length * 8 - 1, padding: [0, 0, 0] },
    },
  };
}

const TSS_LIMIT = 0x67;

/**
 * The PVH entry: 32-bit protected mode, paging off, flat segments, interrupts off, hvm_start_info in EBX.
 * @see xen/docs/misc/pvh.pandoc
 */
export function entryPvh(rip: bigint, startInfo: bigint): EntryState {
  const { cs, ds, tr } = bootSregs();
  return {
    regs: { rip, rbx: startInfo, rflags: RFLAGS_ALWAYS_ONE },
    sregs: {
      cr0: CR0_PE | CR0_ET,
      cr3: 0n,
      cr4: 0n,
      efer: 0n,
      cs: { ...cs, db: 1, l: 0 },
      ds,
      es: ds,
      fs: ds,
      gs: ds,
      ss: ds,
      tr: { ...tr, limit: TSS_LIMIT },
    },
  };
}
