import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { CpuidEntry2 } from '../../kvm/uapi.js';
import { linuxCpuid } from './cpuid.js';

type Part = Partial<CpuidEntry2> & { readonly function: number };
const entry = (part: Part): CpuidEntry2 => ({
  index: 0,
  flags: 0,
  eax: 0,
  ebx: 0,
  ecx: 0,
  edx: 0,
  padding: [0, 0, 0],
  ...part,
});

const ALL_ONES = { eax: 0xffff_ffff, ebx: 0xffff_ffff, ecx: 0xffff_ffff, edx: 0xffff_ffff };
const intel = { function: 0, ebx: 0x756e_6547, edx: 0x4965_6e69, ecx: 0x6c65_746e };
const amd = { function: 0, ebx: 0x6874_7541, edx: 0x6974_6e65, ecx: 0x444d_4163 };

function guest(vcpus: number, apicId: number, supported: readonly Part[], hasTscDeadline = true) {
  const entries = linuxCpuid({
    apicId,
    vcpus,
    supported: supported.map(entry),
    tscKhz: 2_500_000,
    hasTscDeadline,
  });
  const at = (leaf: number, index = 0) => entries.find((e) => e.function === leaf && e.index === index);
  return { entries, at };
}

test('processors are cores of one package, and each has its own id', () => {
  const { at } = guest(6, 5, [
    intel,
    { function: 1, edx: 0 },
    { function: 4, eax: 0x121 },
    { function: 4, index: 1, eax: 0x163 },
  ]);
  expect(at(1)).toMatchObject({ ebx: 0x0508_0000, edx: 1 << 28 });
  expect(at(4)).toMatchObject({ eax: 0x121 | (7 << 26) }); // level 1: not shared
  expect(at(4, 1)).toMatchObject({ eax: (0x163 | (7 << 14) | (7 << 26)) >>> 0 }); // level 3: shared by all
  expect(at(0xb, 0)).toMatchObject({ eax: 0, ebx: 1, ecx: 0x100, edx: 5, flags: 1 });
  expect(at(0xb, 1)).toMatchObject({ eax: 3, ebx: 6, ecx: 0x201, edx: 5 });
  expect(at(0xb, 2)).toMatchObject({ eax: 0, ebx: 0, ecx: 2, edx: 5 });
});

test('one processor alone has no hyper-threading flag', () => {
  const { at } = guest(1, 0, [intel, { function: 1, ...ALL_ONES }]);
  expect((at(1)?.edx ?? 0) & (1 << 28)).toBe(0);
  expect(at(0xb, 1)).toMatchObject({ eax: 0, ebx: 1 });
});

test('AMD’s own leaves report the same topology', () => {
  const leaves = [0x8000_0001, 0x8000_0008, 0x8000_001d, 0x8000_001e].map((leaf) => ({ function: leaf }));
  const { at } = guest(4, 3, [{ ...amd, eax: 0x10 }, ...leaves]);
  expect(at(0x8000_0001)?.ecx).toBe(2);
  expect(at(0x8000_0008)?.ecx).toBe(0x2003);
  expect(at(0x8000_001e)).toMatchObject({ eax: 3, ebx: 3, ecx: 0 });
});

test('features that this machine lacks are hidden, and the hypervisor is reported', () => {
  const leaves = [1, 5, 7, 0x12, 0x1f, 0x8000_0001, 0x8000_000a].map((leaf) => ({
    function: leaf,
    ...ALL_ONES,
  }));
  const { at, entries } = guest(1, 0, [intel, ...leaves]);
  expect((at(1)?.ecx ?? 0) & ((1 << 3) | (1 << 5))).toBe(0); // MONITOR, VMX
  expect(((at(1)?.ecx ?? 0) >>> 31) & 1).toBe(1);
  expect((at(7)?.ebx ?? 0) & 4).toBe(0); // SGX
  expect((at(0x8000_0001)?.ecx ?? 0) & 4).toBe(0); // SVM
  for (const leaf of [5, 0x12, 0x1f, 0x8000_000a]) expect(at(leaf)).toBeUndefined();
  expect(entries.filter((e) => e.function === 0xb)).toHaveLength(3);
});

test('the TSC deadline timer is reported if and only if KVM has it', () => {
  const has = (hasTscDeadline: boolean) =>
    ((guest(1, 0, [{ function: 1 }], hasTscDeadline).at(1)?.ecx ?? 0) >>> 24) & 1;
  expect([has(true), has(false)]).toEqual([1, 0]);
});

test('frequencies are reported in KVM’s leaf, and in Intel’s if the leaves extend that far', () => {
  const hypervisor = { function: 0x4000_0000, eax: 0x4000_0001, ebx: 0x4b4d_564b };
  const near = guest(1, 0, [{ ...amd, eax: 0x10 }, hypervisor]);
  expect(near.at(0x4000_0000)).toMatchObject({ eax: 0x4000_0010, ebx: 0x4b4d_564b });
  expect(near.at(0x4000_0010)).toMatchObject({ eax: 2_500_000, ebx: 1_000_000 });
  expect(near.at(0x15)).toBeUndefined();
  const far = guest(1, 0, [{ ...intel, eax: 0x1f }]).at(0x15);
  expect(far).toMatchObject({ eax: 1_000_000, ebx: 2_500_000, ecx: 1_000_000_000 });
});

test('whatever KVM supports, no leaf appears twice and every register is 32 bits wide', () => {
  const leaf = fc.constantFrom(
    0,
    1,
    4,
    5,
    6,
    7,
    0xb,
    0xd,
    0x15,
    0x1f,
    0x4000_0000,
    0x4000_0001,
    0x8000_0001,
    0x8000_0008,
    0x8000_001d,
    0x8000_001e,
  );
  const word = fc.integer({ min: 0, max: 0xffff_ffff });
  const supported = fc.uniqueArray(
    fc.record({ function: leaf, index: fc.nat(3), eax: word, ebx: word, ecx: word, edx: word }),
    { selector: (part) => `${part.function}.${part.index}`, maxLength: 30 },
  );
  fc.assert(
    fc.property(supported, fc.integer({ min: 1, max: 64 }), fc.nat(63), (parts, vcpus, id) => {
      const { entries } = guest(vcpus, id % vcpus, parts);
      const keys = entries.map((e) => `${e.function}.${e.index}`);
      expect(new Set(keys).size).toBe(keys.length);
      for (const { eax, ebx, ecx, edx } of entries)
        for (const value of [eax, ebx, ecx, edx]) expect(value >>> 0).toBe(value);
    }),
  );
});
