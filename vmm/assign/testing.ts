import { gpa } from '../../sys/address.js';
import { Mapping } from '../../sys/mapping.js';
import { disposable, type Scope } from '../../sys/scope.js';
import { addPcRam } from '../ram-layout.js';
import { MemoryMap, type MemorySlotPort } from './memory-map.js';

export const noSlots: MemorySlotPort = { add: () => disposable(() => {}) };

/** Memory of a guest with PC-like RAM; `scope` owns both. */
export function pcMemory(scope: Scope, bytes: bigint, slots: MemorySlotPort = noSlots): MemoryMap {
  const mapping = scope.own(Mapping.huge(Number(bytes)));
  const memory = scope.own(new MemoryMap(slots));
  addPcRam(memory, mapping);
  return memory;
}

/** Memory of a guest with one piece of RAM at 0; `scope` owns both. */
export function flatMemory(scope: Scope, bytes: bigint, slots: MemorySlotPort = noSlots): MemoryMap {
  const mapping = scope.own(Mapping.huge(Number(bytes)));
  const memory = scope.own(new MemoryMap(slots));
  memory.addRam(gpa(0n), mapping);
  return memory;
}
