/** The header of a qcow2 image. @see qemu, docs/interop/qcow2.rst */
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { SECTOR_BYTES } from './image.js';
import type { ImageFile } from './image-file.js';

/** `QFI\xfb` */
export const QCOW2_MAGIC = 0x514649fb;
const HEADER_BYTES = 112;
const V2_HEADER_BYTES = 72;
/** Where the header ends at the latest: its cluster, of which this much is read. */
const MOST_HEADER_BYTES = 4096;
const MOST_NAME_BYTES = 1023;
const EXTENSION_BACKING_FORMAT = 0xe2792aca;

const INCOMPATIBLE_DIRTY = 1n << 0n;
const INCOMPATIBLE_CORRUPT = 1n << 1n;
const INCOMPATIBLE_DATA_FILE = 1n << 2n;
const INCOMPATIBLE_COMPRESSION = 1n << 3n;
const INCOMPATIBLE_EXTENDED_L2 = 1n << 4n;
const KNOWN = INCOMPATIBLE_DIRTY | INCOMPATIBLE_CORRUPT | INCOMPATIBLE_COMPRESSION;

const LEAST_CLUSTER_BITS = 9;
const MOST_CLUSTER_BITS = 21;
/** As QEMU's: entries of an L1 table of 32 MiB, bytes of a refcount table. */
const MOST_L1_ENTRIES = (32 << 20) / 8;
const MOST_REFCOUNT_TABLE_BYTES = 8 << 20;

const REFCOUNT_ORDER = 4;
const COMPRESSION_AT = 104;
export const AUTOCLEAR_AT = 88;

export interface Qcow2Header {
  readonly version: 2 | 3;
  readonly clusterBits: number;
  readonly clusterBytes: number;
  /** Size of the disk. */
  readonly bytes: number;
  /** Entries of the L1 table that the disk needs. */
  readonly l1Entries: number;
  readonly l1Offset: number;
  readonly refcountTableOffset: number;
  readonly refcountTableBytes: number;
  readonly hasZstd: boolean;
  /** As the image names it; undefined if it has none. */
  readonly backing: string | undefined;
  readonly backingFormat: string | undefined;
  /** Why it cannot be written. */
  readonly writeProblem: string | undefined;
  readonly hasAutoclear: boolean;
}

export const invalid = (path: string, hint: string): SysError =>
  new SysError({ call: 'open', target: path, errno: errno.EINVAL, hint });

/** Reads and checks the header: nothing that it says is taken on trust. @throws SysError EINVAL that says what is wrong */
export function readHeader(file: ImageFile): Qcow2Header {
  const bytes = new Uint8Array(MOST_HEADER_BYTES);
  file.read([bytes], 0);
  const view = new DataView(bytes.buffer);
  const problem = (text: string): SysError => invalid(file.path, `as a qcow2 image, ${text}`);
  if (view.getUint32(0) !== QCOW2_MAGIC) throw invalid(file.path, 'it is no qcow2 image: give format=raw');
  const version = view.getUint32(4);
  if (version !== 2 && version !== 3) throw problem(`it has version ${version}: 2 and 3 are known`);
  const isNew = version === 3;
  const incompatible = isNew ? view.getBigUint64(72) : 0n;
  const headerBytes = isNew ? view.getUint32(100) : V2_HEADER_BYTES;
  if (headerBytes < V2_HEADER_BYTES || headerBytes > MOST_HEADER_BYTES || headerBytes % 8 !== 0)
    throw problem(`it has a header of ${headerBytes} bytes`);
  if (view.getUint32(32) !== 0) throw problem('it is encrypted, which is not supported: qemu-img convert');
  if ((incompatible & INCOMPATIBLE_DATA_FILE) !== 0n)
    throw problem('its data is in another file, which is not supported: qemu-img convert');
  if ((incompatible & INCOMPATIBLE_EXTENDED_L2) !== 0n)
    throw problem('it has extended L2 entries, which are not supported: qemu-img convert');
  if ((incompatible & ~KNOWN) !== 0n)
    throw problem(`it needs features 0x${(incompatible & ~KNOWN).toString(16)}, which are not known`);
  const compression = headerBytes > COMPRESSION_AT ? view.getUint8(COMPRESSION_AT) : 0;
  if (compression > 1) throw problem(`it has compression of type ${compression}, which is not known`);

  const clusterBits = view.getUint32(20);
  if (clusterBits < LEAST_CLUSTER_BITS || clusterBits > MOST_CLUSTER_BITS)
    throw problem(`it has clusters of 2^${clusterBits} bytes`);
  const clusterBytes = 2 ** clusterBits;
  const size = number(view, 24);
  if (size === 0 || size % SECTOR_BYTES !== 0) throw problem(`it has a disk of ${size} bytes`);
  const l1Entries = Math.ceil(size / (clusterBytes * (clusterBytes / 8)));
  const given = view.getUint32(36);
  if (l1Entries > MOST_L1_ENTRIES || given < l1Entries)
    throw problem(`it has an L1 table of ${given} entries for a disk of ${size} bytes`);
  const tables = {
    l1Offset: number(view, 40),
    refcountTableOffset: number(view, 48),
    refcountTableBytes: view.getUint32(56) * clusterBytes,
  };
  for (const at of [tables.l1Offset, tables.refcountTableOffset])
    if (at % clusterBytes !== 0 || at === 0) throw problem(`it has a table at 0x${at.toString(16)}`);
  if (tables.l1Offset + 8 * l1Entries > file.bytes)
    throw problem('it is cut off: its L1 table lies beyond its end');
  const order = isNew ? view.getUint32(96) : REFCOUNT_ORDER;
  return {
    ...{ version, clusterBits, clusterBytes, bytes: size, l1Entries, ...tables },
    hasZstd: compression === 1,
    backing: backingName(view, problem),
    backingFormat: isNew || headerBytes >= V2_HEADER_BYTES ? extension(bytes, headerBytes) : undefined,
    writeProblem: writeProblem(incompatible, view.getUint32(60), order, tables, file),
    hasAutoclear: isNew && view.getBigUint64(AUTOCLEAR_AT) !== 0n,
  };
}

