import { gpa } from '../sys/address.js';
import type { Mapping } from '../sys/mapping.js';
import type { MemoryMap } from './assign/memory-map.js';
import { HIGH_RAM_BASE, LOW_RAM_END } from './layout.js';

/** Gives a PC all of `mapping` as RAM: from 0 up to the hole below 4 GiB, the rest from 4 GiB. @throws SysError EINVAL */
export function addPcRam(memory: MemoryMap, mapping: Mapping): void {
  const bytes = BigInt(mapping.bytes);
  const low = bytes < LOW_RAM_END ? bytes : LOW_RAM_END;
  memory.addRam(gpa(0n), mapping, { bytes: low });
  if (bytes > low) memory.addRam(gpa(HIGH_RAM_BASE), mapping, { name: 'ram above 4 GiB', offset: low });
}
