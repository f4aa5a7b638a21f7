import type { KvmGuest } from '../sys/kvm-guest.js';

/**
 * A counted reference to a VM: all that a VFIO file knows of the VM it is associated with. A holder takes a reference
 * with {@link getUnlessDying} before it uses the VM, and drops it with {@link put}.
 */
export interface KvmReference {
  /** Takes a reference; false if the VM is destroyed, and then there is none to put. @see kvm_get_kvm_safe */
  getUnlessDying(): boolean;
  /**
   * Drops a reference. The last one closes the VM's descriptor and runs no callback, so any lock may be held.
   */
  put(): void;
  /** Whether {@link getUnlessDying} would succeed now. */
  readonly isAlive: boolean;
  /** The VM's memory, for holders of a reference; absent unless its owner offers it. @see Vm.offerGuest */
  readonly guest?: KvmGuest | undefined;
}

/** Counts references, starting with the owner's; runs `destroy` once, when the count reaches 0. */
export class CountedReference implements KvmReference {
  guest: KvmGuest | undefined;
  #count = 1;
  readonly #destroy: () => void;

  constructor(destroy: () => void) {
    this.#destroy = destroy;
  }

  get isAlive(): boolean {
    return this.#count > 0;
  }

  getUnlessDying(): boolean {
    if (this.#count === 0) return false;
    this.#count++;
    return true;
  }

  /** @throws RangeError if no reference is left: a holder put twice */
  put(): void {
    if (this.#count === 0) throw new RangeError('more references put than taken');
    this.#count--;
    if (this.#count === 0) this.#destroy();
  }
}
