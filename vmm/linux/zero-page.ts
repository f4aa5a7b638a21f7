/** Builds struct boot_params for a bzImage: the kernel's own header plus the machine's data. */
import { GuestImageError } from '../boot-elf.js';
import { BootE820Entry, BootParams, E820_MAX_ENTRIES_ZEROPAGE, SetupHeader } from './bootparam.js';
import type { BzImage } from './bzimage.js';
import type { E820Range, PhysicalRange } from './e820.js';

/** type_of_loader for boot loaders without an assigned id. */
const LOADER_UNDEFINED = 0xff;

/** The boot data: what was placed where. */
export interface BootFacts {
  readonly kernel: PhysicalRange;
  readonly initrd: PhysicalRange | undefined;
  /** Guest physical address of the command line, zero-terminated. */
  readonly cmdline: bigint;
  readonly rsdp: bigint;
  readonly map: readonly E820Range[];
}

const low = (value: bigint): number => Number(value & 0xffff_ffffn);
const high = (value: bigint): number => Number(value >> 32n);

/** @throws GuestImageError if the memory map has more ranges than boot_params holds */
export function buildZeroPage(image: BzImage, facts: BootFacts): Uint8Array {
  const { kernel, cmdline, rsdp, map } = facts;
  if (map.length > E820_MAX_ENTRIES_ZEROPAGE) {
    const holes = `${map.length} memory ranges; boot_params holds at most ${E820_MAX_ENTRIES_ZEROPAGE}`;
    throw new GuestImageError(image.path, `cannot be given ${holes}`);
  }
  const initrd = facts.initrd ?? { base: 0n, bytes: 0n };
  const page = BootParams.encode({
    acpi_rsdp_addr: rsdp,
    ext_ramdisk_image: high(initrd.base),
    ext_ramdisk_size: high(initrd.bytes),
    ext_cmd_line_ptr: high(cmdline),
    e820_entries: map.length,
  });
  page.set(image.headerBytes, BootParams.offsets.hdr);
  const header = {
    type_of_loader: LOADER_UNDEFINED,
    code32_start: low(kernel.base),
    ramdisk_image: low(initrd.base),
    ramdisk_size: low(initrd.bytes),
    cmd_line_ptr: low(cmdline),
  };
  SetupHeader.write(page, header, BootParams.offsets.hdr);
  for (const [i, { base: addr, bytes: size, type }] of map.entries()) {
    BootE820Entry.write(page, { addr, size, type }, BootParams.offsets.e820_table + i * BootE820Entry.size);
  }
  return page;
}
