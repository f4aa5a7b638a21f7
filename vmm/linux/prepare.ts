/** Loads a Linux kernel and its boot data into guest memory, and computes the entry state of the boot processor. */
import { fillGenerationId, GENERATION_ID_BYTES } from '../../devices/platform/generation-id.js';
import type { MemoryMap } from '../assign/memory-map.js';
import { GuestImageError, loadSegments } from '../boot-elf.js';
import * as layout from '../layout.js';
import { prepareLongMode } from '../long-mode.js';
import { buildAcpi } from './acpi/build.js';
import { bzImageEntry } from './bzimage.js';
import { buildE820, type E820Range, type PhysicalRange } from './e820.js';
import { bootGdt, type EntryState, entry64, entryPvh } from './entry.js';
import type { Initrd } from './initrd.js';
import type { LinuxKernel } from './kernel.js';
import { buildMpTable } from './mp-table.js';
import {
  ACPI_TABLES,
  ACPI_TABLES_BYTES,
  BOOT_GDT,
  FIRMWARE_RANGES,
  GENERATION_ID,
  LEGACY_RANGE,
  MP_TABLE,
  MP_TABLE_BYTES,
  placeInitrd,
  placeKernel,
  START_INFO,
  ZERO_PAGE,
} from './placement.js';
import { buildStartInfo } from './start-info.js';
import { type BootFacts, buildZeroPage } from './zero-page.js';

export interface LinuxOptions {
  readonly kernel: LinuxKernel;
  readonly initrd?: Initrd | undefined;
  readonly cmdline: string;
  readonly memory: MemoryMap;
  readonly vcpus: number;
  /** Numbers of the serial ports that are there, 0 for COM1; COM1 alone by default. */
  readonly serialPorts?: readonly number[];
  /** Whether to declare a keyboard controller. Its reset works in any case. */
  readonly hasI8042?: boolean;
  /** Number of PCI buses, from bus 0; 1 by default. */
  readonly pciBuses?: number;
  /** Ranges that the guest must not use besides those of the layout, in RAM or not. */
  readonly reserved?: readonly PhysicalRange[];
}

/** A guest that is ready to run. */
export interface PreparedLinux {
  /** The boot processor's state; the guest starts the other processors itself. */
  readonly entry: EntryState;
  readonly kernel: PhysicalRange;
  readonly initrd: PhysicalRange | undefined;
  /** The memory map passed to the guest. */
  readonly map: readonly E820Range[];
  /** Guest physical address of the RSDP, ACPI's root pointer. */
  readonly rsdp: bigint;
}

/**
 * Fills guest memory. Call it again before a restart: a running guest overwrites the boot data.
 * @throws GuestImageError if kernel or initrd do not fit, or the command line is too long; SysError if the initrd
 *   cannot be read
 */
export function prepareLinux(options: LinuxOptions): PreparedLinux {
  const { kernel: image, memory } = options;
  checkCommandLine(image, options.cmdline);
  const map = memoryMap(memory, options.reserved ?? []);
  const kernel = placeKernel(image.needs, map);
  const initrd = options.initrd && placeInitrd(options.initrd, kernel, image.highestInitrdByte, map);
  const rsdp = loadAcpi(options);
  loadMpTable(options);
  const cmdline = prepareLongMode(memory, options.cmdline);
  load(image, kernel, memory);
  if (initrd !== undefined) options.initrd?.copyTo(ram(memory, initrd));
  const entry = tell(image, { kernel, initrd, cmdline, rsdp, map }, memory);
  return { entry, kernel, initrd, map, rsdp };
}

const ram = (memory: MemoryMap, { base, bytes }: PhysicalRange): Uint8Array =>
  memory.ram(base, Number(bytes));

function put(memory: MemoryMap, at: bigint, bytes: Uint8Array): void {
  memory.ram(at, bytes.length).set(bytes);
}

function checkCommandLine({ path, cmdlineBytes }: LinuxKernel, cmdline: string): void {
  const bytes = Buffer.byteLength(cmdline);
  if (bytes <= cmdlineBytes) return;
  throw new GuestImageError(
    path,
    `takes a command line of ${cmdlineBytes} bytes, not of ${bytes}`,
    `make it ${bytes - cmdlineBytes} bytes shorter`,
  );
}

function memoryMap(memory: MemoryMap, reserved: readonly PhysicalRange[]): E820Range[] {
  const regions = memory.regions.filter(({ kind }) => kind === 'ram');
  return buildE820({
    ram: regions.map(({ gpa: base, bytes }) => ({ base, bytes })),
    reserved: [...FIRMWARE_RANGES, ...reserved],
    hidden: [LEGACY_RANGE],
  });
}

function loadAcpi({
  memory,
  vcpus,
  serialPorts = [0],
  hasI8042 = false,
  pciBuses = 1,
}: LinuxOptions): bigint {
  const { rsdp, base, bytes } = buildAcpi({
    base: ACPI_TABLES,
    vcpus,
    windows: [layout.PCI_IO_WINDOW, layout.PCI_WINDOW, layout.PCI_WINDOW_64],
    ecam: { base: layout.ECAM_BASE, bytes: layout.ECAM_BYTES },
    buses: pciBuses,
    intxGsis: layout.PCI_INTX_GSIS,
    serialPorts,
    hasI8042,
    generationId: GENERATION_ID,
  });
  if (bytes.length > ACPI_TABLES_BYTES) throw new RangeError(`ACPI's tables have ${bytes.length} bytes`);
  put(memory, base, bytes);
  renewGeneration(memory);
  return rsdp;
}

/** Gives a Linux guest a new generation ID; the platform raises its event. */
export const renewGeneration = (memory: MemoryMap): void =>
  fillGenerationId(memory.ram(GENERATION_ID, GENERATION_ID_BYTES));

function loadMpTable({ memory, vcpus, pciBuses: buses = 1 }: LinuxOptions): void {
  const bytes = buildMpTable({ base: MP_TABLE, vcpus, buses, intxGsis: layout.PCI_INTX_GSIS });
  if (bytes.length > MP_TABLE_BYTES) throw new RangeError(`the MP table has ${bytes.length} bytes`);
  put(memory, MP_TABLE, bytes);
}

function load(image: LinuxKernel, at: PhysicalRange, memory: MemoryMap): void {
  if (image.kind === 'bzimage') {
    put(memory, at.base, image.payload);
    return;
  }
  loadSegments(image.segments, memory);
}

/** Writes the boot data in the form that the kernel's entry requires. */
function tell(image: LinuxKernel, facts: BootFacts, memory: MemoryMap): EntryState {
  if (image.kind === 'bzimage') {
    put(memory, BOOT_GDT, bootGdt());
    put(memory, ZERO_PAGE, buildZeroPage(image, facts));
    return entry64(bzImageEntry(facts.kernel.base), ZERO_PAGE);
  }
  put(memory, START_INFO, buildStartInfo(image.path, facts, START_INFO));
  return entryPvh(image.entry, START_INFO);
}
