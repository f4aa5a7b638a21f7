import { expect, test } from 'vitest';
import { cpuidFor } from './guest-cpuid.js';
import type { CpuidEntry2 } from './uapi.js';

const leaf = (fields: Partial<CpuidEntry2>): CpuidEntry2 => ({
  function: 0,
  index: 0,
  flags: 0,
  eax: 0x1111_1111,
  ebx: 0xeeee_eeee,
  ecx: 0,
  edx: 0x4444_4444,
  padding: [0, 0, 0],
  ...fields,
});

test('a vCPU finds its APIC id in leaves 1, 0xb and 0x1f, and the hypervisor bit in leaf 1', () => {
  const leaves = [1, 2, 0xb, 0x1e, 0x1f, 0x20].map((number) =>
    leaf({ function: number, index: 1, flags: 1 }),
  );
  for (const id of [0, 3, 0xfe]) {
    expect(cpuidFor(id, leaves)).toEqual([
      { ...leaves[0], ebx: id * 2 ** 24 + 0xee_eeee, ecx: 0x8000_0000 },
      leaves[1],
      { ...leaves[2], edx: id },
      leaves[3],
      { ...leaves[4], edx: id },
      leaves[5],
    ]);
  }
});

test('features of leaf 1 that KVM reports stay', () => {
  const [features] = cpuidFor(1, [leaf({ function: 1, ecx: 0x8020_0001 })]);
  expect(features?.ecx).toBe(0x8020_0001);
});
