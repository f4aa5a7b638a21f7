/** Where things are in the guest's physical address space; the same places as on a q35 machine wherever that matters. */
import type { AddressWindow } from '../devices/contracts.js';
import { gpa } from '../sys/address.js';

/** RAM ends here at the latest, and goes on at 4 GiB: what lies between belongs to devices. */
export const LOW_RAM_END = 0xc000_0000n;
export const HIGH_RAM_BASE = 0x1_0000_0000n;

/** Memory BARs below 4 GiB. */
export const PCI_WINDOW: AddressWindow = { kind: 'mmio', base: 0xc000_0000n, bytes: 0x2000_0000n };
/**
 * Between low RAM and {@link PCI_WINDOW} nothing else answers, so BARs can be there, too, as on a q35: a kernel that finds the
 * window taken by ACPI's own device (pci=noacpi) moves them just above RAM. @param memory bytes of RAM
 */
export const holeAboveRam = (memory: bigint): readonly AddressWindow[] =>
  memory < LOW_RAM_END ? [{ kind: 'mmio', base: memory, bytes: LOW_RAM_END - memory }] : [];

/** 64-bit memory BARs, far above any RAM. */
export const PCI_WINDOW_64: AddressWindow = { kind: 'mmio', base: 0x40_0000_0000n, bytes: 0x40_0000_0000n };
/** I/O BARs. */
export const PCI_IO_WINDOW: AddressWindow = { kind: 'pio', base: 0xc000n, bytes: 0x2000n };
/** PCIe enhanced configuration, 1 MiB for each of 256 buses. */
export const ECAM_BASE = 0xe000_0000n;
export const ECAM_BYTES = 0x1000_0000n;

/** Where KVM on Intel keeps a TSS and a page table for real mode: below the BIOS, off everything else. */
export const KVM_TSS_ADDRESS = gpa(0xfffb_d000n);
export const KVM_IDENTITY_MAP_ADDRESS = gpa(0xfffb_c000n);

/** I/O APIC pins that PCI's INTA# to INTD# reach, swizzled by slot. */
export const PCI_INTX_GSIS = [16, 17, 18, 19] as const;
/** The 8254's interrupt uses I/O APIC pin 2, which the PICs' cascade leaves free. */
export const TIMER_GSI = 2;
