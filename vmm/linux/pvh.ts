/** The PVH entry: an uncompressed kernel (vmlinux) whose ELF note declares its 32-bit entry. */
import { struct } from '../../sys/struct.js';
import { Elf64Ehdr, Elf64Phdr, type ElfImage, GuestImageError, parseElf } from '../boot-elf.js';
import type { KernelNeeds } from './placement.js';

const Elf64Nhdr = struct('Elf64_Nhdr', 'elf.h', { n_namesz: 'u32', n_descsz: 'u32', n_type: 'u32' });

const PT_NOTE = 4;
const ELF_MAGIC = [0x7f, 0x45, 0x4c, 0x46];

/** xen/elfnote.h */
const XEN_ELFNOTE_PHYS32_ENTRY = 18;
const XEN_NOTE_NAME = 'Xen\0';
/** COMMAND_LINE_SIZE of Linux on x86, without the terminating zero: a PVH kernel does not declare its own. */
const CMDLINE_BYTES = 2047;
/** It does not declare how high an initrd may be placed either; anywhere below 4 GiB works. */
const HIGHEST_INITRD_BYTE = 0xffff_ffffn;

/** A parsed kernel with a PVH entry. */
export interface PvhImage {
  readonly kind: 'pvh';
  readonly path: string;
  readonly segments: ElfImage['segments'];
  /** Guest physical address of the 32-bit entry. */
  readonly entry: bigint;
  /** Where its segments must be placed: it is not relocatable. */
  readonly needs: KernelNeeds;
  readonly cmdlineBytes: number;
  readonly highestInitrdByte: bigint;
}

export function isElf(file: Uint8Array): boolean {
  return ELF_MAGIC.every((byte, i) => file[i] === byte);
}

/** @throws GuestImageError if it is truncated, not an x86-64 ELF file, or has no PVH entry */
export function parsePvh(path: string, file: Uint8Array): PvhImage {
  const { segments } = parseElf(path, file);
  const entry = findEntry(file);
  if (entry === undefined) {
    throw new GuestImageError(
      path,
      'is an ELF file without a PVH entry',
      'build the kernel with CONFIG_PVH, or give its bzImage instead',
    );
  }
  const base = segments.reduce((low, { gpa }) => (gpa < low ? gpa : low), segments[0]?.gpa ?? 0n);
  const end = segments.reduce((high, { gpa, memoryBytes }) => {
    return gpa + memoryBytes > high ? gpa + memoryBytes : high;
  }, 0n);
  if (entry < base || entry >= end) throw new GuestImageError(path, 'has a PVH entry outside its segments');
  return {
    kind: 'pvh',
    path,
    segments,
    entry,
    needs: { path, base, bytes: end - base },
    cmdlineBytes: CMDLINE_BYTES,
    highestInitrdByte: HIGHEST_INITRD_BYTE,
  };
}

/**
 * The entry's address from the first note that declares one. parseElf has checked the program headers.
 */
function findEntry(file: Uint8Array): bigint | undefined {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const headers = Number(view.getBigUint64(Elf64Ehdr.offsets.e_phoff, true));
  const size = view.getUint16(Elf64Ehdr.offsets.e_phentsize, true);
  for (let i = 0; i < view.getUint16(Elf64Ehdr.offsets.e_phnum, true); i++) {
    const at = headers + i * size;
    if (view.getUint32(at + Elf64Phdr.offsets.p_type, true) !== PT_NOTE) continue;
    const offset = view.getBigUint64(at + Elf64Phdr.offsets.p_offset, true);
    const end = offset + view.getBigUint64(at + Elf64Phdr.offsets.p_filesz, true);
    if (end > BigInt(file.length)) continue;
    const entry = entryAmong(file.subarray(Number(offset), Number(end)));
    if (entry !== undefined) return entry;
  }
  return undefined;
}

function entryAmong(notes: Uint8Array): bigint | undefined {
  const aligned = (length: number) => Math.ceil(length / 4) * 4;
  for (let at = 0; at + Elf64Nhdr.size <= notes.length; ) {
    const { n_namesz, n_descsz, n_type } = Elf64Nhdr.decode(notes, at);
    const nameAt = at + Elf64Nhdr.size;
    const descAt = nameAt + aligned(n_namesz);
    at = descAt + aligned(n_descsz);
    if (n_type !== XEN_ELFNOTE_PHYS32_ENTRY || descAt + n_descsz > notes.length) continue;
    const name = new TextDecoder().decode(notes.subarray(nameAt, nameAt + n_namesz));
    if (name !== XEN_NOTE_NAME || (n_descsz !== 4 && n_descsz !== 8)) continue;
    const desc = new DataView(notes.buffer, notes.byteOffset + descAt, n_descsz);
    return n_descsz === 8 ? desc.getBigUint64(0, true) : BigInt(desc.getUint32(0, true));
  }
  return undefined;
}
