/** What a vCPU's guest reads by CPUID, as a section: a processor that offers something else cannot go on with that guest. */
import { errno } from '../sys/errno.js';
import { SysError } from '../sys/error.js';
import type { SectionReader, StateSection } from '../sys/state-sections.js';
import { decodeCpuid, encodeCpuid } from './cpuid.js';
import { Cpuid2, CpuidEntry2 } from './uapi.js';
import type { Vcpu } from './vcpu.js';

const VERSION = 1;
/** KVM_MAX_CPUID_ENTRIES */
const MOST_ENTRIES = 256;
/** Frequencies, which a host measures anew each time that it boots: those of the guest go on. */
const FREQUENCIES = [0x15, 0x16, 0x4000_0010];

/** @param prefix of the section's name: `vcpu 0` @throws SysError as KVM_GET_CPUID2 */
export const saveCpuid = (vcpu: Pick<Vcpu, 'getCpuid2'>, prefix: string): StateSection => ({
  name: `${prefix}/cpuid`,
  version: VERSION,
  data: encodeCpuid(vcpu.getCpuid2()),
});

/**
 * Loads what {@link saveCpuid} has saved into a vCPU that has its CPUID already, and every other state: bits follow from its
 * registers.
 * @throws SysError ENOTSUP if they differ, with the leaf; as SectionReader.take, KVM_GET_CPUID2 and KVM_SET_CPUID2
 */
export function loadCpuid(
  vcpu: Pick<Vcpu, 'fd' | 'getCpuid2' | 'setCpuid2'>,
  prefix: string,
  state: SectionReader,
): void {
  state.load(`${prefix}/cpuid`, VERSION, undefined, (data) => {
    const saved = byLeaf(decode(data));
    const now = byLeaf(vcpu.getCpuid2());
    for (const leaf of new Set([...saved.keys(), ...now.keys()])) {
      const [was, is] = [saved.get(leaf), now.get(leaf)].map((entry) => entry && registersOf(entry));
      if (was === is || FREQUENCIES.includes(saved.get(leaf)?.function ?? 0)) continue;
      const hint = `the guest has seen another processor: CPUID leaf ${leaf} is ${is ?? 'not there'}, and was ${was ?? 'not there'}`;
      throw new SysError({ call: 'load', target: vcpu.fd.target, errno: errno.ENOTSUP, hint });
    }
    if (!same(saved, now)) vcpu.setCpuid2([...saved.values()]);
  });
}

function decode(data: Uint8Array): CpuidEntry2[] {
  const count = (data.length - Cpuid2.size) / CpuidEntry2.size;
  if (!Number.isInteger(count) || count < 0 || count > MOST_ENTRIES || Cpuid2.decode(data).nent !== count)
    throw new RangeError(`${data.length} bytes of CPUID`);
  return decodeCpuid(data);
}

const byLeaf = (entries: readonly CpuidEntry2[]): ReadonlyMap<string, CpuidEntry2> =>
  new Map(entries.map((entry) => [`0x${entry.function.toString(16)}.${entry.index}`, entry]));

const registersOf = ({ eax, ebx, ecx, edx }: CpuidEntry2): string =>
  [eax, ebx, ecx, edx].map((value) => value.toString(16)).join(' ');

const same = (a: ReadonlyMap<string, CpuidEntry2>, b: ReadonlyMap<string, CpuidEntry2>): boolean =>
  a.size === b.size &&
  [...a].every(([leaf, entry]) => {
    const other = b.get(leaf);
    return other !== undefined && registersOf(other) === registersOf(entry);
  });
