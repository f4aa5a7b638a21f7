import { expect, test } from 'vitest';
import { Mapping } from '../sys/mapping.js';
import { Assembler, CODE, DATA, HOLE, TestGuest } from './testing.js';
import * as uapi from './uapi-vcpu.js';
import { Vcpu } from './vcpu.js';

const MSR_LSTAR = 0xc000_0082;
const MSR_STAR = 0xc000_0081;
/** An MSR that does not exist. */
const MSR_NONE = 0x4000_1234;

test('general registers read back as set', () => {
  using guest = TestGuest.create();
  const names = Object.keys(uapi.Regs.fields) as (keyof uapi.Regs)[];
  const regs = Object.fromEntries(names.map((name, i) => [name, 0x1111_0000_0000n + BigInt(i)])) as uapi.Regs;
  const set = { ...regs, rip: BigInt(CODE), rflags: 0x246n };
  guest.vcpu.setRegs(set);
  expect(guest.vcpu.getRegs()).toEqual(set);
});

test('system registers read back as set, and impossible combinations are rejected', () => {
  using guest = TestGuest.create();
  const sregs = guest.vcpu.getSregs();
  expect(sregs).toMatchObject({ cr3: 0x1000n, cs: { selector: 8, l: 1 }, idt: { base: 0x8000n } });
  const set = { ...sregs, cr2: 0xabc0n, fs: { ...sregs.fs, base: 0x7777_0000n } };
  guest.vcpu.setSregs(set);
  expect(guest.vcpu.getSregs()).toEqual(set);
  const PG_WITHOUT_PE = (1n << 31n) | (1n << 4n);
  expect(() => guest.vcpu.setSregs({ ...set, cr0: PG_WITHOUT_PE })).toThrowError(
    /KVM_SET_SREGS on vcpu 0: EINVAL/,
  );
});

test('KVM_GET_SREGS2 agrees with KVM_GET_SREGS', () => {
  using guest = TestGuest.create();
  const sregs2 = guest.vcpu.getSregs2();
  expect(sregs2).toMatchObject({ cr3: 0x1000n, efer: guest.vcpu.getSregs().efer });
  guest.vcpu.setSregs2({ ...sregs2, gs: { ...sregs2.gs, base: 0x1234n } });
  expect(guest.vcpu.getSregs().gs.base).toBe(0x1234n);
});

test('MSRs are set in order up to the first one rejected, which the error names', () => {
  using guest = TestGuest.create();
  guest.vcpu.setMsrs([
    { index: MSR_LSTAR, data: 0x1234_5000n },
    { index: MSR_STAR, data: 0x23_0008_0000_0000n },
  ]);
  expect(guest.vcpu.getMsrs([MSR_STAR, MSR_LSTAR]).map(({ data }) => data)).toEqual([
    0x23_0008_0000_0000n,
    0x1234_5000n,
  ]);
  expect(() => guest.vcpu.getMsrs([MSR_STAR, MSR_NONE, MSR_LSTAR])).toThrowError(
    /^KVM_GET_MSRS on vcpu 0, MSR 0x40001234: EINVAL/,
  );
  const mixed = [
    { index: MSR_LSTAR, data: 0x9000n },
    { index: MSR_NONE, data: 1n },
    { index: MSR_STAR, data: 0n },
  ];
  expect(() => guest.vcpu.setMsrs(mixed)).toThrowError(/^KVM_SET_MSRS on vcpu 0, MSR 0x40001234: EINVAL/);
  expect(guest.vcpu.getMsrs([MSR_STAR, MSR_LSTAR]).map(({ data }) => data)).toEqual([
    0x23_0008_0000_0000n,
    0x9000n,
  ]);
});

test('CPUID reads back as set, apart from what KVM updates itself', () => {
  using guest = TestGuest.create();
  const entries = guest.vcpu.getCpuid2();
  expect(entries.length).toBeGreaterThan(5);
  const supported = guest.kvm.getSupportedCpuid();
  expect(entries.map((entry) => entry.function)).toEqual(supported.map((entry) => entry.function));
  expect(entries[0]).toMatchObject({ function: 0, ebx: supported[0]?.ebx });
  const tooMany = Array.from({ length: 257 }, () => entries[0] as (typeof entries)[0]);
  expect(() => guest.vcpu.setCpuid2(tooMany)).toThrowError(/KVM_SET_CPUID2 on vcpu 0: E2BIG/);
});

test('the FPU reads back as set', () => {
  using guest = TestGuest.create();
  const fpu = guest.vcpu.getFpu();
  const xmm = Uint8Array.from({ length: 256 }, (_, i) => i);
  guest.vcpu.setFpu({ ...fpu, xmm, fcw: 0x37f });
  expect(guest.vcpu.getFpu()).toMatchObject({ xmm, fcw: 0x37f });
});

test('the XSAVE area reads back as set, and a short one is rejected', () => {
  using guest = TestGuest.create();
  const area = guest.vcpu.getXsave();
  expect(area.length).toBe(Math.max(4096, guest.vm.checkExtension('KVM_CAP_XSAVE2')));
  const XMM0 = 160;
  const XSTATE_BV = 512;
  area.fill(0x5a, XMM0, XMM0 + 16);
  area[XSTATE_BV] = (area[XSTATE_BV] as number) | 2;
  guest.vcpu.setXsave(area);
  expect(guest.vcpu.getXsave().subarray(XMM0, XMM0 + 16)).toEqual(new Uint8Array(16).fill(0x5a));
  expect(() => guest.vcpu.setXsave(area.subarray(1))).toThrowError(RangeError);
});