/** Inexact above 2^53, and then no offset or size that a file can have. */
const number = (view: DataView, at: number): number => view.getUint32(at) * 2 ** 32 + view.getUint32(at + 4);

function backingName(view: DataView, problem: (text: string) => SysError): string | undefined {
  const [at, length] = [number(view, 8), view.getUint32(16)];
  if (at === 0) return undefined;
  if (length === 0 || length > MOST_NAME_BYTES || at + length > MOST_HEADER_BYTES)
    throw problem(`it names a backing file with ${length} bytes at 0x${at.toString(16)}`);
  return Buffer.from(view.buffer, at, length).toString('utf8');
}

/** The backing file's format, of the header's extensions. */
function extension(bytes: Uint8Array, from: number): string | undefined {
  const view = new DataView(bytes.buffer);
  for (let at = from; at + 8 <= bytes.length; ) {
    const [type, length] = [view.getUint32(at), view.getUint32(at + 4)];
    if (type === 0 || at + 8 + length > bytes.length) return undefined;
    if (type === EXTENSION_BACKING_FORMAT) return Buffer.from(bytes.buffer, at + 8, length).toString('utf8');
    at += 8 + 8 * Math.ceil(length / 8);
  }
  return undefined;
}

function writeProblem(
  incompatible: bigint,
  snapshots: number,
  order: number,
  {
    refcountTableOffset,
    refcountTableBytes,
  }: Pick<Qcow2Header, 'refcountTableOffset' | 'refcountTableBytes'>,
  file: ImageFile,
): string | undefined {
  if ((incompatible & (INCOMPATIBLE_DIRTY | INCOMPATIBLE_CORRUPT)) !== 0n)
    return 'it was not closed, or is corrupt: qemu-img check -r all';
  if (snapshots > 0) return `it has ${snapshots} internal snapshots, which are not supported`;
  if (order !== REFCOUNT_ORDER) return `it has refcounts of ${2 ** order} bits: 16 are supported`;
  if (refcountTableBytes === 0 || refcountTableBytes > MOST_REFCOUNT_TABLE_BYTES)
    return `it has a refcount table of ${refcountTableBytes} bytes`;
  if (refcountTableOffset + refcountTableBytes > file.bytes) return 'its refcount table lies beyond its end';
  return undefined;
}

/** What a new overlay begins with. */
export interface NewHeader {
  /** Size of the disk. */
  readonly bytes: number;
  readonly clusterBits: number;
  readonly l1Entries: number;
  readonly l1Offset: number;
  readonly refcountTableOffset: number;
  readonly backing: string;
  readonly backingFormat: string;
}

/** The first cluster of a new image. @throws SysError EINVAL for a backing file with too long a name */
export function newHeader(header: NewHeader, path: string): Uint8Array {
  const cluster = new Uint8Array(2 ** header.clusterBits);
  const view = new DataView(cluster.buffer);
  const [name, format] = [Buffer.from(header.backing), Buffer.from(header.backingFormat)];
  if (name.length > MOST_NAME_BYTES)
    throw invalid(path, `the path of its backing file has more than ${MOST_NAME_BYTES} bytes`);
  view.setUint32(0, QCOW2_MAGIC);
  view.setUint32(4, 3);
  view.setUint32(20, header.clusterBits);
  view.setBigUint64(24, BigInt(header.bytes));
  view.setUint32(36, header.l1Entries);
  view.setBigUint64(40, BigInt(header.l1Offset));
  view.setBigUint64(48, BigInt(header.refcountTableOffset));
  view.setUint32(56, 1);
  view.setUint32(96, REFCOUNT_ORDER);
  view.setUint32(100, HEADER_BYTES);
  view.setUint32(HEADER_BYTES, EXTENSION_BACKING_FORMAT);
  view.setUint32(HEADER_BYTES + 4, format.length);
  cluster.set(format, HEADER_BYTES + 8);
  // The extension that ends them has type and length 0.
  const nameAt = HEADER_BYTES + 8 + 8 * Math.ceil(format.length / 8) + 8;
  cluster.set(name, nameAt);
  view.setBigUint64(8, BigInt(nameAt));
  view.setUint32(16, name.length);
  return cluster;
}
