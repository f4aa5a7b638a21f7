import fc from 'fast-check';
import { expect, test } from 'vitest';
import { errno } from '../sys/errno.js';
import { Mapping } from '../sys/mapping.js';
import type { Fields, Layout, StructValue } from '../sys/struct.js';
import { RunPage } from './exits.js';
import * as uapi from './uapi-vcpu.js';

const BYTES = 3 * 4096;
const PIO_DATA = 4096;

/** A kvm_run page that the test fills in KVM's place. */
class FakeRun implements Disposable {
  readonly mapping = Mapping.anonymous(BYTES);
  readonly bytes = this.mapping.view.slice(0, BYTES);
  readonly page = new RunPage(this.mapping.view.address, BYTES);

  readonly put = <F extends Fields>(reason: number, layout: Layout<F>, values: Partial<StructValue<F>>) => {
    this.bytes.fill(0, uapi.Run.offsets.padding, uapi.Run.offsets.padding + 256);
    uapi.Run.write(this.bytes, { exit_reason: reason });
    layout.write(this.bytes, values, uapi.Run.offsets.padding);
    return this.page;
  };

  [Symbol.dispose](): void {
    this.mapping[Symbol.dispose]();
  }
}

test('every exit is decoded from the union’s own member', () => {
  using run = new FakeRun();
  const { put } = run;
  expect(put(uapi.KVM_EXIT_HLT, uapi.RunHw, {}).decode()).toEqual({ kind: 'hlt' });
  expect(put(uapi.KVM_EXIT_SHUTDOWN, uapi.RunHw, {}).decode()).toEqual({ kind: 'shutdown' });
  expect(put(uapi.KVM_EXIT_IRQ_WINDOW_OPEN, uapi.RunHw, {}).decode()).toEqual({ kind: 'irq-window' });
  expect(put(uapi.KVM_EXIT_INTR, uapi.RunHw, {}).decode()).toEqual({ kind: 'interrupted' });
  expect(put(uapi.KVM_EXIT_DIRTY_RING_FULL, uapi.RunHw, {}).decode()).toEqual({ kind: 'dirty-ring-full' });
  expect(put(uapi.KVM_EXIT_IOAPIC_EOI, uapi.RunEoi, { vector: 0x31 }).decode()).toEqual({
    kind: 'ioapic-eoi',
    vector: 0x31,
  });
  const failed = { hardware_entry_failure_reason: 0x8000_0021n, cpu: 3 };
  expect(put(uapi.KVM_EXIT_FAIL_ENTRY, uapi.RunFailEntry, failed).decode()).toEqual({
    kind: 'fail-entry',
    reason: 0x8000_0021n,
    cpu: 3,
  });
  const arch = { exception: 1, pad: 0, pc: 0x1000n, dr6: 1n, dr7: 0x401n };
  expect(put(uapi.KVM_EXIT_DEBUG, uapi.RunDebug, { arch }).decode()).toEqual({
    kind: 'debug',
    exception: 1,
    pc: 0x1000n,
    dr6: 1n,
    dr7: 0x401n,
  });
  const event = { type: uapi.KVM_SYSTEM_EVENT_CRASH, ndata: 1, data: [5n] };
  expect(put(uapi.KVM_EXIT_SYSTEM_EVENT, uapi.RunSystemEvent, event).decode()).toEqual({
    kind: 'system-event',
    type: uapi.KVM_SYSTEM_EVENT_CRASH,
    data: [5n],
  });
  const args = [1n, 2n, 3n, 4n, 5n, 6n];
  expect(put(uapi.KVM_EXIT_HYPERCALL, uapi.RunHypercall, { nr: 12n, args }).decode()).toEqual({
    kind: 'hypercall',
    nr: 12n,
    args,
  });
  expect(put(uapi.KVM_EXIT_UNKNOWN, uapi.RunHw, { hardware_exit_reason: 99n }).decode()).toEqual({
    kind: 'unknown',
    reason: uapi.KVM_EXIT_UNKNOWN,
    hardwareReason: 99n,
  });
  expect(put(37, uapi.RunHw, { hardware_exit_reason: 99n }).decode()).toEqual({
    kind: 'unknown',
    reason: 37,
    hardwareReason: 0n,
  });
});

