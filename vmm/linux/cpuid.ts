/** CPUID for a Linux guest: KVM's supported leaves, with this machine's topology and frequencies. */

import { cpuidFor } from '../../kvm/guest-cpuid.js';
import { type CpuidEntry2, KVM_CPUID_FLAG_SIGNIFCANT_INDEX } from '../../kvm/uapi.js';

const LEAF_VENDOR = 0x0;
const LEAF_FEATURES = 0x1;
const LEAF_CACHES = 0x4;
const LEAF_MWAIT = 0x5;
const LEAF_EXTENDED_FEATURES = 0x7;
const LEAF_TOPOLOGY = 0xb;
const LEAF_SGX = 0x12;
const LEAF_TSC = 0x15;
const LEAF_TOPOLOGY_V2 = 0x1f;
const LEAF_HYPERVISOR = 0x4000_0000;
const LEAF_HYPERVISOR_TIMING = 0x4000_0010;
const LEAF_AMD_FEATURES = 0x8000_0001;
const LEAF_ADDRESS_SIZES = 0x8000_0008;
const LEAF_SVM = 0x8000_000a;
const LEAF_AMD_CACHES = 0x8000_001d;
const LEAF_AMD_TOPOLOGY = 0x8000_001e;
const LEAF_AMD_TOPOLOGY_V2 = 0x8000_0026;

// Leaf 1.
const EDX_HTT = 1 << 28;
const ECX_MONITOR = 1 << 3;
const ECX_VMX = 1 << 5;
const ECX_TSC_DEADLINE = 1 << 24;
// Leaf 7.
const EBX_SGX = 1 << 2;
const ECX_SGX_LC = 1 << 30;
// Leaf 0x8000_0001.
const ECX_CMP_LEGACY = 1 << 1;
const ECX_SVM = 1 << 2;

/** Level types in leaf 0xB. */
const LEVEL_SMT = 1;
const LEVEL_CORE = 2;
/** Level of the cache shared by all cores, in leaves 4 and 0x8000_001D. */
const SHARED_CACHE_LEVEL = 3;

/** Frequency of the local APIC timer in KVM. */
const APIC_BUS_KHZ = 1_000_000;
const KHZ = 1000;

/** Leaves that are replaced below, or belong to features that this machine does not have. */
const DROPPED: ReadonlySet<number> = new Set([
  LEAF_MWAIT,
  LEAF_TOPOLOGY,
  LEAF_SGX,
  LEAF_TSC,
  LEAF_TOPOLOGY_V2,
  LEAF_HYPERVISOR_TIMING,
  LEAF_SVM,
  LEAF_AMD_TOPOLOGY_V2,
]);

export interface CpuidOptions {
  readonly apicId: number;
  /** Number of vCPUs: cores of one package, with APIC ids from 0. */
  readonly vcpus: number;
  /** KVM_GET_SUPPORTED_CPUID */
  readonly supported: readonly CpuidEntry2[];
  /** KVM_GET_TSC_KHZ */
  readonly tscKhz: number;
  /** KVM_CAP_TSC_DEADLINE_TIMER; KVM does not report it in the supported leaves. */
  readonly hasTscDeadline: boolean;
}

/** Changed registers of an entry. */
type Registers = Partial<Pick<CpuidEntry2, 'eax' | 'ebx' | 'ecx' | 'edx'>>;

/** Builds the entries for KVM_SET_CPUID2. */
export function linuxCpuid(options: CpuidOptions): CpuidEntry2[] {
  const { apicId, supported } = options;
  const vendor = supported.find((entry) => entry.function === LEAF_VENDOR);
  const passed = cpuidFor(apicId, supported).filter((entry) => !DROPPED.has(entry.function));
  return [
    ...passed.map((entry) => ({ ...entry, ...unsigned(change(entry, options, isAmd(vendor))) })),
    ...topology(options),
    ...frequencies(options, vendor?.eax ?? 0),
  ];
}

/** `Auth`enticAMD, or `Hygo`nGenuine, which is compatible. */
const isAmd = (vendor: CpuidEntry2 | undefined): boolean =>
  vendor?.ebx === 0x6874_7541 || vendor?.ebx === 0x6f67_7948;

