import { expect, test } from 'vitest';
import { gpa, PAGE_SIZE } from '../sys/address.js';
import { isErrno } from '../sys/error.js';
import { liveMappings, Mapping } from '../sys/mapping.js';
import { openFds } from '../sys/testing/open-fds.js';
import type { VcpuExit } from './exits.js';
import { Kvm } from './system.js';
import { Assembler, CODE, HOLE, TestGuest } from './testing.js';

const hole = gpa(BigInt(HOLE));
const ENTRIES = 1024;

const pagesOf = (bitmap: Uint8Array): number[] =>
  [...bitmap].flatMap((byte, i) =>
    [0, 1, 2, 3, 4, 5, 6, 7].filter((n) => byte & (1 << n)).map((n) => i * 8 + n),
  );
const first = (pages: number): number[] => Array.from({ length: pages }, (_, page) => page);

/** Writes to each of the pages from rbx on, rcx in number; then halts. */
const sweep = (pages: number, origin = CODE): Assembler =>
  new Assembler(origin)
    .mov('rbx', HOLE)
    .mov('rcx', pages)
    .mov('rax', 1)
    .store(4)
    .raw(0x48, 0x81, 0xc3, 0x00, 0x10, 0x00, 0x00) // add rbx, 4096
    .raw(0x48, 0xff, 0xc9) // dec rcx
    .raw(0x75, 0xf2) // jnz to the store
    .hlt();

function runAll(run: () => VcpuExit, guest: TestGuest): number {
  for (let full = 0; ; full++) {
    const { kind } = run();
    if (kind === 'hlt') return full;
    expect(kind).toBe('dirty-ring-full');
    guest.vm.harvestDirtyRings();
  }
}

test('the log from a ring names the pages written, once', () => {
  using guest = TestGuest.create({ dirtyRing: ENTRIES });
  using memory = Mapping.anonymous(128 * 4096);
  using slot = guest.slots.add(hole, memory.hva, 128n * PAGE_SIZE, { isLogged: true });
  const code = new Assembler();
  for (const page of [5, 77, 5]) code.poke(HOLE + page * 4096, 1);
  guest.load(code.hlt());
  expect(guest.run().kind).toBe('hlt');
  const bitmap = slot.getDirtyLog();
  expect(bitmap.length).toBe(16);
  expect(pagesOf(bitmap)).toEqual([5, 77]);
  expect(pagesOf(slot.getDirtyLog())).toEqual([]);
  guest.load(new Assembler().poke(HOLE + 77 * 4096, 2).hlt());
  expect(guest.run().kind).toBe('hlt');
  expect(pagesOf(slot.getDirtyLog())).toEqual([77]);
});

test('the smallest ring that KVM makes, full many times, loses no page', () => {
  using guest = TestGuest.create({ dirtyRing: [256, 512].find(isAccepted) ?? ENTRIES });
  const pages = 3000;
  using memory = Mapping.anonymous(pages * 4096);
  using slot = guest.slots.add(hole, memory.hva, BigInt(pages) * PAGE_SIZE, { isLogged: true });
  for (let round = 0; round < 2; round++) {
    guest.load(sweep(pages));
    expect(runAll(() => guest.run(), guest)).toBeGreaterThan(1);
    expect(pagesOf(slot.getDirtyLog())).toEqual(first(pages));
  }
});

/** Whether KVM, which keeps entries for the processor's own log, makes rings of this length. */
function isAccepted(entries: number): boolean {
  using kvm = Kvm.open();
  using vm = kvm.createVm();
  try {
    vm.enableDirtyRings(entries);
    return true;
  } catch (error) {
    if (isErrno(error, 'EINVAL')) return false;
    throw error;
  }
}

