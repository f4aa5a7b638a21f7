import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { cpuidFor } from '../kvm/guest-cpuid.js';
import type { Vcpu } from '../kvm/vcpu.js';
import { formatRange } from '../sys/address.js';
import type { MemoryMap } from './assign/memory-map.js';
import { type ElfImage, GuestImageError, loadSegments, readElf } from './boot-elf.js';
import type { VmConfig } from './config.js';
import type { GuestProgram } from './guest-program.js';
import { ECAM_BASE, LOW_RAM_END, PCI_IO_WINDOW, PCI_WINDOW } from './layout.js';
import { bootSregs, prepareLongMode } from './long-mode.js';

/** Lowest address of a guest image; page tables and command line are below. */
const LOWEST_IMAGE = 0x10_0000n;
const RFLAGS_ALWAYS_ONE = 2n;

/** The image, next to this module or in the package. */
function builtInGuest(): string {
  const beside = fileURLToPath(new URL('./guest/guest.elf', import.meta.url));
  return existsSync(beside) ? beside : fileURLToPath(new URL('../../vmm/guest/guest.elf', import.meta.url));
}

const hex = (value: bigint | number) => `0x${value.toString(16)}`;

/** Machine parameters for the guest. The user's own text comes last and takes precedence. */
export function commandLine(config: VmConfig, tscKhz: number): string {
  const windows = [
    `mmio=${hex(PCI_WINDOW.base)},${hex(PCI_WINDOW.bytes)}`,
    `io=${hex(PCI_IO_WINDOW.base)},${hex(PCI_IO_WINDOW.bytes)}`,
    `ecam=${hex(ECAM_BASE)}`,
  ];
  return [`tsc_khz=${tscKhz}`, ...windows, config.cmdline].filter((word) => word !== '').join(' ');
}

/**
 * Reads the configuration's guest image, or the built-in one.
 * @throws InputFileError or GuestImageError, naming the path
 */
export function imageProgram(config: VmConfig): GuestProgram {
  const image = readElf(config.guest ?? builtInGuest());
  return {
    hasAcpi: false,
    expectsBars: false,
    setUpVcpu: (vcpu, id, { supported }) => vcpu.setCpuid2(cpuidFor(id, supported)),
    load: (memory, boot) => loadImage(image, config, memory, boot),
  };
}

/**
 * Copies an image into guest memory and sets up the first vCPU to enter it in long mode, with the address of the
 * command line in RDI.
 * @throws GuestImageError if the image does not fit into guest memory
 */
function loadImage(image: ElfImage, config: VmConfig, memory: MemoryMap, vcpu: Vcpu): void {
  const end = config.memory < LOW_RAM_END ? config.memory : LOW_RAM_END;
  for (const { gpa, memoryBytes } of image.segments) {
    if (gpa < LOWEST_IMAGE || gpa + memoryBytes > end) {
      const needs = formatRange(gpa, memoryBytes);
      throw new GuestImageError(
        image.path,
        `needs ${needs}, but the guest's memory ends at ${hex(end)}`,
        'give the guest more with --memory',
      );
    }
  }
  loadSegments(image.segments, memory);
  const rdi = prepareLongMode(memory, commandLine(config, vcpu.getTscKhz()));
  vcpu.setSregs({ ...vcpu.getSregs(), ...bootSregs() });
  vcpu.setRegs({ rip: image.entry, rflags: RFLAGS_ALWAYS_ONE, rdi });
}
