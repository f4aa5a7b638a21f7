import { expect, test } from 'vitest';
import { gpa } from '../sys/address.js';
import { createSharedMemory, Mapping } from '../sys/mapping.js';
import { VcpuRunner } from './runner.js';
import { Assembler, CODE, DATA, HOLE, TestGuest, type Width } from './testing.js';
import { KVM_SYNC_X86_REGS } from './uapi-vcpu.js';

test('out reaches the host with its port, width and value', () => {
  using guest = TestGuest.create();
  const code = new Assembler().mov('rax', 0x11223344);
  guest.load(code.out(0x3f8, 1).out(0x510, 2).out(0xcf8, 4).hlt());
  for (const [port, data] of [
    [0x3f8, [0x44]],
    [0x510, [0x44, 0x33]],
    [0xcf8, [0x44, 0x33, 0x22, 0x11]],
  ] as const) {
    const exit = guest.run();
    expect(exit).toMatchObject({ kind: 'io', isWrite: true, port, size: data.length, count: 1 });
    expect(exit.kind === 'io' && [...exit.data]).toEqual([...data]);
  }
  expect(guest.run().kind).toBe('hlt');
});

test.each([1, 2, 4] as const)('in of %i bytes returns the data that the host filled in', (width) => {
  using guest = TestGuest.create();
  guest.load(new Assembler().in(0x60, width).hlt());
  const exit = guest.run();
  expect(exit).toMatchObject({ kind: 'io', isWrite: false, port: 0x60, size: width });
  if (exit.kind === 'io') exit.data.set([1, 2, 3, 4].slice(0, width));
  expect(guest.run().kind).toBe('hlt');
  expect(guest.vcpu.getRegs().rax).toBe(0x04030201n & ((1n << BigInt(width * 8)) - 1n));
});

test('rep outsb and rep insb transfer every element, in one exit or many', () => {
  using guest = TestGuest.create();
  guest.bytes(DATA, 5).set([1, 2, 3, 4, 5]);
  guest.load(
    new Assembler()
      .mov('rdx', 0xe9)
      .mov('rcx', 5)
      .mov('rsi', DATA)
      .repOutsb()
      .mov('rcx', 16)
      .mov('rdi', DATA + 64)
      .repInsb()
      .hlt(),
  );
  const written: number[] = [];
  let next = 100;
  guest.runUntil((exit) => {
    if (exit.kind !== 'io') return true;
    expect(exit.data.length).toBe(exit.size * exit.count);
    if (exit.isWrite) written.push(...exit.data);
    else for (let i = 0; i < exit.count; i++) exit.data[i] = next++;
    return false;
  });
  expect(written).toEqual([1, 2, 3, 4, 5]);
  expect([...guest.bytes(DATA + 64, 16)]).toEqual(Array.from({ length: 16 }, (_, i) => 100 + i));
});

test.each([1, 2, 4, 8] as const)('MMIO writes and reads of %i bytes reach the host', (width: Width) => {
  using guest = TestGuest.create();
  guest.load(
    new Assembler()
      .poke(HOLE + 8, 0x1122334455667788n, width)
      .peek(HOLE + 16, width)
      .hlt(),
  );
  const write = guest.run();
  expect(write).toMatchObject({ kind: 'mmio', isWrite: true, address: HOLE + 8 });
  const bytes = [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11].slice(0, width);
  expect(write.kind === 'mmio' && [...write.data]).toEqual(bytes);
  const read = guest.run();
  expect(read).toMatchObject({ kind: 'mmio', isWrite: false, address: HOLE + 16 });
  if (read.kind === 'mmio') read.data.set(bytes);
  expect(guest.run().kind).toBe('hlt');
  expect(guest.vcpu.getRegs().rax).toBe(0x1122334455667788n & ((1n << BigInt(width * 8)) - 1n));
});

test('an address above 4 GiB is not truncated', () => {
  using guest = TestGuest.create();
  // The next PDPT entry: linear 4 GiB is mapped to physical 0x12_3400_0000.
  guest.words(0x2000, 8)[4] = 0x7003n;
  guest.words(0x7000, 1)[0] = 0x12_3400_0083n;
  guest.load(new Assembler().poke(2n ** 32n + 0x1230n, 7, 4).hlt());
  expect(guest.run()).toMatchObject({ kind: 'mmio', isWrite: true, address: 0x12_3400_1230 });
});