test('the pages of two vCPUs are in one log', () => {
  using guest = TestGuest.create({ dirtyRing: ENTRIES });
  using second = guest.vm.createVcpu(1);
  second.setCpuid2(guest.kvm.getSupportedCpuid());
  second.setSregs(guest.vcpu.getSregs());
  using memory = Mapping.anonymous(2048 * 4096);
  using slot = guest.slots.add(hole, memory.hva, 2048n * PAGE_SIZE, { isLogged: true });
  guest.load(new Assembler().poke(HOLE + 2047 * 4096, 1).hlt());
  const code = sweep(1500, CODE + 4096);
  guest.bytes(code.origin, 4096).set(code.assemble());
  second.setRegs({ rip: BigInt(code.origin), rflags: 2n });
  expect(guest.run().kind).toBe('hlt');
  expect(runAll(() => second.run(), guest)).toBeGreaterThan(0);
  expect(pagesOf(slot.getDirtyLog())).toEqual([...first(1500), 2047]);
});

test('a log that is stopped leaves nothing to the next one, nor to a slot of the same number', () => {
  using guest = TestGuest.create({ dirtyRing: ENTRIES });
  using memory = Mapping.anonymous(64 * 4096);
  const slot = guest.slots.add(hole, memory.hva, 64n * PAGE_SIZE, { isLogged: true });
  guest.load(sweep(64));
  expect(guest.run().kind).toBe('hlt');
  slot.setLogged(false);
  expect(() => slot.getDirtyLog()).toThrowError(/getDirtyLog on vm, slot 1: ENOENT/);
  guest.load(sweep(64));
  expect(guest.run().kind).toBe('hlt');
  slot.setLogged(true);
  expect(pagesOf(slot.getDirtyLog())).toEqual([]);
  guest.load(sweep(3));
  expect(guest.run().kind).toBe('hlt');
  slot[Symbol.dispose]();
  using next = guest.slots.add(hole, memory.hva, 64n * PAGE_SIZE, { isLogged: true });
  expect(next.slot).toBe(1);
  expect(pagesOf(next.getDirtyLog())).toEqual([]);
  guest.load(new Assembler().poke(HOLE + 63 * 4096, 1).hlt());
  expect(guest.run().kind).toBe('hlt');
  expect(pagesOf(next.getDirtyLog())).toEqual([63]);
});

test('a vCPU unmaps its ring, which is read no more', () => {
  using guest = TestGuest.create({ dirtyRing: ENTRIES });
  const before = [liveMappings(), openFds().length];
  const vcpu = guest.vm.createVcpu(1);
  expect(liveMappings() - (before[0] as number)).toBe(2); // kvm_run, too
  vcpu[Symbol.dispose]();
  expect([liveMappings(), openFds().length]).toEqual(before);
  guest.vm.harvestDirtyRings();
});

test('rings are refused with what a number may be, and after the first vCPU', () => {
  using kvm = Kvm.open();
  using vm = kvm.createVm();
  const on = (code: string) =>
    new RegExp(`^KVM_ENABLE_CAP on vm, KVM_CAP_DIRTY_LOG_RING: ${code}\\n  hint: `);
  expect(() => vm.enableDirtyRings(1000)).toThrowError(on('EINVAL'));
  expect(() => vm.enableDirtyRings(1)).toThrowError(on('EINVAL'));
  expect(() => vm.enableDirtyRings(2 ** 26)).toThrowError(on('E2BIG'));
  using _vcpu = vm.createVcpu(0);
  expect(() => vm.enableDirtyRings(ENTRIES)).toThrowError(on('EINVAL'));
});

test('with rings there is no bitmap to clear', () => {
  using guest = TestGuest.create({ dirtyRing: ENTRIES });
  using memory = Mapping.anonymous(64 * 4096);
  using slot = guest.slots.add(hole, memory.hva, 64n * PAGE_SIZE, { isLogged: true });
  expect(() => slot.clearDirtyLog(0n, 64, new Uint8Array(8))).toThrowError(
    /KVM_CLEAR_DIRTY_LOG on vm, slot 1: (?:ENXIO\n {2}hint: a VM with dirty rings|EINVAL)/,
  );
});
