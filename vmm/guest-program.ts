import type { CpuidEntry2 } from '../kvm/uapi.js';
import type { Vcpu } from '../kvm/vcpu.js';
import type { MemoryMap } from './assign/memory-map.js';

/** What processor and KVM can do for guests here. */
export interface HostCpu {
  /** KVM_GET_SUPPORTED_CPUID */
  readonly supported: readonly CpuidEntry2[];
  /** KVM_CAP_TSC_DEADLINE_TIMER, which the above does not tell. */
  readonly hasTscDeadline: boolean;
}

/** What a machine runs. It has been read and checked; nothing else is open. */
export interface GuestProgram {
  /** Whether the guest learns by ACPI that a device is wanted back. */
  readonly hasAcpi: boolean;
  /** Makes a processor what the guest expects. Before its first run. */
  setUpVcpu(vcpu: Vcpu, id: number, host: HostCpu): void;
  /** Fills the guest's memory, and sets the boot processor to the guest's entry. @throws GuestImageError if it does not fit */
  load(memory: MemoryMap, boot: Vcpu): void;
}