function unsigned(registers: Registers): Registers {
  return Object.fromEntries(Object.entries(registers).map(([name, value]) => [name, value >>> 0]));
}

const withBit = (value: number, bit: number, isSet: boolean): number => (isSet ? value | bit : value & ~bit);
/** Number of APIC id bits that distinguish cores. */
const coreBits = (vcpus: number): number => Math.ceil(Math.log2(vcpus));

function change(entry: CpuidEntry2, options: CpuidOptions, isAmdHost: boolean): Registers {
  const { apicId, vcpus, hasTscDeadline } = options;
  const { eax, ebx, ecx, edx } = entry;
  const ids = 2 ** coreBits(vcpus);
  switch (entry.function) {
    case LEAF_FEATURES:
      return {
        ebx: (ebx & ~0x00ff_0000) | (Math.min(ids, 0xff) << 16),
        ecx: withBit(ecx & ~(ECX_MONITOR | ECX_VMX), ECX_TSC_DEADLINE, hasTscDeadline),
        edx: withBit(edx, EDX_HTT, vcpus > 1),
      };
    case LEAF_CACHES:
    case LEAF_AMD_CACHES: {
      const [type, level] = [eax & 0x1f, (eax >>> 5) & 7];
      if (type === 0) return {};
      const sharing = level >= SHARED_CACHE_LEVEL ? ids - 1 : 0;
      const cores = entry.function === LEAF_CACHES ? Math.min(ids - 1, 0x3f) : 0;
      return { eax: (eax & 0x3fff) | (sharing << 14) | (cores << 26) };
    }
    case LEAF_EXTENDED_FEATURES:
      return entry.index === 0 ? { ebx: ebx & ~EBX_SGX, ecx: ecx & ~ECX_SGX_LC } : {};
    case LEAF_HYPERVISOR:
      return { eax: Math.max(eax, LEAF_HYPERVISOR_TIMING) };
    case LEAF_AMD_FEATURES:
      return { ecx: withBit(ecx & ~ECX_SVM, ECX_CMP_LEGACY, isAmdHost && vcpus > 1) };
    case LEAF_ADDRESS_SIZES:
      return isAmdHost ? { ecx: (coreBits(vcpus) << 12) | (vcpus - 1) } : {};
    case LEAF_AMD_TOPOLOGY:
      return isAmdHost ? { eax: apicId, ebx: apicId & 0xff, ecx: 0 } : {};
    default:
      return {};
  }
}

const leaf = (leafFunction: number, registers: Registers, index?: number): CpuidEntry2 => ({
  function: leafFunction,
  index: index ?? 0,
  flags: index === undefined ? 0 : KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
  eax: 0,
  ebx: 0,
  ecx: 0,
  edx: 0,
  ...registers,
  padding: [0, 0, 0],
});

/** Leaf 0xB: one thread per core, all cores in one package. A level of type 0 ends the list. */
function topology({ apicId, vcpus }: CpuidOptions): CpuidEntry2[] {
  const level = (index: number, kind: number, shift: number, count: number) =>
    leaf(LEAF_TOPOLOGY, { eax: shift, ebx: count, ecx: (kind << 8) | index, edx: apicId }, index);
  return [level(0, LEVEL_SMT, 0, 1), level(1, LEVEL_CORE, coreBits(vcpus), vcpus), level(2, 0, 0, 0)];
}

/**
 * Frequencies of TSC and APIC timer, so that guests need not calibrate them. Leaf 0x15 is a ratio to the APIC's clock,
 * and is present only if the processor's leaves extend that far.
 */
function frequencies({ tscKhz }: CpuidOptions, highestLeaf: number): CpuidEntry2[] {
  const timing = leaf(LEAF_HYPERVISOR_TIMING, { eax: tscKhz, ebx: APIC_BUS_KHZ });
  const tsc = leaf(LEAF_TSC, { eax: APIC_BUS_KHZ, ebx: tscKhz, ecx: APIC_BUS_KHZ * KHZ });
  return highestLeaf >= LEAF_TSC ? [tsc, timing] : [timing];
}
