import { type Gpa, type Hva, PAGE_SIZE } from '../../../sys/address.js';
import { errno } from '../../../sys/errno.js';
import { SysError } from '../../../sys/error.js';
import { disposable } from '../../../sys/scope.js';
import type { MemorySlotPort, MemorySlotUse } from '../memory-map.js';

/** A slot of {@link RuledSlots}. */
export interface RuledSlot {
  readonly gpa: Gpa;
  readonly hva: Hva;
  readonly bytes: bigint;
  readonly isReadonly: boolean;
}

/** KVM's memory slots with KVM's rules: whole pages, no overlap, and an end of their number. */
export class RuledSlots implements MemorySlotPort {
  readonly #slots = new Set<RuledSlot>();
  /** KVM_CAP_NR_MEMSLOTS. */
  most = Number.POSITIVE_INFINITY;
  /** Slots that were added or removed. */
  changes = 0;
  /** Called at each change. */
  onChange: () => void = () => {};

  add(gpa: Gpa, hva: Hva, bytes: bigint, { isReadonly = false }: MemorySlotUse = {}): Disposable {
    const fail = (code: number): never => {
      throw new SysError({
        call: 'KVM_SET_USER_MEMORY_REGION',
        target: `0x${gpa.toString(16)}`,
        errno: code,
      });
    };
    if (bytes <= 0n || [gpa, hva, bytes].some((value) => value % PAGE_SIZE !== 0n)) fail(errno.EINVAL);
    for (const other of this.#slots)
      if (gpa < other.gpa + other.bytes && other.gpa < gpa + bytes) fail(errno.EEXIST);
    if (this.#slots.size >= this.most) fail(errno.EINVAL);
    const slot: RuledSlot = { gpa, hva, bytes, isReadonly: isReadonly ?? false };
    this.#slots.add(slot);
    this.#changed();
    return disposable(() => {
      this.#slots.delete(slot);
      this.#changed();
    });
  }

  #changed(): void {
    this.changes++;
    this.onChange();
  }

  /** By address. */
  get all(): readonly RuledSlot[] {
    return [...this.#slots].sort((a, b) => (a.gpa < b.gpa ? -1 : 1));
  }
}