test('an XSAVE area has the length that KVM reports for the VM', () => {
  using guest = TestGuest.create();
  using vcpuFd = guest.vcpu.fd.duplicate();
  const { bytes } = guest.vcpu.handle;
  using mapping = Mapping.file(vcpuFd, bytes);
  // More than there is: KVM fills what it has, and the rest stays 0.
  const vcpu = Vcpu.adopt({ fd: vcpuFd, mapping, xsaveBytes: 4096 + 64 });
  const area = vcpu.getXsave();
  expect(area).toHaveLength(4096 + 64);
  expect(area.subarray(0, 4096)).toEqual(guest.vcpu.getXsave().subarray(0, 4096));
});

test('XCR0 reads back as set, and is rejected without x87', () => {
  using guest = TestGuest.create();
  guest.vcpu.setXcrs(new Map([[0, 3n]]));
  expect(guest.vcpu.getXcrs().get(0)).toBe(3n);
  expect(() => guest.vcpu.setXcrs(new Map([[0, 2n]]))).toThrowError(/KVM_SET_XCRS on vcpu 0: EINVAL/);
});

test('debug registers read back as set', () => {
  using guest = TestGuest.create();
  const registers = { ...guest.vcpu.getDebugRegs(), db: [0x1000n, 0x2000n, 0x3000n, 0x4000n] };
  guest.vcpu.setDebugRegs(registers);
  expect(guest.vcpu.getDebugRegs()).toEqual(registers);
});

test('the local APIC reads back as set', () => {
  using guest = TestGuest.create({ irqchip: 'split' });
  guest.enableApic();
  const word = (at: number) => new Uint32Array(guest.vcpu.getLapic().buffer)[at / 4];
  expect(word(0xf0)).toBe(0x1ff);
});

test('without in-kernel local APICs, reading one fails', () => {
  using guest = TestGuest.create();
  expect(() => guest.vcpu.getLapic()).toThrowError(/KVM_GET_LAPIC on vcpu 0: EINVAL\n {2}hint/);
});

test('the MP state halts a vCPU and wakes it', () => {
  using guest = TestGuest.create({ irqchip: 'full' });
  expect(guest.vcpu.getMpState()).toBe(uapi.KVM_MP_STATE_RUNNABLE);
  guest.vcpu.setMpState(uapi.KVM_MP_STATE_HALTED);
  expect(guest.vcpu.getMpState()).toBe(uapi.KVM_MP_STATE_HALTED);
  guest.vcpu.setMpState(uapi.KVM_MP_STATE_RUNNABLE);
  guest.load(new Assembler().out(0x500));
  expect(guest.run().kind).toBe('io');
  using second = guest.vm.createVcpu(1);
  expect(second.getMpState()).toBe(uapi.KVM_MP_STATE_UNINITIALIZED);
});

test('a pending exception set in the events is delivered first', () => {
  using guest = TestGuest.create();
  const code = new Assembler().hlt().label('gp').mov('rax', 0x99).out(0x500);
  guest.load(code).setVector(13, code.address('gp'));
  const events = guest.vcpu.getVcpuEvents();
  expect(events.exception.injected).toBe(0);
  const exception = { injected: 1, nr: 13, has_error_code: 1, pending: 0, error_code: 0 };
  guest.vcpu.setVcpuEvents({ ...events, exception });
  expect(guest.vcpu.getVcpuEvents().exception).toMatchObject({ injected: 1, nr: 13 });
  expect(guest.run()).toMatchObject({ kind: 'io', port: 0x500 });
});

test('the TSC frequency can change only if the processor can scale it', () => {
  using guest = TestGuest.create();
  const khz = guest.vcpu.getTscKhz();
  expect(khz).toBeGreaterThan(100_000);
  guest.vcpu.setTscKhz(khz);
  const canScale = guest.vm.checkExtension('KVM_CAP_TSC_CONTROL') !== 0;
  const scale = () => guest.vcpu.setTscKhz(Math.floor(khz / 2));
  if (canScale) expect(scale).not.toThrow();
  else expect(scale).toThrowError(/KVM_SET_TSC_KHZ on vcpu 0: EINVAL\n {2}hint/);
});

test('a signal mask can be set and removed', () => {
  using guest = TestGuest.create();
  guest.vcpu.setSignalMask(0xffff_fff8_ffff_fffen);
  guest.load(new Assembler().hlt());
  expect(guest.run().kind).toBe('hlt');
  guest.vcpu.setSignalMask(undefined);
});

test('translate walks the guest’s own page tables', () => {
  using guest = TestGuest.create();
  expect(guest.vcpu.translate(BigInt(DATA + 5))).toMatchObject({
    valid: 1,
    physical_address: BigInt(DATA + 5),
  });
  expect(guest.vcpu.translate(BigInt(HOLE))).toMatchObject({ valid: 1, physical_address: BigInt(HOLE) });
  expect(guest.vcpu.translate(1n << 40n).valid).toBe(0);
});

test('KVM_KVMCLOCK_CTRL fails in a guest without kvmclock', () => {
  using guest = TestGuest.create();
  expect(() => guest.vcpu.kvmclockCtrl()).toThrowError(/KVM_KVMCLOCK_CTRL on vcpu 0: EINVAL\n {2}hint/);
});

test('KVM_INTERRUPT is rejected with an in-kernel irqchip', () => {
  using guest = TestGuest.create({ irqchip: 'full' });
  expect(() => guest.vcpu.interrupt(0x40)).toThrowError(/KVM_INTERRUPT on vcpu 0: ENXIO\n {2}hint/);
});
