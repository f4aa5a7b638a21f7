import type { CpuidEntry2 } from './uapi.js';

const LEAF_FEATURES = 0x1;
const LEAF_TOPOLOGY = 0xb;
const LEAF_TOPOLOGY_V2 = 0x1f;
/** Leaf 1, ecx: running under a hypervisor. */
const FEATURE_HYPERVISOR = 2 ** 31;

/** The CPUID entries of one vCPU: everything KVM supports, with the vCPU's own APIC id where it appears. */
export function cpuidFor(apicId: number, supported: readonly CpuidEntry2[]): CpuidEntry2[] {
  return supported.map((entry) => {
    switch (entry.function) {
      case LEAF_FEATURES:
        return {
          ...entry,
          ebx: ((entry.ebx & 0x00ff_ffff) | (apicId << 24)) >>> 0,
          ecx: (entry.ecx | FEATURE_HYPERVISOR) >>> 0,
        };
      case LEAF_TOPOLOGY:
      case LEAF_TOPOLOGY_V2:
        return { ...entry, edx: apicId };
      default:
        return entry;
    }
  });
}
