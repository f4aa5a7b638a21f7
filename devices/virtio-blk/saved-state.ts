/** What a disk adds to the state of a virtio function: what its driver knows of it. Its contents are its image's. */
import type { StateReader, StateWriter } from '../mdev/state-fields.js';
import type { DiskShape } from './messages.js';

export function saveDisk(out: StateWriter, { bytes, isReadOnly, discardBytes }: DiskShape): void {
  out.u64(BigInt(bytes)).u32(discardBytes);
  out.u8(isReadOnly ? 1 : 0);
}

/** Reads what {@link saveDisk} has written, of a disk that looks the same. */
export function checkDisk(reader: StateReader, own: DiskShape): void {
  const bytes = reader.u64();
  if (bytes !== BigInt(own.bytes)) reader.fail(`that of a disk of ${bytes} bytes`);
  reader.same('granularity of discards', reader.u32(), own.discardBytes);
  if (reader.flag('whether the disk is read-only') !== own.isReadOnly)
    reader.fail(`that of a disk which ${own.isReadOnly ? 'can' : 'cannot'} be written`);
}
