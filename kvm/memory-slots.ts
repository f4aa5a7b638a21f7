import { formatRange, type Gpa, type Hva } from '../sys/address.js';
import { disposable } from '../sys/scope.js';
import { type MemoryEvent, trace } from '../sys/trace.js';
import { KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY } from './uapi.js';
import type { Vm } from './vm.js';

/** How the guest may use a slot. */
export interface MemorySlotOptions {
  /** Guest writes become `mmio` exits. */
  readonly isReadonly?: boolean | undefined;
  /** KVM logs which pages the guest writes. */
  readonly isLogged?: boolean | undefined;
}

/** Host memory mapped at a guest physical address. Disposing unmaps it from the guest. */
export interface MemorySlot extends Disposable {
  /** KVM's slot number. */
  readonly slot: number;
  /** First byte as the guest addresses it, page-aligned. */
  readonly gpa: Gpa;
  /** First byte in this process, page-aligned. */
  readonly hva: Hva;
  /** Length in bytes, whole pages. */
  readonly bytes: bigint;
  /** Whether guest writes exit as `mmio` instead of reaching the memory. */
  readonly isReadonly: boolean;
  /** Starts or stops dirty page logging. @throws RangeError after disposal */
  setLogged(isLogged: boolean): void;
  /** Pages written since the last call, bit n for page n. @throws SysError ENOENT if the slot does not log */
  getDirtyLog(): Uint8Array;
  /** Clears the dirty pages named by `bitmap`. @see Vm.clearDirtyLog */
  clearDirtyLog(firstPage: bigint, pages: number, bitmap: Uint8Array): void;
}

/** The memory slots of a VM: allocates their numbers. Machine thread. */
export class MemorySlots {
  readonly #vm: Vm;
  readonly #used = new Set<number>();

  constructor(vm: Vm) {
    this.#vm = vm;
  }

  /** Number of slots in use. */
  get count(): number {
    return this.#used.size;
  }

  /**
   * Maps host memory into the guest.
   * @param gpa page-aligned
   * @param hva page-aligned; must stay mapped until the slot is disposed. For huge pages, gpa and hva agree modulo 2
   *   MiB
   * @param bytes a multiple of the page size
   * @throws SysError EEXIST if the range overlaps another slot; EINVAL for a range that is empty, misaligned or not in
   *   user memory, or past KVM_CAP_NR_MEMSLOTS
   * @see KVM_SET_USER_MEMORY_REGION
   */
  add(gpa: Gpa, hva: Hva, bytes: bigint, options: MemorySlotOptions = {}): MemorySlot {
    let slot = 0;
    while (this.#used.has(slot)) slot++;
    const isReadonly = options.isReadonly ?? false;
    const flags = (isLogged: boolean): number =>
      (isReadonly ? KVM_MEM_READONLY : 0) | (isLogged ? KVM_MEM_LOG_DIRTY_PAGES : 0);
    const vm = this.#vm;
    const set = (length: bigint, isLogged: boolean): void =>
      vm.setUserMemoryRegion({ slot, flags: flags(isLogged), gpa, bytes: length, hva });
    set(bytes, options.isLogged ?? false);
    this.#used.add(slot);
    this.#publish('slot added', slot, gpa, hva, bytes);

    let isLive = true;
    const removal = disposable(() => {
      isLive = false;
      if (vm.fd.isOpen) set(0n, false);
      this.#used.delete(slot);
      this.#publish('slot removed', slot, gpa, hva, bytes);
    });
    return {
      slot,
      gpa,
      hva,
      bytes,
      isReadonly,
      setLogged: (isLogged) => {
        if (!isLive) throw new RangeError(`slot ${slot} was removed`);
        set(bytes, isLogged);
      },
      getDirtyLog: () => vm.getDirtyLog(slot, bytes),
      clearDirtyLog: (firstPage, pages, bitmap) => vm.clearDirtyLog(slot, firstPage, pages, bitmap),
      [Symbol.dispose]: () => removal[Symbol.dispose](),
    };
  }

  #publish(what: MemoryEvent['what'], slot: number, gpa: Gpa, hva: Hva, bytes: bigint): void {
    if (trace.memory.hasSubscribers)
      trace.memory.publish({ what, name: `slot ${slot}`, gpa, hva, bytes, range: formatRange(gpa, bytes) });
  }
}
