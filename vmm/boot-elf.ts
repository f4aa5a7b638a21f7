import { struct } from '../sys/struct.js';
import type { MemoryMap } from './assign/memory-map.js';
import { readInputFile } from './input-file.js';

/** The file header. */
export const Elf64Ehdr = struct('Elf64_Ehdr', 'elf.h', {
  e_ident: ['u8', 16],
  e_type: 'u16',
  e_machine: 'u16',
  e_version: 'u32',
  e_entry: 'u64',
  e_phoff: 'u64',
  e_shoff: 'u64',
  e_flags: 'u32',
  e_ehsize: 'u16',
  e_phentsize: 'u16',
  e_phnum: 'u16',
  e_shentsize: 'u16',
  e_shnum: 'u16',
  e_shstrndx: 'u16',
});

/** A program header: describes a segment. */
export const Elf64Phdr = struct('Elf64_Phdr', 'elf.h', {
  p_type: 'u32',
  p_flags: 'u32',
  p_offset: 'u64',
  p_vaddr: 'u64',
  p_paddr: 'u64',
  p_filesz: 'u64',
  p_memsz: 'u64',
  p_align: 'u64',
});

const ET_EXEC = 2;
const EM_X86_64 = 62;
const PT_LOAD = 1;
const ELF64_LITTLE_ENDIAN = [0x7f, 0x45, 0x4c, 0x46, 2, 1];

/** A guest image cannot be used: it is missing, truncated, or of another format. */
export class GuestImageError extends Error {
  /** For matching: `EGUESTIMAGE`. */
  readonly code = 'EGUESTIMAGE';
  constructor(path: string, problem: string, hint?: string) {
    super(`${path}: ${problem}${hint === undefined ? '' : `\n  hint: ${hint}`}`);
    this.name = 'GuestImageError';
  }
}

/** A part of an image, and its guest physical address. */
export interface ImageSegment {
  readonly gpa: bigint;
  readonly bytes: Uint8Array;
  /** Size in memory; the part past `bytes` is zeroed. */
  readonly memoryBytes: bigint;
}

/** A statically linked ELF64 program, ready to load into a guest. */
export interface ElfImage {
  readonly path: string;
  readonly entry: bigint;
  readonly segments: readonly ImageSegment[];
}

/**
 * Reads an ELF64 x86-64 executable.
 * @throws InputFileError if it cannot be read; GuestImageError if it is truncated or of another format
 */
export const readElf = (path: string): ElfImage => parseElf(path, readInputFile(path));

/** Like {@link readElf}, for an image already in memory. */
export function parseElf(path: string, file: Uint8Array): ElfImage {
  const cutShort = (needs: bigint | number) =>
    new GuestImageError(
      path,
      `is cut short: ${file.length} bytes, but its headers speak of ${needs}`,
      'copy it again',
    );
  if (file.length < ELF64_LITTLE_ENDIAN.length || ELF64_LITTLE_ENDIAN.some((byte, i) => file[i] !== byte)) {
    throw new GuestImageError(
      path,
      'is not an ELF64 file',
      'the built-in guest is used when no image is given',
    );
  }
  if (file.length < Elf64Ehdr.size) throw cutShort(Elf64Ehdr.size);
  const header = Elf64Ehdr.decode(file);
  if (header.e_machine !== EM_X86_64 || header.e_type !== ET_EXEC) {
    throw new GuestImageError(path, 'is not a statically linked x86-64 executable');
  }
  const segments: ImageSegment[] = [];
  for (let i = 0; i < header.e_phnum; i++) {
    const at = header.e_phoff + BigInt(i * header.e_phentsize);
    if (at + BigInt(Elf64Phdr.size) > BigInt(file.length)) throw cutShort(at + BigInt(Elf64Phdr.size));
    const segment = Elf64Phdr.decode(file, Number(at));
    if (segment.p_type !== PT_LOAD || segment.p_memsz === 0n) continue;
    const end = segment.p_offset + segment.p_filesz;
    if (end > BigInt(file.length)) throw cutShort(end);
    if (segment.p_filesz > segment.p_memsz)
      throw new GuestImageError(path, 'has a segment larger than its memory');
    const bytes = file.subarray(Number(segment.p_offset), Number(end));
    segments.push({ gpa: segment.p_paddr, bytes, memoryBytes: segment.p_memsz });
  }
  if (segments.length === 0) throw new GuestImageError(path, 'has nothing to load');
  return { path, entry: header.e_entry, segments };
}

/** Copies segments into guest memory, and zeroes what the file does not provide. @throws RangeError outside low RAM */
export function loadSegments(segments: readonly ImageSegment[], memory: MemoryMap): void {
  for (const { gpa, bytes, memoryBytes } of segments) {
    const target = memory.ram(gpa, Number(memoryBytes));
    target.set(bytes);
    target.fill(0, bytes.length);
  }
}