test('exits of one kind reuse one object, so that running produces no garbage', () => {
  using guest = TestGuest.create();
  guest.load(new Assembler().out(1).out(2).peek(HOLE).peek(HOLE).hlt());
  const first = guest.run();
  const firstData = first.kind === 'io' ? first.data : undefined;
  const second = guest.run();
  expect(second).toBe(first);
  expect(second.kind === 'io' && second.data).toBe(firstData);
  const third = guest.run();
  expect(guest.run()).toBe(third);
});

test('immediate_exit returns before entering the guest, but after completing a pending read', () => {
  using guest = TestGuest.create();
  guest.load(new Assembler().in(0x60).hlt());
  guest.vcpu.page.setImmediateExit(true);
  expect(guest.vcpu.run().kind).toBe('interrupted');
  guest.vcpu.page.setImmediateExit(false);
  const read = guest.vcpu.run();
  expect(read.kind).toBe('io');
  if (read.kind === 'io') read.data[0] = 0x5a;
  expect(guest.vcpu.completeAccess().kind).toBe('interrupted');
  expect(guest.vcpu.getRegs().rax).toBe(0x5an);
  expect(guest.vcpu.run().kind).toBe('hlt');
});

test('sync_regs passes registers through kvm_run, both ways', () => {
  using guest = TestGuest.create();
  guest.load(new Assembler().mov('rcx', 0x77).out(0x500).out(0x500).hlt());
  const { page } = guest.vcpu;
  page.setValidRegs(KVM_SYNC_X86_REGS);
  expect(guest.run().kind).toBe('io');
  const { regs } = page.readSyncRegs();
  expect(regs.rcx).toBe(0x77n);
  page.writeSyncRegs({ regs: { ...regs, rax: 0x42n } });
  const exit = guest.run();
  expect(exit.kind === 'io' && exit.data[0]).toBe(0x42);
});

test('a triple fault is a shutdown', () => {
  using guest = TestGuest.create();
  const sregs = guest.vcpu.getSregs();
  guest.vcpu.setSregs({ ...sregs, idt: { ...sregs.idt, limit: 0 } });
  guest.load(new Assembler().ud2());
  expect(guest.run().kind).toBe('shutdown');
});

test('an exception with a handler causes no exit', () => {
  using guest = TestGuest.create();
  const code = new Assembler().ud2().label('handler').mov('rax', 0x99).hlt();
  guest.load(code).setVector(6, code.address('handler'));
  expect(guest.run().kind).toBe('hlt');
  expect(guest.vcpu.getRegs().rax).toBe(0x99n);
});

test('an instruction that KVM cannot emulate is an internal error with its bytes', ({ skip }) => {
  using guest = TestGuest.create({
    prepare: (vm) => vm.enableCap('KVM_CAP_EXIT_ON_EMULATION_FAILURE', 1n),
  });
  const code = new Assembler().int3().label('handler').hlt();
  guest.load(code).setVector(3, code.address('handler'));
  const exit = guest.run();
  if (exit.kind === 'hlt') skip('this KVM runs int3 at CPL 0: no instruction is known that it cannot');
  expect(exit).toMatchObject({ kind: 'internal-error', suberror: 1 });
  expect(exit.kind === 'internal-error' && exit.instruction[0]).toBe(0xcc);
  expect(guest.vcpu.getRegs().rip).toBe(BigInt(CODE));
});

