/** Where a Linux kernel and its boot data are placed in guest memory. */
import { alignUp, formatRange } from '../../sys/address.js';
import { GuestImageError } from '../boot-elf.js';
import { ECAM_BASE, ECAM_BYTES, KVM_IDENTITY_MAP_ADDRESS, LOW_RAM_END } from '../layout.js';
import { E820_TYPE_RAM, type E820Range, type PhysicalRange } from './e820.js';

// Below 1 MiB. 0x1000 to 0x8fff holds the page tables, GDT and command line of long-mode.ts.
/** The GDT required by the Linux boot protocol. */
export const BOOT_GDT = 0x9000n;
/** struct boot_params, one page. */
export const ZERO_PAGE = 0xa000n;
/** struct hvm_start_info and the tables that it points to. */
export const START_INFO = 0xb000n;
export const START_INFO_BYTES = 0x1000;
/** ACPI tables, in the area that guests scan for the RSDP. */
export const ACPI_TABLES = 0xe_0000n;
export const ACPI_TABLES_BYTES = 0xf000n;
/** The generation ID, in a page of its own. */
export const GENERATION_ID = 0xe_f000n;
/** The MP table, in the area that guests scan for its floating pointer. */
export const MP_TABLE = 0xf_0000n;
export const MP_TABLE_BYTES = 0x1_0000n;

const LEGACY_VIDEO = 0xa_0000n;
const MIB = 0x10_0000n;
const FOUR_GIB = 0x1_0000_0000n;

/**
 * Kernels and initrds are placed above the boot data and below the end of low RAM, within {@link MemoryMap.ram}'s
 * reach.
 */
const LOADABLE: PhysicalRange = { base: MIB, bytes: LOW_RAM_END - MIB };

/** Reserved ranges: ACPI tables, generation ID, MP table, ECAM, and the pages for KVM and the reset vector below 4 GiB. */
export const FIRMWARE_RANGES: readonly PhysicalRange[] = [
  { base: ACPI_TABLES, bytes: MP_TABLE + MP_TABLE_BYTES - ACPI_TABLES },
  { base: ECAM_BASE, bytes: ECAM_BYTES },
  { base: KVM_IDENTITY_MAP_ADDRESS, bytes: FOUR_GIB - KVM_IDENTITY_MAP_ADDRESS },
];
/** Neither RAM nor reported: video memory and option ROMs, as on any PC. */
export const LEGACY_RANGE: PhysicalRange = { base: LEGACY_VIDEO, bytes: ACPI_TABLES - LEGACY_VIDEO };

/** Placement requirements of a kernel. */
export interface KernelNeeds {
  readonly path: string;
  /** Preferred address; required unless the kernel is relocatable. */
  readonly base: bigint;
  /** Size from its first byte to the end of the memory that it uses before it reads the memory map. */
  readonly bytes: bigint;
  /** Relocatable kernels only: may be placed above `base` at a multiple of this. */
  readonly alignment?: bigint | undefined;
}

const mib = (bytes: bigint): string => `${alignUp(bytes, MIB) / MIB} MiB`;

/** RAM in which images may be placed, in ascending order. */
function loadable(map: readonly E820Range[]): PhysicalRange[] {
  const ceiling = LOADABLE.base + LOADABLE.bytes;
  return map.flatMap(({ base, bytes, type }) => {
    const from = base < LOADABLE.base ? LOADABLE.base : base;
    const to = base + bytes > ceiling ? ceiling : base + bytes;
    return type === E820_TYPE_RAM && from < to ? [{ base: from, bytes: to - from }] : [];
  });
}

/**
 * Places the kernel at its preferred address or, if it is relocatable, at the next suitable one.
 * @throws GuestImageError stating how much memory it needs
 */
export function placeKernel(needs: KernelNeeds, map: readonly E820Range[]): PhysicalRange {
  const { base, bytes, alignment } = needs;
  for (const range of loadable(map)) {
    const start = alignment === undefined || range.base <= base ? base : alignUp(range.base, alignment);
    if (start >= range.base && start + bytes <= range.base + range.bytes) return { base: start, bytes };
  }
  const end = loadable(map).at(-1);
  const has = end === undefined ? 'no memory above 1 MiB' : `memory up to ${mib(end.base + end.bytes)}`;
  throw new GuestImageError(
    needs.path,
    `needs ${formatRange(base, bytes)}, but the guest has ${has}`,
    `give it ${mib(base + bytes)} or more with --memory`,
  );
}

/**
 * Places the initrd as high as possible, so that the remaining memory is contiguous.
 * @param highest the highest address that the kernel can read an initrd from
 * @throws GuestImageError stating how much memory both need, or that the initrd is too large for any
 */
export function placeInitrd(
  initrd: { readonly path: string; readonly bytes: bigint },
  kernel: PhysicalRange,
  highest: bigint,
  map: readonly E820Range[],
): PhysicalRange {
  const kernelEnd = kernel.base + kernel.bytes;
  for (const range of loadable(map).reverse()) {
    const end = min(range.base + range.bytes, highest + 1n);
    const start = ((end - initrd.bytes) / 4096n) * 4096n;
    const isFree = start >= kernelEnd || start + initrd.bytes <= kernel.base;
    if (start >= range.base && isFree) return { base: start, bytes: initrd.bytes };
    // Below the kernel, if the range contains both.
    const below = ((min(end, kernel.base) - initrd.bytes) / 4096n) * 4096n;
    if (below >= range.base) return { base: below, bytes: initrd.bytes };
  }
  const needed = alignUp(kernelEnd) + alignUp(initrd.bytes);
  const problem = `has ${initrd.bytes} bytes (${mib(initrd.bytes)}), too many beside the kernel at ${formatRange(kernel.base, kernel.bytes)}`;
  const canBe = needed <= min(highest + 1n, LOW_RAM_END);
  throw new GuestImageError(
    initrd.path,
    problem,
    canBe
      ? `give the guest ${mib(needed)} or more with --memory`
      : `make it smaller: the kernel reads it below ${mib(min(highest + 1n, LOW_RAM_END))} only`,
  );
}

const min = (a: bigint, b: bigint): bigint => (a < b ? a : b);
