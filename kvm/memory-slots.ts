import { formatRange, type Gpa, type Hva } from '../sys/address.js';
import { disposable } from '../sys/scope.js';
import { trace } from '../sys/trace.js';
import { KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY } from './uapi.js';
import type { Vm } from './vm.js';

/** How the guest may use a slot. */
export interface MemorySlotOptions {
  /** Guest writes become `mmio` exits. */
  readonly isReadonly?: boolean | undefined;
  /** KVM notes which pages the guest writes. */
  readonly isLogged?: boolean | undefined;
}

/** Host memory that the guest sees at a guest physical address. Disposing takes it away from the guest. */
export interface MemorySlot extends Disposable {
  /** KVM's number of it. */
  readonly slot: number;
  readonly gpa: Gpa;
  readonly hva: Hva;
  readonly bytes: bigint;
  readonly isReadonly: boolean;
  /** Starts or stops noting which pages the guest writes. @throws RangeError after removal */
  setLogged(isLogged: boolean): void;
  /** Pages written since the last call, bit n for page n. @throws SysError ENOENT if writes are not logged */
  getDirtyLog(): Uint8Array;
  /** Starts anew for the pages that `bitmap` names. @see Vm.clearDirtyLog */
  clearDirtyLog(firstPage: bigint, pages: number, bitmap: Uint8Array): void;
}

/** The memory of a VM, with numbers for its slots. */
export class MemorySlots {
  readonly #vm: Vm;
  readonly #used = new Set<number>();

  constructor(vm: Vm) {
    this.#vm = vm;
  }

  /** How many slots there are now. */
  get count(): number {
    return this.#used.size;
  }

  /**
   * Lets the guest see host memory.
   * @param gpa where, page-aligned
   * @param hva page-aligned; stays mapped until the slot is disposed. For huge pages, gpa and hva agree modulo 2 MiB
   * @param bytes whole pages
   * @throws SysError EEXIST if the range overlaps another slot's; EINVAL for a range that is empty, misaligned, or not
   *   in user memory, or for a slot too many
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
    this.#publish('slot added', gpa, bytes);

    let isLive = true;
    const removal = disposable(() => {
      isLive = false;
      if (vm.fd.isOpen) set(0n, false);
      this.#used.delete(slot);
      this.#publish('slot removed', gpa, bytes);
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

  #publish(what: string, gpa: Gpa, bytes: bigint): void {
    if (trace.memory.hasSubscribers)
      trace.memory.publish({ what, gpa, bytes, range: formatRange(gpa, bytes) });
  }
}
