/** One request of a driver (5.2.6): what it asks for, done with an image. */
import type { SysError } from '../../sys/error.js';
import { type BlockImage, type Done, SECTOR_BYTES } from '../block/image.js';
import { Joint } from '../block/joint.js';
import { lengthOf, sliceParts } from '../memory-parts.js';
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
 * Begins a request. What it asks for is read at once: the guest may change it at any time.
 * @param parts the chain's memory, of which the device reads the first `readable` and writes the others; the last byte is for
 * the status, which the caller writes
 * @param done is given the status, now or later
 * @returns what is wrong with the chain, if it has no header or no place for a status: nothing is begun then
 */
export function begin(
  target: RequestTarget,
  parts: readonly Uint8Array[],
  readable: number,
  done: (status: number) => void,
): string | undefined {
  const from = parts.slice(0, readable);
  const to = parts.slice(readable);
  const given = lengthOf(from);
  const room = lengthOf(to) - 1;
  if (given < BLK_HEADER_BYTES) return `a request with a header of ${given} bytes`;
  if (room < 0) return 'a request without a byte for its status';
  const header = copyOf(from, BLK_HEADER_BYTES);
  const data = sliceParts(from, BLK_HEADER_BYTES, given - BLK_HEADER_BYTES);
  const space = sliceParts(to, 0, room);
  perform(target, header, data, space, (status) => {
    if (status !== VIRTIO_BLK_S_OK) target.state.count('errors');
    done(status);
  });
  return undefined;
}

function perform(
  target: RequestTarget,
  header: DataView,
  data: readonly Uint8Array[],
  space: readonly Uint8Array[],
  done: (status: number) => void,
): void {
  const { image, state, id } = target;
  const sector = sectorAt(header, 8);
  const offset = sector * SECTOR_BYTES;
  /** For an operation that counts if it succeeds. */
  const ended =
    (count: () => void): Done =>
    (error) => {
      if (error === undefined) count();
      else target.fail(error);
      done(error === undefined ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR);
    };
  switch (header.getUint32(0, true)) {
    case VIRTIO_BLK_T_IN: {
      const bytes = lengthOf(space);
      const read = ended(() => {
        state.count('reads');
        state.count('readBytes', bytes);
      });
      if (isWithin(image, sector, bytes)) image.read(space, offset, read);
      else done(VIRTIO_BLK_S_IOERR);
      break;
    }
    case VIRTIO_BLK_T_OUT: {
      const bytes = lengthOf(data);
      const written = ended(() => {
        state.count('writes');
        state.count('writtenBytes', bytes);
      });
      if (image.isReadOnly || !isWithin(image, sector, bytes)) done(VIRTIO_BLK_S_IOERR);
      else image.write(data, offset, flushed(target, written));
      break;
    }
    case VIRTIO_BLK_T_FLUSH: {
      const flushes = ended(() => state.count('flushes'));
      if (image.isReadOnly) flushes();
      else image.flush(flushes);
      break;
    }
    case VIRTIO_BLK_T_GET_ID: {
      let at = 0;
      for (const part of sliceParts(space, 0, VIRTIO_BLK_ID_BYTES)) {
        part.set(id.subarray(at, at + part.length));
        at += part.length;
      }
      done(VIRTIO_BLK_S_OK);
      break;
    }
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES: {
      const isDiscard = header.getUint32(0, true) === VIRTIO_BLK_T_DISCARD;
      const ranges = rangesOf(image, data, isDiscard ? 0 : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP);
      if (typeof ranges === 'number') {
        done(ranges);
        break;
      }
      const joint = new Joint(
        flushed(
          target,
          ended(() => state.count('discards')),
        ),
      );
      for (const { offset: at, bytes, flags } of ranges) {
        if (isDiscard) image.discard(at, bytes, joint.part());
        else image.writeZeroes(at, bytes, flags !== 0, joint.part());
      }
      joint.end();
      break;
    }
    default:
      done(VIRTIO_BLK_S_UNSUPP);
  }
}

/** 5.2.6.2: what a driver without flush has written lasts once it is done. */
const flushed = ({ image, hasFlush }: RequestTarget, done: Done): Done =>
  hasFlush ? done : (error) => (error === undefined ? image.flush(done) : done(error));

/** Whole sectors, all of them on the disk. */
function isWithin(image: BlockImage, sector: number, bytes: number): boolean {
  return bytes % SECTOR_BYTES === 0 && sector + bytes / SECTOR_BYTES <= image.bytes / SECTOR_BYTES;
}

/** The ranges of a request, all of which are checked before the first is touched, or its status. 5.2.6.2 */
function rangesOf(image: BlockImage, data: readonly Uint8Array[], allowedFlags: number): Range[] | number {
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
  return ranges;
}
