import { gpa } from '../../sys/address.js';
import { Mapping } from '../../sys/mapping.js';
import { disposable, type Scope } from '../../sys/scope.js';
import { addPcRam } from '../ram-layout.js';
import { MemoryMap, type MemorySlotPort } from './memory-map.js';

/** Accepts every slot and maps nothing. */
export const noSlots: MemorySlotPort = { add: () => disposable(() => {}) };

/** Guest memory with a PC's RAM layout; `scope` owns it and its mapping. */
export function pcMemory(scope: Scope, bytes: bigint, slots: MemorySlotPort = noSlots): MemoryMap {
  const mapping = scope.own(Mapping.huge(Number(bytes)));
  const memory = scope.own(new MemoryMap(slots));
  addPcRam(memory, mapping);
  return memory;
}

/** Guest memory with one range of RAM at 0; `scope` owns it and its mapping. */
export function flatMemory(scope: Scope, bytes: bigint, slots: MemorySlotPort = noSlots): MemoryMap {
  const mapping = scope.own(Mapping.huge(Number(bytes)));
  const memory = scope.own(new MemoryMap(slots));
  memory.addRam(gpa(0n), mapping);
  return memory;
}
