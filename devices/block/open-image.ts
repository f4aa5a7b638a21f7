import { existsSync, realpathSync, renameSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { fromNodeError } from '../../sys/error.js';
import type { DiskImage, ImageFormat } from './disk-image.js';
import type { FileIo } from './file-io.js';
import type { BlockImage } from './image.js';
import { ImageFile } from './image-file.js';
import { hasZstd } from './qcow2-compressed.js';
import { invalid, newHeader, QCOW2_MAGIC, type Qcow2Header, readHeader } from './qcow2-header.js';
import { Qcow2Image } from './qcow2-image.js';
import { RawImage } from './raw-image.js';

/** Of new overlays. */
const CLUSTER_BITS = 16;
const CLUSTER_BYTES = 2 ** CLUSTER_BITS;

/** One file, and what lies under it. */
interface Layer {
  readonly path: string;
  readonly format: ImageFormat;
  readonly isReadOnly: boolean;
  /** Whether the format is given, or follows from the name. */
  readonly isGiven: boolean;
}

/**
 * Opens and locks a disk, and makes its overlay if that is not there. No file is opened that an image names and the disk
 * does not.
 * @param io finishes what is begun with the image; the caller's, who disposes it after the image
 * @throws SysError of the file that cannot be opened; EINVAL for an image that is not valid; EBUSY for one in use
 */
export function openImage(disk: DiskImage, io: FileIo): BlockImage {
  const { file, format, isReadOnly, overlay, backing } = disk;
  const under = backing === undefined ? undefined : layerOf(backing, undefined, true);
  const base = layerOf(file, format, isReadOnly || overlay !== undefined);
  const opened = openLayer(io, base, under);
  if (overlay === undefined) return opened;
  try {
    return openOverlay(io, overlay, base, opened);
  } catch (error) {
    opened[Symbol.dispose]();
    throw error;
  }
}

/** A file is never asked for its format: a guest that writes a raw disk could have it say anything. */
function layerOf(path: string, format: ImageFormat | undefined, isReadOnly: boolean): Layer {
  const byName = path.endsWith('.qcow2') ? 'qcow2' : 'raw';
  return { path, format: format ?? byName, isReadOnly, isGiven: format !== undefined };
}

function openLayer(io: FileIo, layer: Layer, under: Layer | undefined): BlockImage {
  const { path, format, isReadOnly } = layer;
  const file = ImageFile.open(path, { io, isReadOnly });
  try {
    if (format === 'raw') {
      if (under !== undefined) throw invalid(path, 'backing= is for a qcow2 image: a raw one has none');
      if (!layer.isGiven) checkRaw(file);
      return new RawImage(file);
    }
    return openQcow2(io, file, readHeader(file), under);
  } catch (error) {
    file[Symbol.dispose]();
    throw error;
  }
}

function openQcow2(io: FileIo, file: ImageFile, header: Qcow2Header, under: Layer | undefined): BlockImage {
  const { path } = file;
  if (header.hasZstd && !hasZstd())
    throw invalid(path, 'it is compressed with zstd, which Node has from version 22.15 on: qemu-img convert');
  const { backing } = header;
  if (backing === undefined) {
    if (under !== undefined) throw invalid(path, `it is no overlay: it has nothing to do with ${under.path}`);
    return new Qcow2Image(file, header, undefined);
  }
  if (under === undefined) {
    const hint = `it is an overlay of ${backing}: give backing=FILE, as no file is opened that only an image names`;
    throw invalid(path, hint);
  }
  checkBacking(file, header, under.path);
  const format =
    header.backingFormat === 'qcow2' || header.backingFormat === 'raw' ? header.backingFormat : undefined;
  const below = openLayer(io, format === undefined ? under : { ...under, format, isGiven: true }, undefined);
  try {
    return new Qcow2Image(file, header, below);
  } catch (error) {
    below[Symbol.dispose]();
    throw error;
  }
}

/** @throws SysError EINVAL if an overlay is one of another file */
function checkBacking(file: ImageFile, { backing }: Qcow2Header, path: string): void {
  if (backing === undefined)
    throw invalid(
      file.path,
      `it is a disk of its own, and no overlay of ${path}: give it as the disk's file`,
    );
  const named = resolve(dirname(file.path), backing);
  if (existsSync(named) && realpathSync(named) === realpathSync(path)) return;
  throw invalid(
    file.path,
    `it is an overlay of ${named}, and not of ${path}: qemu-img rebase -u if that has moved`,
  );
}

/** A qcow2 image that is taken for a raw disk would show the guest its tables, and have it overwrite them. */
function checkRaw(file: ImageFile): void {
  const magic = new Uint8Array(4);
  file.read([magic], 0);
  if (new DataView(magic.buffer).getUint32(0) === QCOW2_MAGIC)
    throw invalid(
      file.path,
      'it begins as a qcow2 image: give format=qcow2, or format=raw if it is a disk all the same',
    );
}

/** The overlay owns `base` once it is open. */
function openOverlay(io: FileIo, path: string, base: Layer, opened: BlockImage): BlockImage {
  const file = existsSync(path)
    ? ImageFile.open(path, { io, isReadOnly: false })
    : createOverlay(io, path, base, opened.bytes);
  try {
    const header = readHeader(file);
    checkBacking(file, header, base.path);
    return new Qcow2Image(file, header, opened);
  } catch (error) {
    file[Symbol.dispose]();
    throw error;
  }
}

/** Makes an empty overlay under another name first: there is either none, or a whole one. */
function createOverlay(io: FileIo, path: string, base: Layer, bytes: number): ImageFile {
  const file = ImageFile.open(`${path}.new`, { io, isReadOnly: false, isNew: true });
  try {
    const l1Entries = Math.ceil(bytes / (CLUSTER_BYTES * (CLUSTER_BYTES / 8)));
    const l1Clusters = Math.ceil((l1Entries * 8) / CLUSTER_BYTES);
    const [tableAt, blockAt, l1At] = [CLUSTER_BYTES, 2 * CLUSTER_BYTES, 3 * CLUSTER_BYTES];
    const table = new DataView(new ArrayBuffer(CLUSTER_BYTES));
    table.setBigUint64(0, BigInt(blockAt));
    const block = new DataView(new ArrayBuffer(CLUSTER_BYTES));
    const used = 3 + l1Clusters;
    if (2 * used > CLUSTER_BYTES)
      throw invalid(base.path, `a disk of ${bytes} bytes is too large for an overlay`);
    for (let i = 0; i < used; i++) block.setUint16(2 * i, 1);
    const header = newHeader(
      {
        ...{ bytes, clusterBits: CLUSTER_BITS, l1Entries, l1Offset: l1At, refcountTableOffset: tableAt },
        ...{ backing: realpathSync(base.path), backingFormat: base.format },
      },
      path,
    );
    const parts = [header, new Uint8Array(table.buffer), new Uint8Array(block.buffer)];
    file.write([...parts, ...Array.from({ length: l1Clusters }, () => new Uint8Array(CLUSTER_BYTES))], 0);
    file.sync();
    try {
      renameSync(`${path}.new`, path);
    } catch (error) {
      throw fromNodeError(error, 'rename', path);
    }
    return file.renamed(path);
  } catch (error) {
    file[Symbol.dispose]();
    throw error;
  }
}
