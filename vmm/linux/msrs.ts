/** MSRs and local APIC in the state in which firmware starts an operating system. */
import type { CpuidEntry2 } from '../../kvm/uapi.js';
import { LOW_RAM_END, PCI_WINDOW_64 } from '../layout.js';

// Names as in the kernel's asm/msr-index.h.
export const MSR_IA32_TSC = 0x10;
export const MSR_IA32_MISC_ENABLE = 0x1a0;
export const MSR_IA32_CR_PAT = 0x277;
export const MSR_MTRRdefType = 0x2ff;
const MSR_MTRRfix64K_00000 = 0x250;
const MSR_MTRRfix16K_80000 = 0x258;
const MSR_MTRRfix16K_A0000 = 0x259;
const MSR_MTRRfix4K_C0000 = 0x268;
const MSR_MTRRfix4K_F8000 = 0x26f;
/** Base of variable range 0; the next MSR is its mask, then follows range 1. */
export const MSR_MTRRphysBase0 = 0x200;

const MISC_ENABLE_FAST_STRING = 1n << 0n;
const MISC_ENABLE_BTS_UNAVAIL = 1n << 11n;
const MISC_ENABLE_PEBS_UNAVAIL = 1n << 12n;
/** WB, WT, UC-, UC, twice: the reset value. */
const PAT_AT_RESET = 0x0007_0406_0007_0406n;
const MTRR_TYPE_UNCACHABLE = 0n;
const MTRR_TYPE_WRBACK = 6n;
const MTRR_FIXED_ENABLE = 1n << 10n;
const MTRR_ENABLE = 1n << 11n;
const MTRR_MASK_VALID = 1n << 11n;
const ALL_WRBACK = 0x0606_0606_0606_0606n;
const FOUR_GIB = 0x1_0000_0000n;

const LEAF_ADDRESS_SIZES = 0x8000_0008;
/** The width on processors that do not report it. */
const USUAL_PHYSICAL_BITS = 36;

export interface MsrValue {
  readonly index: number;
  readonly data: bigint;
}

/** Width of guest physical addresses in bits, from KVM_GET_SUPPORTED_CPUID. */
export function physicalBits(cpuid: readonly CpuidEntry2[]): number {
  const sizes = cpuid.find((entry) => entry.function === LEAF_ADDRESS_SIZES);
  return sizes === undefined ? USUAL_PHYSICAL_BITS : sizes.eax & 0xff;
}

/**
 * Identical for each processor: Linux complains about MTRRs that differ. All memory is write-back except the device
 * windows; that matters once an assigned device's DMA does not snoop caches. Writing 0 to the TSC makes KVM synchronise
 * all of them.
 */
export function firmwareMsrs(physBits: number): MsrValue[] {
  const fixed = [MSR_MTRRfix64K_00000, MSR_MTRRfix16K_80000];
  for (let index = MSR_MTRRfix4K_C0000; index <= MSR_MTRRfix4K_F8000; index++) fixed.push(index);
  const uncached = [
    { base: LOW_RAM_END, bytes: FOUR_GIB - LOW_RAM_END },
    ...(PCI_WINDOW_64.base + PCI_WINDOW_64.bytes <= 1n << BigInt(physBits) ? [PCI_WINDOW_64] : []),
  ];
  return [
    { index: MSR_IA32_TSC, data: 0n },
    {
      index: MSR_IA32_MISC_ENABLE,
      data: MISC_ENABLE_FAST_STRING | MISC_ENABLE_BTS_UNAVAIL | MISC_ENABLE_PEBS_UNAVAIL,
    },
    { index: MSR_IA32_CR_PAT, data: PAT_AT_RESET },
    ...fixed.map((index) => ({ index, data: ALL_WRBACK })),
    { index: MSR_MTRRfix16K_A0000, data: MTRR_TYPE_UNCACHABLE }, // video memory
    ...uncached.flatMap(({ base, bytes }, i) => variableRange(i, base, bytes, physBits)),
    { index: MSR_MTRRdefType, data: MTRR_ENABLE | MTRR_FIXED_ENABLE | MTRR_TYPE_WRBACK },
  ];
}

/**
 * One uncached variable range. @throws RangeError if its size is not a power of two, or it is not aligned to its size
 */
function variableRange(number: number, base: bigint, bytes: bigint, physBits: number): MsrValue[] {
  if ((bytes & (bytes - 1n)) !== 0n || base % bytes !== 0n)
    throw new RangeError(`an MTRR cannot cover 0x${bytes.toString(16)} bytes at 0x${base.toString(16)}`);
  const mask = ((1n << BigInt(physBits)) - 1n) & ~(bytes - 1n);
  const index = MSR_MTRRphysBase0 + 2 * number;
  return [
    { index, data: base | MTRR_TYPE_UNCACHABLE },
    { index: index + 1, data: mask | MTRR_MASK_VALID },
  ];
}

// Registers of the local APIC's page.
const APIC_LVT0 = 0x350;
const APIC_LVT1 = 0x360;
const APIC_MODE_NMI = 0x400;
const APIC_MODE_EXTINT = 0x700;
const APIC_LVT_MASKED = 0x1_0000;

/**
 * Sets up a local APIC's two pins like firmware: LINT0 takes the PICs' interrupts, on the boot processor only; LINT1 is
 * the NMI.
 * @param regs as returned by KVM_GET_LAPIC
 */
export function firmwareLapic(regs: Uint8Array, isBootProcessor: boolean): Uint8Array {
  const copy = regs.slice();
  const view = new DataView(copy.buffer, copy.byteOffset, copy.byteLength);
  view.setUint32(APIC_LVT0, isBootProcessor ? APIC_MODE_EXTINT : APIC_MODE_EXTINT | APIC_LVT_MASKED, true);
  view.setUint32(APIC_LVT1, APIC_MODE_NMI, true);
  return copy;
}
