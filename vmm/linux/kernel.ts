/** Loads a Linux kernel of either kind: bzImage or PVH. */
import { GuestImageError } from '../boot-elf.js';
import { readInputFile } from '../input-file.js';
import { type BzImage, isBzImage, parseBzImage } from './bzimage.js';
import { isElf, type PvhImage, parsePvh } from './pvh.js';

export type LinuxKernel = BzImage | PvhImage;

/**
 * Reads a kernel: a bzImage, or an ELF file (vmlinux) with a PVH entry.
 * @throws InputFileError if it cannot be read; GuestImageError if it is truncated, or not a kernel for this machine
 */
export const readKernel = (path: string): LinuxKernel => parseKernel(path, readInputFile(path));

/** Like {@link readKernel}, for a kernel already in memory. */
export function parseKernel(path: string, file: Uint8Array): LinuxKernel {
  if (isElf(file)) return parsePvh(path, file);
  if (isBzImage(file)) return parseBzImage(path, file);
  throw new GuestImageError(
    path,
    `is not a Linux kernel: ${kindOf(file)}`,
    'give a bzImage (/boot/vmlinuz-…) or vmlinux',
  );
}

const MAGIC: readonly (readonly [string, readonly number[]])[] = [
  ['it is compressed by gzip: unpack it first', [0x1f, 0x8b]],
  ['it is compressed by xz: unpack it first', [0xfd, 0x37, 0x7a, 0x58, 0x5a]],
  ['it is compressed by zstd: unpack it first', [0x28, 0xb5, 0x2f, 0xfd]],
  ['it is a cpio archive, perhaps the initrd', [0x30, 0x37, 0x30, 0x37, 0x30]],
];

function kindOf(file: Uint8Array): string {
  const known = MAGIC.find(([, magic]) => magic.every((byte, i) => file[i] === byte));
  return known?.[0] ?? 'it has neither the header of a bzImage nor that of an ELF file';
}
