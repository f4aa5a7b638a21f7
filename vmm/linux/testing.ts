/** Synthetic kernels and guest memory for tests. */
import { existsSync, readdirSync } from 'node:fs';
import type { Scope } from '../../sys/scope.js';
import type { MemoryMap } from '../assign/memory-map.js';
import { pcMemory } from '../assign/testing.js';
import { BootParams, LOADED_HIGH, SetupHeader, XLF_KERNEL_64 } from './bootparam.js';

export const MIB = 0x10_0000;

/** Guest memory without a guest; `scope` owns it. @param mib MiB of RAM */
export const memoryOf = (scope: Scope, mib: number): MemoryMap => pcMemory(scope, BigInt(mib) * BigInt(MIB));

const SETUP_SECTS = 3;
const SETUP_BYTES = (SETUP_SECTS + 1) * 512;
const HEADER_END = 0x26c;

/** A bzImage with `code` at its 64-bit entry and the given header fields changed. */
export function makeBzImage(
  code: Uint8Array = new Uint8Array(16),
  header: Partial<SetupHeader> = {},
): Uint8Array {
  const payloadBytes = Math.ceil((0x200 + code.length) / 16) * 16;
  const file = new Uint8Array(SETUP_BYTES + payloadBytes);
  const defaults = {
    setup_sects: SETUP_SECTS,
    syssize: payloadBytes / 16,
    boot_flag: 0xaa55,
    jump: 0xeb | ((HEADER_END - 0x202) << 8),
    header: 0x53726448,
    version: 0x20f,
    loadflags: LOADED_HIGH,
    initrd_addr_max: 0x7fff_ffff,
    kernel_alignment: 0x20_0000,
    relocatable_kernel: 1,
    xloadflags: XLF_KERNEL_64,
    cmdline_size: 2047,
    pref_address: 0x100_0000n,
    init_size: 16 * MIB,
  };
  SetupHeader.write(file, { ...defaults, ...header }, BootParams.offsets.hdr);
  file.set(code, SETUP_BYTES + 0x200);
  return file;
}

const ELF_HEADER = 64;
const PROGRAM_HEADER = 56;

/** An ELF kernel with one segment of `code` at 16 MiB and a note of type `noteType` for its entry (18 is PVH). */
export function makePvh(code: Uint8Array = new Uint8Array(16), noteType = 18): Uint8Array {
  const entry = 0x100_0000n;
  const noteAt = ELF_HEADER + 2 * PROGRAM_HEADER;
  const note = new Uint8Array(12 + 8 + 4 + (12 + 4 + 8));
  const noteView = new DataView(note.buffer);
  // Preceded by another note, whose name and contents need padding.
  noteView.setUint32(0, 5, true);
  noteView.setUint32(4, 1, true);
  noteView.setUint32(8, noteType, true);
  note.set(new TextEncoder().encode('Abcd\0'), 12);
  noteView.setUint32(24, 4, true);
  noteView.setUint32(28, 8, true);
  noteView.setUint32(32, noteType, true);
  note.set(new TextEncoder().encode('Xen\0'), 36);
  noteView.setBigUint64(40, entry, true);
  const codeAt = noteAt + note.length;
  const file = new Uint8Array(codeAt + code.length);
  const view = new DataView(file.buffer);
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  view.setUint16(16, 2, true); // e_type: executable
  view.setUint16(18, 62, true); // e_machine: x86-64
  view.setBigUint64(24, entry, true); // e_entry
  view.setBigUint64(32, BigInt(ELF_HEADER), true); // e_phoff
  view.setUint16(54, PROGRAM_HEADER, true); // e_phentsize
  view.setUint16(56, 2, true); // e_phnum
  const segment = (index: number, type: number, offset: number, bytes: number, memoryBytes: number) => {
    const at = ELF_HEADER + index * PROGRAM_HEADER;
    view.setUint32(at, type, true);
    view.setBigUint64(at + 8, BigInt(offset), true);
    view.setBigUint64(at + 24, entry, true);
    view.setBigUint64(at + 32, BigInt(bytes), true);
    view.setBigUint64(at + 40, BigInt(memoryBytes), true);
  };
  segment(0, 1, codeAt, code.length, Math.max(code.length, 4096));
  segment(1, 4, noteAt, note.length, note.length);
  file.set(note, noteAt);
  file.set(code, codeAt);
  return file;
}

/**
 * The bzImage of a real kernel: TSVISOR_TEST_KERNEL, or one installed in /boot.
 * @returns its path, or why there is none
 */
export function findRealKernel(): { readonly path: string } | { readonly missing: string } {
  const named = process.env.TSVISOR_TEST_KERNEL;
  if (named !== undefined) return existsSync(named) ? { path: named } : { missing: `there is no ${named}` };
  const installed = existsSync('/boot')
    ? readdirSync('/boot').find((name) => name.startsWith('vmlinuz'))
    : undefined;
  if (installed !== undefined) return { path: `/boot/${installed}` };
  return { missing: 'no kernel in /boot, and TSVISOR_TEST_KERNEL does not name one' };
}
