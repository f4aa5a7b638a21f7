/**
 * Xen's public header start_info.h: the boot data of a kernel's PVH entry. `start-info.test.ts` compares the rows with
 * it.
 */
import { struct } from '../../sys/struct.js';
import { GuestImageError } from '../boot-elf.js';
import { START_INFO_BYTES } from './placement.js';
import type { BootFacts } from './zero-page.js';

const HEADER = 'xen/arch-x86/hvm/start_info.h';

export const HvmStartInfo = struct('struct hvm_start_info', HEADER, {
  magic: 'u32',
  version: 'u32',
  flags: 'u32',
  nr_modules: 'u32',
  modlist_paddr: 'u64',
  cmdline_paddr: 'u64',
  rsdp_paddr: 'u64',
  memmap_paddr: 'u64',
  memmap_entries: 'u32',
  reserved: 'u32',
});
export const XEN_HVM_START_MAGIC_VALUE = 0x336ec578;

export const HvmModlistEntry = struct('struct hvm_modlist_entry', HEADER, {
  paddr: 'u64',
  size: 'u64',
  cmdline_paddr: 'u64',
  reserved: 'u64',
});

/** Uses the types of e820. */
export const HvmMemmapTableEntry = struct('struct hvm_memmap_table_entry', HEADER, {
  addr: 'u64',
  size: 'u64',
  type: 'u32',
  reserved: 'u32',
});

/** The first version with the memory map. */
const VERSION = 1;

/**
 * struct hvm_start_info, followed by the module list (the initrd) and the memory map.
 * @param at guest physical address at which it will be placed
 * @throws GuestImageError if the memory map has too many ranges to fit
 */
export function buildStartInfo(path: string, facts: BootFacts, at: bigint): Uint8Array {
  const { initrd, cmdline, rsdp, map } = facts;
  const modlistAt = HvmStartInfo.size;
  const memmapAt = modlistAt + HvmModlistEntry.size;
  const bytes = new Uint8Array(memmapAt + map.length * HvmMemmapTableEntry.size);
  if (bytes.length > START_INFO_BYTES)
    throw new GuestImageError(
      path,
      `cannot be given ${map.length} memory ranges: too many for hvm_start_info`,
    );
  HvmStartInfo.write(bytes, {
    magic: XEN_HVM_START_MAGIC_VALUE,
    version: VERSION,
    nr_modules: initrd === undefined ? 0 : 1,
    modlist_paddr: initrd === undefined ? 0n : at + BigInt(modlistAt),
    cmdline_paddr: cmdline,
    rsdp_paddr: rsdp,
    memmap_paddr: at + BigInt(memmapAt),
    memmap_entries: map.length,
  });
  if (initrd !== undefined)
    HvmModlistEntry.write(bytes, { paddr: initrd.base, size: initrd.bytes }, modlistAt);
  for (const [i, { base: addr, bytes: size, type }] of map.entries())
    HvmMemmapTableEntry.write(bytes, { addr, size, type }, memmapAt + i * HvmMemmapTableEntry.size);
  return bytes;
}
