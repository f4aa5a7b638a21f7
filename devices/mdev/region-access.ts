/** Access functions of a region: for raw bytes, for registers, for memory. */
import type { Mapping } from '../../sys/mapping.js';
import type { RegionIoEventFd } from '../../vfio/uapi.js';
import { littleEndian } from '../pci/config-space.js';

/**
 * Functions that handle accesses to an area. Offsets are relative to its start, and each access lies within it. The
 * functions must not throw, whatever the guest does.
 */
export interface RegionAccess {
  /** Fills `data`, which is preset to all-ones. If absent, reads return all-ones. */
  readonly read?: (offset: number, data: Uint8Array) => void;
  /** Handles the write of `data`. If absent, the area is read-only. */
  readonly write?: (offset: number, data: Uint8Array) => void;
  /** Doorbells. Writes for which KVM signals the eventfd do not reach `write`; trapped ones do. */
  readonly ioFds?: readonly RegionIoEventFd[];
}

/** Registers whose values are numbers. */
export interface Registers {
  /** Returns the value of the `bytes` (1, 2 or 4) at `offset`, a multiple of `bytes`; higher bits are ignored. */
  read?(offset: number, bytes: number): number;
  /** Writes `value` to the `bytes` (1, 2 or 4) at `offset`, a multiple of `bytes`. */
  write?(offset: number, bytes: number, value: number): void;
}

/**
 * Access functions that split accesses into naturally aligned ones of 4, 2 or 1 bytes, little-endian, as vfio-pci does.
 * @param widest the width of the widest register in bytes
 */
export function registerAccess(registers: Registers, widest: 1 | 2 | 4 = 4): RegionAccess {
  const widthAt = (at: number, left: number): number => {
    let bytes: number = widest;
    while (at % bytes !== 0 || bytes > left) bytes /= 2;
    return bytes;
  };
  const read = (offset: number, data: Uint8Array): void => {
    for (let done = 0; done < data.length; ) {
      const bytes = widthAt(offset + done, data.length - done);
      let value = registers.read?.(offset + done, bytes) ?? 0xffff_ffff;
      for (const end = done + bytes; done < end; done++, value >>>= 8) data[done] = value & 0xff;
    }
  };
  const write = (offset: number, data: Uint8Array): void => {
    for (let done = 0; done < data.length; ) {
      const bytes = widthAt(offset + done, data.length - done);
      registers.write?.(offset + done, bytes, littleEndian(data, done, bytes));
      done += bytes;
    }
  };
  return { ...(registers.read && { read }), ...(registers.write && { write }) };
}

/** Access functions for memory. They copy aligned words as a whole, because typed arrays copy with memmove(3). */
export function memoryAccess({ view }: Mapping): RegionAccess {
  return {
    read: (offset, data) => data.set(view.slice(offset, data.length)),
    write: (offset, data) => view.slice(offset, data.length).set(data),
  };
}
