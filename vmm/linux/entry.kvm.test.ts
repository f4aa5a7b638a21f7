import { expect, test } from 'vitest';
import type { VcpuExit } from '../../kvm/exits.js';
import { MemorySlots } from '../../kvm/memory-slots.js';
import { Kvm } from '../../kvm/system.js';
import type { Vcpu } from '../../kvm/vcpu.js';
import { Scope } from '../../sys/scope.js';
import { pcMemory } from '../assign/testing.js';
import { linuxCpuid } from './cpuid.js';
import { parseKernel } from './kernel.js';
import { firmwareMsrs, MSR_MTRRdefType, MSR_MTRRphysBase0, physicalBits } from './msrs.js';
import { prepareLinux } from './prepare.js';
import { MIB, makeBzImage, makePvh } from './testing.js';
import { setUpLinuxVcpu } from './vcpu.js';

const PORT = 0x510;
// mov dx, PORT
const TO_PORT = [0x66, 0xba, 0x10, 0x05];

/** Enters `file` as a kernel. Returns the words that it writes to PORT until it halts. */
function wordsOf(file: Uint8Array): number[] {
  using scope = new Scope();
  const kvm = scope.own(Kvm.open());
  const vm = scope.own(kvm.createVm());
  const memory = pcMemory(scope, BigInt(64 * MIB), new MemorySlots(vm));
  const vcpu = scope.own(vm.createVcpu(0));
  const { entry } = prepareLinux({ kernel: parseKernel('test', file), cmdline: '', memory, vcpus: 1 });
  vcpu.setSregs({ ...vcpu.getSregs(), ...entry.sregs });
  vcpu.setRegs(entry.regs);
  const words: number[] = [];
  for (;;) {
    const exit = vcpu.run();
    if (exit.kind === 'hlt') return words;
    words.push(wordOf(exit, vcpu));
  }
}

function wordOf(exit: VcpuExit, vcpu: Vcpu): number {
  if (exit.kind !== 'io' || exit.port !== PORT)
    throw new Error(`${exit.kind} at 0x${vcpu.getRegs().rip.toString(16)}`);
  return exit.data.reduceRight((word, byte) => word * 256 + byte, 0);
}

test('a bzImage’s 64-bit entry finds boot_params in RSI, and its selectors in the GDT', () => {
  const code = [
    ...[0x8b, 0x86, 0x02, 0x02, 0x00, 0x00], // mov eax, [rsi + 0x202]
    ...[...TO_PORT, 0xef], // out dx, eax
    ...[0x66, 0xb8, 0x18, 0x00, 0x8e, 0xd8, 0x8e, 0xd0], // mov ax, 0x18; mov ds, ax; mov ss, ax
    ...[0x66, 0x8c, 0xc8, 0x66, 0xef], // mov ax, cs; out dx, ax
    0xf4,
  ];
  expect(wordsOf(makeBzImage(Uint8Array.from(code)))).toEqual([0x53726448, 0x10]);
});

test('a PVH entry is in 32-bit mode without paging, and finds hvm_start_info in EBX', () => {
  const code = [
    ...[0x8b, 0x03, ...TO_PORT, 0xef], // mov eax, [ebx]; out dx, eax
    ...[0x0f, 0x20, 0xc0, 0xef], // mov eax, cr0; out dx, eax
    0x48, // dec eax in 32-bit mode, a prefix in 64-bit mode
    ...[0xb8, 0x78, 0x56, 0x34, 0x12, 0xef], // mov eax, 0x12345678; out dx, eax
    0xf4,
  ];
  const [magic, cr0, word] = wordsOf(makePvh(Uint8Array.from(code)));
  expect(magic).toBe(0x336ec578);
  expect((cr0 as number) & ~0x20).toBe(0x11); // some processors force CR0.NE to 1
  expect(word).toBe(0x12345678);
});

test('KVM accepts the CPUID, MSRs and local APIC that firmware would set', () => {
  using scope = new Scope();
  const kvm = scope.own(Kvm.open());
  const supported = kvm.getSupportedCpuid();
  const vm = scope.own(kvm.createVm());
  vm.createIrqchip();
  const options = { vcpus: 2, supported, hasTscDeadline: true };
  for (const apicId of [0, 1]) {
    const vcpu = scope.own(vm.createVcpu(apicId));
    setUpLinuxVcpu(vcpu, { ...options, apicId });
    const wanted = firmwareMsrs(physicalBits(supported));
    const kept = vcpu.getMsrs([MSR_MTRRdefType, MSR_MTRRphysBase0, MSR_MTRRphysBase0 + 1]);
    for (const { index, data } of kept) expect(data).toBe(wanted.find((msr) => msr.index === index)?.data);
    const lapic = new DataView(vcpu.getLapic().buffer);
    expect([lapic.getUint32(0x350, true), lapic.getUint32(0x360, true)]).toEqual([
      apicId === 0 ? 0x700 : 0x10700,
      0x400,
    ]);
    const ids = vcpu.getCpuid2().filter((entry) => entry.function === 0xb);
    expect(ids.map(({ edx }) => edx)).toEqual([apicId, apicId, apicId]);
  }
  expect(linuxCpuid({ ...options, apicId: 0, tscKhz: 1 }).length).toBeLessThan(256);
});
