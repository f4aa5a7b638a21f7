/** One request of a driver (5.2.6): what it asks for, done with an image. */
import { SysError } from '../../sys/error.js';
import { type BlockImage, lengthOf, SECTOR_BYTES, sliceParts } from '../block/image.js';
import type { SharedState } from './shared-state.js';
import {
  BLK_HEADER_BYTES,
  BLK_SEGMENT_BYTES,
  MOST_RANGE_SECTORS,
  MOST_RANGES,
  VIRTIO_BLK_ID_BYTES,
  VIRTIO_BLK_S_IOERR,
  VIRTIO_BLK_S_OK,
  VIRTIO_BLK_S_UNSUPP,
  VIRTIO_BLK_T_DISCARD,
  VIRTIO_BLK_T_FLUSH,
  VIRTIO_BLK_T_GET_ID,
  VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_OUT,
  VIRTIO_BLK_T_WRITE_ZEROES,
  VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
} from './spec.js';

/** What requests are done with. */
export interface RequestTarget {
  readonly image: BlockImage;
  readonly state: SharedState;
  /** VIRTIO_BLK_ID_BYTES bytes. */
  readonly id: Uint8Array;
  /** Whether the driver flushes; if not, each write is flushed at once. */
  readonly hasFlush: boolean;
  /** The host failed a request. */
  readonly fail: (error: SysError) => void;
}

/** A device-readable range of a discard or write zeroes request. */
interface Range {
  readonly offset: number;
  readonly bytes: number;
  readonly flags: number;
}

/** Copies the first bytes of parts: the guest may change them at any time, so each is read once. */
function copyOf(parts: readonly Uint8Array[], bytes: number): DataView {
  const copy = new Uint8Array(bytes);
  let done = 0;
  for (const part of sliceParts(parts, 0, bytes)) {
    copy.set(part, done);
    done += part.length;
  }
  return new DataView(copy.buffer);
}

/** Inexact above 2^53, where no sector is. */
const sectorAt = (view: DataView, at: number): number =>
  view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;

/**
 * Does a request, and writes its status.
 * @param parts the chain's memory, of which the device reads the first `readable` and writes the others
 * @returns bytes written, for the used ring; or what is wrong with the chain, if it has no header or no place for a status
 */
export function serve(
  target: RequestTarget,
  parts: readonly Uint8Array[],
  readable: number,
): number | string {
  const from = parts.slice(0, readable);
  const to = parts.slice(readable);
  const given = lengthOf(from);
  const room = lengthOf(to) - 1;
  if (given < BLK_HEADER_BYTES) return `a request with a header of ${given} bytes`;
  if (room < 0) return 'a request without a byte for its status';
  const header = copyOf(from, BLK_HEADER_BYTES);
  const data = sliceParts(from, BLK_HEADER_BYTES, given - BLK_HEADER_BYTES);
  const space = sliceParts(to, 0, room);
  let status: number;
  try {
    status = perform(target, header, data, space);
  } catch (error) {
    // Anything else is a bug of ours.
    if (!(error instanceof SysError)) throw error;
    target.fail(error);
    status = VIRTIO_BLK_S_IOERR;
  }
  if (status !== VIRTIO_BLK_S_OK) target.state.count('errors');
  const last = to.at(-1) as Uint8Array;
  last[last.length - 1] = status;
  return room + 1;
}

function perform(
  target: RequestTarget,
  header: DataView,
  data: readonly Uint8Array[],
  space: readonly Uint8Array[],
): number {
  const { image, state, id } = target;
  const sector = sectorAt(header, 8);
  switch (header.getUint32(0, true)) {
    case VIRTIO_BLK_T_IN: {
      const bytes = lengthOf(space);
      if (!isWithin(image, sector, bytes)) return VIRTIO_BLK_S_IOERR;
      image.read(space, sector * SECTOR_BYTES);
      state.count('reads');
      state.count('readBytes', bytes);
      return VIRTIO_BLK_S_OK;
    }
    case VIRTIO_BLK_T_OUT: {
      const bytes = lengthOf(data);
      if (image.isReadOnly || !isWithin(image, sector, bytes)) return VIRTIO_BLK_S_IOERR;
      image.write(data, sector * SECTOR_BYTES);
      if (!target.hasFlush) image.flush();
      state.count('writes');
      state.count('writtenBytes', bytes);
      return VIRTIO_BLK_S_OK;
    }
    case VIRTIO_BLK_T_FLUSH:
      if (!image.isReadOnly) image.flush();
      state.count('flushes');
      return VIRTIO_BLK_S_OK;
    case VIRTIO_BLK_T_GET_ID: {
      let done = 0;
      for (const part of sliceParts(space, 0, VIRTIO_BLK_ID_BYTES)) {
        part.set(id.subarray(done, done + part.length));
        done += part.length;
      }
      return VIRTIO_BLK_S_OK;
    }
    case VIRTIO_BLK_T_DISCARD:
      return overRanges(target, data, 0, ({ offset, bytes }) => image.discard(offset, bytes));
    case VIRTIO_BLK_T_WRITE_ZEROES:
      return overRanges(target, data, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP, ({ offset, bytes, flags }) =>
        image.writeZeroes(offset, bytes, flags !== 0),
      );
    default:
      return VIRTIO_BLK_S_UNSUPP;
  }
}

/** Whole sectors, all of them on the disk. */
function isWithin(image: BlockImage, sector: number, bytes: number): boolean {
  return bytes % SECTOR_BYTES === 0 && sector + bytes / SECTOR_BYTES <= image.bytes / SECTOR_BYTES;
}

/** All ranges are checked before the first is touched. 5.2.6.2 */
function overRanges(
  { image, state, hasFlush }: RequestTarget,
  data: readonly Uint8Array[],
  allowedFlags: number,
  apply: (range: Range) => void,
): number {
  if (image.isReadOnly) return VIRTIO_BLK_S_IOERR;
  const bytes = lengthOf(data);
  const count = bytes / BLK_SEGMENT_BYTES;
  if (!Number.isInteger(count) || count === 0 || count > MOST_RANGES) return VIRTIO_BLK_S_IOERR;
  const segments = copyOf(data, bytes);
  const ranges: Range[] = [];
  for (let at = 0; at < bytes; at += BLK_SEGMENT_BYTES) {
    const sector = sectorAt(segments, at);
    const sectors = segments.getUint32(at + 8, true);
    const flags = segments.getUint32(at + 12, true);
    if ((flags & ~allowedFlags) !== 0) return VIRTIO_BLK_S_UNSUPP;
    if (sectors > MOST_RANGE_SECTORS || !isWithin(image, sector, sectors * SECTOR_BYTES))
      return VIRTIO_BLK_S_IOERR;
    if (sectors > 0) ranges.push({ offset: sector * SECTOR_BYTES, bytes: sectors * SECTOR_BYTES, flags });
  }
  for (const range of ranges) apply(range);
  if (!hasFlush) image.flush();
  state.count('discards');
  return VIRTIO_BLK_S_OK;
}
