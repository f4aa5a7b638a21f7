/**
 * A VM as others may hold it: all that a VFIO file knows of the VM it belongs to. A holder takes its own reference
 * with {@link getUnlessDying} before it uses the VM, and puts it when done.
 */
export interface KvmReference {
  /** Takes a reference; false if the VM is gone, and then there is none to put. */
  getUnlessDying(): boolean;
  /**
   * Gives one back. The last one closes the VM's descriptor and does nothing else: no callback runs, so it may be
   * called under any lock.
   */
  put(): void;
  /** Whether a reference could be had now. */
  readonly isAlive: boolean;
}

/** Counts references from 1, the owner's; at 0 it runs `destroy`, once. */
export class CountedReference implements KvmReference {
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

  /** @throws RangeError if there is no reference left to put: a holder put twice */
  put(): void {
    if (this.#count === 0) throw new RangeError('more references put than taken');
    this.#count--;
    if (this.#count === 0) this.#destroy();
  }
}