test('accesses to unknown MSRs exit, and are answered or rejected with #GP', () => {
  using guest = TestGuest.create({
    prepare: (vm) => vm.enableCap('KVM_CAP_X86_USER_SPACE_MSR', 0b11n),
  });
  const MSR = 0x4000_1234;
  const code = new Assembler().mov('rcx', MSR).rdmsr().out(0x500, 4);
  code.mov('rax', 7).mov('rdx', 1).wrmsr().hlt().label('gp').mov('rax', 0xdead).hlt();
  guest.load(code).setVector(13, code.address('gp'));
  expect(guest.run()).toMatchObject({ kind: 'rdmsr', index: MSR, data: 0n });
  guest.vcpu.page.answerMsr(0x1234n);
  const exit = guest.run();
  expect(exit.kind === 'io' && [...exit.data]).toEqual([0x34, 0x12, 0, 0]);
  expect(guest.run()).toMatchObject({ kind: 'wrmsr', index: MSR, data: 0x1_0000_0007n });
  guest.vcpu.page.answerMsr(undefined);
  expect(guest.run().kind).toBe('hlt');
  expect(guest.vcpu.getRegs().rax).toBe(0xdeadn);
});

test('without an irqchip, the host injects interrupts once the guest can take them', () => {
  using guest = TestGuest.create();
  const code = new Assembler().sti().nop().label('loop').out(0x500).jmp('loop');
  code.label('handler').incq(DATA).iretq();
  guest.load(code).setVector(0x40, code.address('handler'));
  const { page } = guest.vcpu;
  page.setRequestInterruptWindow(true);
  guest.runUntil((exit) => exit.kind === 'irq-window');
  expect(page.isReadyForInterrupt).toBe(true);
  expect(page.isInterruptFlagSet).toBe(true);
  page.setRequestInterruptWindow(false);
  guest.vcpu.interrupt(0x40);
  guest.runUntil(() => guest.words(DATA, 1)[0] === 1n);
});

test('an NMI is delivered with interrupts off', () => {
  using guest = TestGuest.create({ irqchip: 'full' });
  const code = new Assembler().label('loop').out(0x500).jmp('loop').label('nmi').incq(DATA).iretq();
  guest.load(code).setVector(2, code.address('nmi'));
  guest.vcpu.nmi();
  guest.runUntil(() => guest.words(DATA, 1)[0] === 1n);
});

test('single steps are debug exits, one per instruction', () => {
  using guest = TestGuest.create();
  guest.load(new Assembler().nop().nop().nop().hlt());
  guest.vcpu.setGuestDebug(0x3); // KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP
  for (const step of [1n, 2n]) {
    const exit = guest.run();
    expect(exit).toMatchObject({ kind: 'debug', exception: 1, pc: BigInt(CODE) + step });
  }
  guest.vcpu.setGuestDebug(0);
  expect(guest.run().kind).toBe('hlt');
});

test('a vCPU runs from its handle alone, as in another thread', () => {
  using guest = TestGuest.create();
  guest.load(new Assembler().out(0x500).hlt());
  const runner = VcpuRunner.of({ ...guest.vcpu.handle });
  expect(runner.run()).toMatchObject({ kind: 'io', port: 0x500 });
  expect(runner.run().kind).toBe('hlt');
});

test('a disposed vCPU refuses to run', () => {
  const guest = TestGuest.create();
  guest[Symbol.dispose]();
  expect(() => guest.vcpu.run()).toThrowError(/vcpu 0: EBADF/);
});

test('a write to memory that the host maps read-only fails the run with EFAULT and a hint', () => {
  using guest = TestGuest.create();
  // At CPL 3, whose code every KVM runs on the processor instead of emulating it.
  guest.load(new Assembler().poke(HOLE, 1).hlt()).enterUserMode();
  using memory = createSharedMemory('read-only', 4096);
  using mapping = Mapping.file(memory.fd, 4096, { isWritable: false });
  using _slot = guest.slots.add(gpa(BigInt(HOLE)), mapping.hva, 4096n);
  expect(() => guest.run()).toThrowError(/KVM_RUN on vcpu 0: EFAULT\n {2}hint: /);
  expect(memory.mapping.view.slice(0, 1)[0]).toBe(0);
});

test('a guest at CPL 3 can access devices', () => {
  using guest = TestGuest.create();
  guest.load(new Assembler().peek(HOLE).poke(HOLE + 4, 0x55)).enterUserMode();
  const read = guest.run();
  expect(read).toMatchObject({ kind: 'mmio', isWrite: false, address: HOLE });
  expect(guest.run()).toMatchObject({ kind: 'mmio', isWrite: true, address: HOLE + 4 });
});