test('an internal error has the instruction only if KVM reports it', () => {
  using run = new FakeRun();
  const failure = {
    suberror: 1,
    ndata: 4,
    flags: 1n,
    insn_size: 3,
    insn_bytes: Uint8Array.of(0xdd, 0xc0, 1, 9),
  };
  const told = run.put(uapi.KVM_EXIT_INTERNAL_ERROR, uapi.RunEmulationFailure, failure).decode();
  expect(told).toMatchObject({
    kind: 'internal-error',
    suberror: 1,
    instruction: Uint8Array.of(0xdd, 0xc0, 1),
  });
  const least = run
    .put(uapi.KVM_EXIT_INTERNAL_ERROR, uapi.RunEmulationFailure, { ...failure, ndata: 3 })
    .decode();
  expect(least).toMatchObject({ instruction: Uint8Array.of(0xdd, 0xc0, 1) });
  for (const other of [{ flags: 0n }, { flags: 2n }, { ndata: 1 }, { ndata: 2 }, { suberror: 3 }]) {
    const exit = run
      .put(uapi.KVM_EXIT_INTERNAL_ERROR, uapi.RunEmulationFailure, { ...failure, ...other })
      .decode();
    expect(exit).toMatchObject({ kind: 'internal-error', instruction: new Uint8Array(0) });
  }
});

test('any port access shows the bytes where KVM put them', () => {
  using run = new FakeRun();
  fc.assert(
    fc.property(
      fc.constantFrom(1, 2, 4),
      fc.integer({ min: 1, max: 1024 }),
      fc.integer({ min: 0, max: 0xffff }),
      fc.boolean(),
      fc.constantFrom(PIO_DATA, PIO_DATA + 64),
      (size, count, port, isWrite, offset) => {
        const direction = isWrite ? uapi.KVM_EXIT_IO_OUT : uapi.KVM_EXIT_IO_IN;
        const io = { direction, size, port, count, data_offset: BigInt(offset) };
        const exit = run.put(uapi.KVM_EXIT_IO, uapi.RunIo, io).decode();
        expect(exit).toMatchObject({ kind: 'io', size, count, port, isWrite });
        if (exit.kind !== 'io') return;
        expect(exit.data.length).toBe(size * count);
        exit.data[exit.data.length - 1] = size;
        expect(run.bytes[offset + size * count - 1]).toBe(size);
      },
    ),
  );
});

test('any memory access shows its address to the last bit of 52', () => {
  using run = new FakeRun();
  fc.assert(
    fc.property(
      fc.bigInt({ min: 0n, max: (1n << 52n) - 1n }),
      fc.integer({ min: 1, max: 8 }),
      fc.boolean(),
      (phys_addr, len, isWrite) => {
        const mmio = {
          phys_addr,
          len,
          is_write: isWrite ? 1 : 0,
          data: Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8),
        };
        const exit = run.put(uapi.KVM_EXIT_MMIO, uapi.RunMmio, mmio).decode();
        expect(exit).toMatchObject({ kind: 'mmio', address: Number(phys_addr), isWrite });
        expect(exit.kind === 'mmio' && [...exit.data]).toEqual([1, 2, 3, 4, 5, 6, 7, 8].slice(0, len));
      },
    ),
  );
});

test('answers are written where KVM reads them', () => {
  using run = new FakeRun();
  const { page } = run;
  const msr = () => uapi.RunMsr.decode(run.bytes, uapi.Run.offsets.padding);
  run.put(uapi.KVM_EXIT_X86_RDMSR, uapi.RunMsr, { index: 0x10 });
  expect(page.decode()).toEqual({ kind: 'rdmsr', index: 0x10, reason: 0, data: 0n });
  page.answerMsr(0x55n);
  expect(msr()).toMatchObject({ error: 0, data: 0x55n });
  run.put(uapi.KVM_EXIT_X86_WRMSR, uapi.RunMsr, { index: 0x10, data: 9n });
  expect(page.decode()).toEqual({ kind: 'wrmsr', index: 0x10, reason: 0, data: 9n });
  page.answerMsr(undefined);
  expect(msr()).toMatchObject({ error: 1, data: 9n });
  run.put(uapi.KVM_EXIT_HYPERCALL, uapi.RunHypercall, { nr: 1n });
  page.answerHypercall(0xffff_ffff_ffff_fff2n);
  expect(uapi.RunHypercall.decode(run.bytes, uapi.Run.offsets.padding).ret).toBe(0xffff_ffff_ffff_fff2n);
  page.cr8 = 5n;
  expect(page.cr8).toBe(5n);
});

