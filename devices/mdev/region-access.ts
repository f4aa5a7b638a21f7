/** How accesses reach what lies behind a region: raw bytes, registers of a width, memory. */
import type { Mapping } from '../../sys/mapping.js';
import type { RegionIoEventFd } from '../../vfio/uapi.js';

/** Functions for the accesses to an area. Offsets count from its start. None of them throws for what a guest does. */
export interface RegionAccess {
  /** Fills `data`, which lies in the area, and comes as all-ones. Without it reads are all-ones. */
  readonly read?: (offset: number, data: Uint8Array) => void;
  /** Takes `data`, which lies in the area. Without it the area is read-only. */
  readonly write?: (offset: number, data: Uint8Array) => void;
  /** Doorbells. A write that signals an eventfd in the kernel does not come to `write`; one that is trapped does. */
  readonly ioFds?: readonly RegionIoEventFd[];
}

/** Registers whose values are numbers. */
export interface Registers {
  /** The value of `bytes` (1, 2 or 4) at `offset`, a multiple of them. Bits above are ignored. */
  read?(offset: number, bytes: number): number;
  write?(offset: number, bytes: number, value: number): void;
}

/**
 * Splits accesses into naturally aligned ones, little-endian: 4, 2 and 1 bytes, as vfio-pci does.
 * @param widest the most bytes of a register: 1, 2 or 4
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
      let value = 0;
      for (let i = bytes - 1; i >= 0; i--) value = value * 256 + (data[done + i] as number);
      registers.write?.(offset + done, bytes, value);
      done += bytes;
    }
  };
  return { ...(registers.read && { read }), ...(registers.write && { write }) };
}

/** Accesses to memory. Aligned words are copied as a whole: typed arrays are copied by memmove(3). */
export function memoryAccess({ view }: Mapping): RegionAccess {
  return {
    read: (offset, data) => data.set(view.slice(offset, data.length)),
    write: (offset, data) => view.slice(offset, data.length).set(data),
  };
}
