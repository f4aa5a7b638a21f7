/** The bzImage: a self-extracting compressed kernel, entered in 64-bit mode (Linux boot protocol 2.12 and later). */
import { GuestImageError } from '../boot-elf.js';
import { BootParams, LOADED_HIGH, SetupHeader, XLF_KERNEL_64 } from './bootparam.js';
import type { KernelNeeds } from './placement.js';

/** `HdrS`, in the header field of that name. */
const HEADER_MAGIC = 0x53726448;
/** Offset of the header in the file and in boot_params. Its jump's target gives its length. */
const HEADER_AT = BootParams.offsets.hdr;
const MAGIC_AT = HEADER_AT + SetupHeader.offsets.header;
const JUMP_TARGET_AT = HEADER_AT + SetupHeader.offsets.jump + 1;

/** The first version with xloadflags; older ones do not identify 64-bit kernels. */
const OLDEST_VERSION = 0x020c;
const SECTOR = 512;
const SETUP_SECTORS_IF_ZERO = 4;
const PARAGRAPH = 16;
/** Offset of the 64-bit entry from the start of the protected-mode code. */
const ENTRY_64 = 0x200n;

/** A parsed bzImage. */
export interface BzImage {
  readonly kind: 'bzimage';
  readonly path: string;
  readonly header: SetupHeader;
  /** The header's bytes, at the length that this kernel declares; copied to boot_params unchanged. */
  readonly headerBytes: Uint8Array;
  /** The protected-mode code: the part to load. */
  readonly payload: Uint8Array;
  readonly needs: KernelNeeds;
  /** Longest command line, without its terminating zero. */
  readonly cmdlineBytes: number;
  /** Highest address that an initrd may occupy. */
  readonly highestInitrdByte: bigint;
}

export function isBzImage(file: Uint8Array): boolean {
  return file.length >= MAGIC_AT + 4 && view(file).getUint32(MAGIC_AT, true) === HEADER_MAGIC;
}

const view = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** @throws GuestImageError if it is truncated, older than boot protocol 2.12 (Linux 3.8), or not a 64-bit kernel */
export function parseBzImage(path: string, file: Uint8Array): BzImage {
  const cutShort = (needs: number) =>
    new GuestImageError(
      path,
      `is cut short: ${file.length} bytes, but its header speaks of ${needs}`,
      'copy it again',
    );
  if (file.length < HEADER_AT + SetupHeader.size) throw cutShort(HEADER_AT + SetupHeader.size);
  const header = SetupHeader.decode(file, HEADER_AT);
  const version = `${header.version >> 8}.${String(header.version & 0xff).padStart(2, '0')}`;
  if (header.version < OLDEST_VERSION || (header.loadflags & LOADED_HIGH) === 0) {
    throw new GuestImageError(path, `has boot protocol ${version}`, '2.12 (Linux 3.8) or later is needed');
  }
  if ((header.xloadflags & XLF_KERNEL_64) === 0) {
    throw new GuestImageError(path, 'has no 64-bit entry', 'give a kernel for x86-64, not a 32-bit one');
  }
  const start = ((header.setup_sects || SETUP_SECTORS_IF_ZERO) + 1) * SECTOR;
  const end = start + header.syssize * PARAGRAPH;
  if (end > file.length) throw cutShort(end);
  const headerEnd = MAGIC_AT + (file[JUMP_TARGET_AT] as number);
  return {
    kind: 'bzimage',
    path,
    header,
    headerBytes: file.subarray(HEADER_AT, Math.min(headerEnd, BootParams.offsets.edd_mbr_sig_buffer)),
    payload: file.subarray(start, end),
    needs: {
      path,
      base: header.pref_address,
      bytes: BigInt(Math.max(header.init_size, end - start)),
      alignment: header.relocatable_kernel === 0 ? undefined : BigInt(header.kernel_alignment),
    },
    cmdlineBytes: header.cmdline_size,
    highestInitrdByte: BigInt(header.initrd_addr_max),
  };
}

/** The 64-bit entry of a kernel loaded at `base`. */
export const bzImageEntry = (base: bigint): bigint => base + ENTRY_64;
