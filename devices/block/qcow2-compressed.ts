/** Compressed clusters of a qcow2 image. */
import * as zlib from 'node:zlib';
import type { ImageFile } from './image-file.js';
import type { Qcow2Header } from './qcow2-header.js';
import { notValid } from './qcow2-tables.js';

const COMPRESSED_SECTOR = 512;

/** Where a compressed cluster's bytes are; the last ones may be something else's. */
export function compressedRange(entry: bigint, clusterBits: number): { offset: number; bytes: number } {
  const offsetBits = BigInt(62 - (clusterBits - 8));
  const offset = Number(entry & ((1n << offsetBits) - 1n));
  const sectors = Number((entry & ((1n << 62n) - 1n)) >> offsetBits) + 1;
  return { offset, bytes: sectors * COMPRESSED_SECTOR - (offset % COMPRESSED_SECTOR) };
}

type Zstd = { readonly zstdDecompressSync?: (data: Uint8Array, options: object) => Uint8Array };

/** Whether this Node can read clusters compressed with zstd. */
export const hasZstd = (): boolean => (zlib as Zstd).zstdDecompressSync !== undefined;

/** @throws SysError EIO for data that is not valid, or of another length than a cluster */
export function decompress(file: ImageFile, header: Qcow2Header, entry: bigint): Uint8Array {
  const { clusterBytes, clusterBits } = header;
  const { offset, bytes } = compressedRange(entry, clusterBits);
  const what = `a compressed cluster at 0x${offset.toString(16)}`;
  if (offset >= file.bytes) throw notValid(file.path, `${what}, beyond its end`);
  const data = new Uint8Array(Math.min(bytes, file.bytes - offset));
  file.read([data], offset);
  let whole: Uint8Array;
  try {
    whole = header.hasZstd ? unzstd(data, clusterBytes) : inflate(data, clusterBytes);
  } catch (error) {
    throw notValid(file.path, `${what}: ${(error as Error).message}`);
  }
  if (whole.length !== clusterBytes) throw notValid(file.path, `${what} has ${whole.length} bytes`);
  return whole;
}

/** What follows the compressed data is left alone, and what is missing at its end tolerated. */
const inflate = (data: Uint8Array, bytes: number): Uint8Array =>
  zlib.inflateRawSync(data, { maxOutputLength: bytes, finishFlush: zlib.constants.Z_SYNC_FLUSH });

const unzstd = (data: Uint8Array, bytes: number): Uint8Array =>
  (zlib as Zstd).zstdDecompressSync!(data, { maxOutputLength: bytes });
