import { expect, test } from 'vitest';
import { SectionReader, type StateSection } from '../sys/state-sections.js';
import { loadCpuid, saveCpuid } from './cpuid-state.js';
import type { CpuidEntry2 } from './uapi.js';

const leaf = (fields: Partial<CpuidEntry2>): CpuidEntry2 => ({
  ...{ function: 1, index: 0, flags: 0, eax: 1, ebx: 2, ecx: 3, edx: 4, padding: [0, 0, 0] },
  ...fields,
});

/** A vCPU that has these leaves. */
function vcpuWith(entries: readonly CpuidEntry2[]) {
  const set: (readonly CpuidEntry2[])[] = [];
  return {
    set,
    fd: { target: 'vcpu 0' } as never,
    getCpuid2: () => [...entries],
    setCpuid2: (given: readonly CpuidEntry2[]) => void set.push(given),
  };
}

const stateOf = (entries: readonly CpuidEntry2[]) => saveCpuid(vcpuWith(entries), 'vcpu 0');
const load = (vcpu: ReturnType<typeof vcpuWith>, section: StateSection) =>
  loadCpuid(vcpu, 'vcpu 0', new SectionReader([section], 'a file'));

test('the same processor is taken, and nothing is set', () => {
  const entries = [leaf({}), leaf({ function: 0xd, index: 1, ebx: 0xffff_ffff })];
  const vcpu = vcpuWith(entries);
  load(vcpu, stateOf(entries));
  expect(vcpu.set).toEqual([]);
});

test('another processor is ENOTSUP with the leaf, whether it has more or less', () => {
  const [few, many] = [[leaf({})], [leaf({}), leaf({ function: 7 })]] as const;
  expect(() => load(vcpuWith([leaf({ ecx: 0x10 })]), stateOf(few))).toThrowError(
    /load on vcpu 0: ENOTSUP\n.*'vcpu 0\/cpuid'.*leaf 0x1\.0 is 1 2 10 4, and was 1 2 3 4/,
  );
  expect(() => load(vcpuWith(many), stateOf(few))).toThrowError(/leaf 0x7\.0 is 1 2 3 4, and was not there/);
  expect(() => load(vcpuWith(few), stateOf(many))).toThrowError(/leaf 0x7\.0 is not there, and was/);
});

test('frequencies that a host has measured anew are those that the guest knows', () => {
  const vcpu = vcpuWith([leaf({}), leaf({ function: 0x15, ecx: 9 })]);
  const saved = [leaf({}), leaf({ function: 0x15, ecx: 8 })];
  load(vcpu, stateOf(saved));
  expect(vcpu.set).toEqual([saved]);
});

test('bytes that are no CPUID are EINVAL', () => {
  const section = stateOf([leaf({})]);
  const damaged = Uint8Array.from(section.data);
  damaged[0] = 2;
  for (const data of [new Uint8Array(3), section.data.subarray(1), damaged, new Uint8Array(8 + 40 * 300)])
    expect(() => load(vcpuWith([leaf({})]), { ...section, data })).toThrowError(/EINVAL.*\n.*bytes of CPUID/);
});
