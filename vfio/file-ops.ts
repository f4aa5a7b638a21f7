import type { KvmGuest } from '../sys/kvm-guest.js';

/**
 * A virtual machine as VFIO knows it: an opaque pointer with "get unless dying" references (kvm_get_kvm_safe).
 * `KvmReference` of tsvisor/kvm implements it.
 */
export interface KvmPointer {
  /** Takes a reference; false if the VM is being destroyed. */
  getUnlessDying(): boolean;
  /** Drops a reference. Dropping the last one destroys the VM, so the caller must hold no lock. */
  put(): void;
  /**
   * What a vendor driver can do with the VM's memory. Absent where nobody offers it: a driver whose device is served to
   * another process, or whose VM is no KVM, has to do without.
   */
  readonly guest?: KvmGuest | undefined;
}

/**
 * The functions that kvm-vfio calls on VFIO files; Linux finds them with symbol_get. kvm/ declares the same interface
 * as its port, and depends on nothing else of VFIO.
 */
export interface VfioFileOps {
  /** Whether this is an open group or device file of the provider. @see vfio_file_is_valid */
  isValid(file: object): boolean;
  /** Associates the file with a VM, or with none (null). Ignores closed files and those of other providers. */
  setKvm(file: object, kvm: KvmPointer | null): void;
  /** Whether all DMA of the file's devices snoops the caches. @see vfio_file_enforced_coherent */
  enforcedCoherent(file: object): boolean;
}
