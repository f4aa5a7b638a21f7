/**
 * A virtual machine as VFIO knows it: an opaque pointer with "get unless dying" references (kvm_get_kvm_safe).
 * `KvmReference` of tsvisor/kvm implements it.
 */
export interface KvmPointer {
  /** Takes a reference; false if the VM is being destroyed. */
  getUnlessDying(): boolean;
  /** Drops a reference. Dropping the last one destroys the VM, so the caller must hold no lock. */
  put(): void;
}

/**
 * What the kvm-vfio device asks of VFIO about its files: in Linux, functions it finds by symbol_get. kvm/ declares the
 * same shape as its port, and nothing else of VFIO is known there.
 */
export interface VfioFileOps {
  /** Whether this is an open group or device file of the provider. @see vfio_file_is_valid */
  isValid(file: object): boolean;
  /** The VM that the file belongs to from now on; null for none. A file that is closed, or another provider's, is passed over. */
  setKvm(file: object, kvm: KvmPointer | null): void;
  /** Whether all DMA of the file's devices snoops the caches. @see vfio_file_enforced_coherent */
  enforcedCoherent(file: object): boolean;
}
