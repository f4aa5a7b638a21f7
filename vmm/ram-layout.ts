import { gpa } from '../sys/address.js';
import type { Mapping } from '../sys/mapping.js';
import type { MemoryMap } from './assign/memory-map.js';
import { HIGH_RAM_BASE, LOW_RAM_END } from './layout.js';

/** Where a PC has its RAM: from 0 up to the hole below 4 GiB, the rest from 4 GiB. */
export function pcRam(bytes: bigint): readonly { readonly base: bigint; readonly bytes: bigint }[] {
  if (bytes <= LOW_RAM_END) return [{ base: 0n, bytes }];
  return [
    { base: 0n, bytes: LOW_RAM_END },
    { base: HIGH_RAM_BASE, bytes: bytes - LOW_RAM_END },
  ];
}

/** Gives a PC all of `mapping` as RAM. @throws SysError EINVAL */
export function addPcRam(memory: MemoryMap, mapping: Mapping): void {
  const [low, high] = pcRam(BigInt(mapping.bytes));
  if (low !== undefined) memory.addRam(gpa(low.base), mapping, { bytes: low.bytes });
  if (low !== undefined && high !== undefined)
    memory.addRam(gpa(high.base), mapping, { name: 'ram above 4 GiB', offset: low.bytes });
}
