import type { CpuidEntry2 } from '../kvm/uapi.js';
import type { Vcpu } from '../kvm/vcpu.js';
import type { MemoryMap } from './assign/memory-map.js';

/** What the processor and KVM support for guests. */
export interface HostCpu {
  /** KVM_GET_SUPPORTED_CPUID */
  readonly supported: readonly CpuidEntry2[];
  /** KVM_CAP_TSC_DEADLINE_TIMER, which `supported` does not include. */
  readonly hasTscDeadline: boolean;
}

/** The program that a machine runs, read and validated; nothing stays open. */
export interface GuestProgram {
  /** Whether the guest gets unplug requests through ACPI. */
  readonly hasAcpi: boolean;
  /** Whether it expects firmware to have assigned the BARs. */
  readonly expectsBars: boolean;
  /** Sets a vCPU to the state that the guest expects. Before its first run. */
  setUpVcpu(vcpu: Vcpu, id: number, host: HostCpu): void;
  /**
   * Fills guest memory, and sets the boot processor to the guest's entry. @throws GuestImageError if it does not fit
   */
  load(memory: MemoryMap, boot: Vcpu): void;
  /** Gives a guest that is restored a new identity in its memory; absent if it has no place for that. Its event is the platform's. */
  renewGeneration?(memory: MemoryMap): void;
}
