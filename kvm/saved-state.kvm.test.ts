/** A VM and its vCPU, saved at a random instruction and loaded into new ones. */
import { expect, test } from 'vitest';
import { decodeSections, encodeSections, SectionReader } from '../sys/state-sections.js';
import { Assembler, DATA, TestGuest, type TestGuestOptions } from './testing.js';
import { KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP } from './uapi-vcpu.js';
import { loadVcpu, msrsOf, saveVcpu } from './vcpu-state.js';
import { loadVm, saveVm } from './vm-state.js';

const PORT = 0x500;
const RUNS = Number(process.env.TSVISOR_SAVED_STATES ?? 50);
const ALL = 0x20_0000;
const CHIPS = { hasIrqchip: true, hasPit: true };
const OPTIONS: TestGuestOptions = { irqchip: 'full', prepare: (vm) => vm.createPit2() };
/** An interrupt of an I/O APIC's pin that no PIC has, edge-triggered, at this vector. */
const [PIN, VECTOR] = [20, 0x40];
const IOAPIC = 0xfec0_0000;
const COUNTER = DATA + 8;

/** A guest that computes, writes to a port, and counts interrupts. */
function createGuest(): TestGuest {
  const guest = TestGuest.create(OPTIONS);
  const code = new Assembler();
  for (const [register, value] of [
    [0x10 + 2 * PIN, VECTOR],
    [0x11 + 2 * PIN, 0],
  ] as const)
    code.poke(IOAPIC, register).poke(IOAPIC + 0x10, value);
  code.mov('rsi', 1).sti().label('again');
  // rsi = rsi * 6364136223846793005 + 1442695040888963407
  code.mov('rax', 6364136223846793005n).raw(0x48, 0x0f, 0xaf, 0xf0);
  code.mov('rax', 1442695040888963407n).raw(0x48, 0x01, 0xc6);
  code.raw(0x48, 0x89, 0xf0).raw(0x48, 0xc1, 0xe8, 0x20); // mov rax, rsi; shr rax, 32
  code.out(PORT, 4).jmp('again').handler('interrupt', COUNTER);
  return guest.load(code).setVector(VECTOR, code.address('interrupt')).enableApic();
}

function save(guest: TestGuest): Uint8Array {
  const { vcpu, vm, kvm } = guest;
  const msrs = msrsOf(vcpu, kvm.getMsrIndexList());
  const ram = { name: 'ram', version: 1, data: Uint8Array.from(guest.bytes(0, ALL)) };
  return encodeSections([...saveVm(vm, CHIPS), ...saveVcpu(vcpu, 'vcpu 0', msrs, true), ram]);
}

function restore(file: Uint8Array): TestGuest {
  const guest = TestGuest.create(OPTIONS);
  try {
    const state = new SectionReader(decodeSections(file, 'a file'), 'a file');
    guest.bytes(0, ALL).set(state.take('ram', 1, ALL));
    loadVm(guest.vm, state, CHIPS);
    loadVcpu(guest.vcpu, 'vcpu 0', state, true);
    state.finish();
    return guest;
  } catch (error) {
    guest[Symbol.dispose]();
    throw error;
  }
}

/** Runs up to the guest's next value. */
function nextValue(guest: TestGuest): number {
  for (;;) {
    const exit = guest.run();
    if (exit.kind !== 'io') throw new Error(exit.kind);
    if (exit.port !== PORT) continue;
    return new DataView(exit.data.buffer, exit.data.byteOffset).getUint32(0, true);
  }
}

/** What the guest computes. */
function* values(): Generator<number> {
  for (let x = 1n; ; ) {
    x = BigInt.asUintN(64, x * 6364136223846793005n + 1442695040888963407n);
    yield Number(x >> 32n);
  }
}

test(`a guest saved at ${RUNS} random instructions computes on elsewhere, and loses no interrupt`, () => {
  const seed = Number(process.env.TSVISOR_SAVED_SEED ?? Date.now() % 1_000_000);
  console.log(`TSVISOR_SAVED_SEED=${seed}`);
  let random = seed;
  const below = (most: number) => {
    random = (random * 1103515245 + 12345) % 2 ** 31;
    return Math.floor(random / 65536) % most;
  };
  let guest = createGuest();
  const expected = values();
  let raised = 0;
  try {
    for (let run = 0; run < RUNS; run++) {
      for (let i = below(3); i >= 0; i--) expect(nextValue(guest)).toBe(expected.next().value);
      guest.vcpu.completeAccess();
      // On by some instructions, each of which is an exit of its own.
      guest.vcpu.setGuestDebug(KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP);
      for (let steps = below(5); steps > 0; steps--) {
        const exit = guest.run();
        if (exit.kind === 'io') {
          const { buffer, byteOffset } = exit.data;
          expect(new DataView(buffer, byteOffset).getUint32(0, true)).toBe(expected.next().value);
          guest.vcpu.completeAccess();
        } else expect(exit.kind).toBe('debug');
      }
      guest.vcpu.setGuestDebug(0);
      if (below(2) === 0) {
        for (const isHigh of [true, false]) guest.vm.irqLine(PIN, isHigh);
        raised++;
      }
      const file = save(guest);
      guest[Symbol.dispose]();
      guest = restore(file);
    }
    for (let i = 0; i < 3; i++) expect(nextValue(guest)).toBe(expected.next().value);
    expect(Number(guest.words(COUNTER, 1)[0])).toBe(raised);
  } finally {
    guest[Symbol.dispose]();
  }
});

test('what is saved, loaded and saved again is the same but for what tells the time', () => {
  using guest = createGuest();
  nextValue(guest);
  guest.vcpu.completeAccess();
  const file = save(guest);
  using other = restore(file);
  const read = (bytes: Uint8Array) =>
    new Map(
      decodeSections(bytes, 'a file').map(({ name, data }) => [name, Buffer.from(data).toString('hex')]),
    );
  const [before, after] = [read(file), read(save(other))];
  for (const name of ['vm/clock', 'vm/pit', 'vcpu 0/msrs'])
    for (const each of [before, after]) each.delete(name);
  expect([...after.keys()].length).toBeGreaterThan(10);
  expect(after).toEqual(before);
});

test('a state that KVM refuses is its error, with the section', () => {
  using guest = createGuest();
  const sections = decodeSections(save(guest), 'a file');
  const wrong = sections.map((each) =>
    each.name === 'vcpu 0/mp-state' ? { ...each, data: Uint8Array.of(99, 0, 0, 0) } : each,
  );
  expect(() => restore(encodeSections(wrong))).toThrowError(
    /KVM_SET_MP_STATE on vcpu 0: EINVAL\n {2}hint: while section 'vcpu 0\/mp-state' of a file was loaded/,
  );
  const short = sections.map((each) =>
    each.name === 'vcpu 0/msrs' ? { ...each, data: each.data.subarray(1) } : each,
  );
  expect(() => restore(encodeSections(short))).toThrowError(/EINVAL\n.*'vcpu 0\/msrs'.*bytes of MSRs/);
});
