import { Elf64Ehdr, Elf64Phdr } from '../boot-elf.js';

// elf.h
const ET_EXEC = 2;
const EM_X86_64 = 62;
const PT_LOAD = 1;
const READ_EXECUTE = 5;
const LOAD_AT = 0x10_0000n;

/** A guest image, for the ABI of vmm/guest/abi.h, that is nothing but this machine code. */
export function elfOf(code: readonly number[]): Uint8Array {
  const header = Elf64Ehdr.encode({
    e_ident: Uint8Array.of(0x7f, 0x45, 0x4c, 0x46, 2, 1, 1, ...new Uint8Array(9)),
    e_type: ET_EXEC,
    e_machine: EM_X86_64,
    e_version: 1,
    e_entry: LOAD_AT,
    e_phoff: BigInt(Elf64Ehdr.size),
    e_ehsize: Elf64Ehdr.size,
    e_phentsize: Elf64Phdr.size,
    e_phnum: 1,
  });
  const segment = Elf64Phdr.encode({
    p_type: PT_LOAD,
    p_flags: READ_EXECUTE,
    p_offset: BigInt(Elf64Ehdr.size + Elf64Phdr.size),
    p_vaddr: LOAD_AT,
    p_paddr: LOAD_AT,
    p_filesz: BigInt(code.length),
    p_memsz: BigInt(code.length),
  });
  return Buffer.concat([header, segment, Uint8Array.from(code)]);
}