test('EINTR and EAGAIN become exits, any other failure an error that names the vCPU', () => {
  using run = new FakeRun();
  const { page } = run;
  expect(page.exit(-errno.EINTR, 'vcpu 3')).toEqual({ kind: 'interrupted' });
  expect(page.exit(-errno.EAGAIN, 'vcpu 3')).toEqual({ kind: 'again' });
  expect(() => page.exit(-errno.EBADF, 'vcpu 3')).toThrowError(/^KVM_RUN on vcpu 3: EBADF$/);
  expect(() => page.exit(-errno.EFAULT, 'vcpu 3')).toThrowError(
    /^KVM_RUN on vcpu 3: EFAULT\n {2}hint: (?!no memory)/,
  );
  run.put(uapi.KVM_EXIT_MEMORY_FAULT, uapi.RunMemoryFault, { gpa: 0xabc000n, size: 4096n });
  expect(() => page.exit(-errno.EFAULT, 'vcpu 3')).toThrowError(/EFAULT\n {2}hint: .*0xabc000, 4096 bytes/);
});

test('a positive result of KVM_RUN is no exit', () => {
  using run = new FakeRun();
  run.put(uapi.KVM_EXIT_HLT, uapi.RunHw, {});
  expect(run.page.exit(0, 'vcpu 0')).toEqual({ kind: 'hlt' });
  expect(() => run.page.exit(1, 'vcpu 0')).toThrowError(
    /^KVM_RUN on vcpu 0: EPROTO\n {2}hint: the kernel returned 1/,
  );
});

test('the flags of kvm_run are read and written where KVM has them, as 0 and 1', () => {
  using run = new FakeRun();
  const { page, bytes } = run;
  const at = uapi.Run.offsets;
  for (const flag of [0, 1, 0]) {
    page.setImmediateExit(flag === 1);
    page.setRequestInterruptWindow(flag === 1);
    expect([bytes[at.immediate_exit], bytes[at.request_interrupt_window]]).toEqual([flag, flag]);
  }
  for (const [ready, flag] of [
    [0, 0],
    [1, 0],
    [0, 1],
  ] as const) {
    bytes[at.ready_for_interrupt_injection] = ready;
    bytes[at.if_flag] = flag;
    expect([page.isReadyForInterrupt, page.isInterruptFlagSet]).toEqual([ready === 1, flag === 1]);
  }
});

test('the value of an MSR that is to be read is the answer’s, not what was there before', () => {
  using run = new FakeRun();
  run.put(uapi.KVM_EXIT_X86_RDMSR, uapi.RunMsr, { index: 0x10, data: 9n });
  expect(run.page.decode()).toMatchObject({ kind: 'rdmsr', data: 0n });
});

test('an internal error has as many words of data as KVM says', () => {
  using run = new FakeRun();
  const data = Array.from({ length: 16 }, (_, i) => BigInt(i + 1));
  for (const ndata of [0, 1, 16]) {
    const exit = run
      .put(uapi.KVM_EXIT_INTERNAL_ERROR, uapi.RunInternal, { suberror: 3, ndata, data })
      .decode();
    expect(exit).toMatchObject({ suberror: 3, data: data.slice(0, ndata) });
  }
});

const zeroed = <F extends Fields>(layout: Layout<F>): StructValue<F> =>
  layout.decode(new Uint8Array(layout.size));

test.each([
  { values: {}, mask: 0n },
  { values: { regs: zeroed(uapi.Regs) }, mask: 1n },
  { values: { sregs: zeroed(uapi.Sregs) }, mask: 2n },
  { values: { events: zeroed(uapi.VcpuEvents) }, mask: 4n },
  { values: { regs: zeroed(uapi.Regs), events: zeroed(uapi.VcpuEvents) }, mask: 5n },
])('KVM is told to take the registers that are written, and no others: $mask', ({ values, mask }) => {
  using run = new FakeRun();
  run.page.writeSyncRegs(values);
  const view = new DataView(run.bytes.buffer, run.bytes.byteOffset);
  expect(view.getBigUint64(uapi.Run.offsets.kvm_dirty_regs, true)).toBe(mask);
  run.page.setValidRegs(7);
  expect(view.getBigUint64(uapi.Run.offsets.kvm_valid_regs, true)).toBe(7n);
});
