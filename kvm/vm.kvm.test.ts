import { expect, test } from 'vitest';
import { gpa, hva, offset, PAGE_SIZE } from '../sys/address.js';
import { drainEventfd } from '../sys/eventfd.js';
import { Fd } from '../sys/fd.js';
import { deferUnmapping, liveMappings, Mapping, unmap } from '../sys/mapping.js';
import { openFds } from '../sys/testing/open-fds.js';
import { CoalescedRing, registerCoalesced } from './coalesced.js';
import { Kvm } from './system.js';
import { Assembler, HOLE, TestGuest } from './testing.js';
import { KVM_DIRTY_LOG_INITIALLY_SET, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE } from './uapi.js';
import { Regs } from './uapi-vcpu.js';
import { Vm } from './vm.js';

const hole = gpa(BigInt(HOLE));
const pagesOf = (bitmap: Uint8Array): number[] =>
  [...bitmap].flatMap((byte, i) =>
    [0, 1, 2, 3, 4, 5, 6, 7].filter((n) => byte & (1 << n)).map((n) => i * 8 + n),
  );

test('memory is visible to the guest as long as its slot exists', () => {
  using guest = TestGuest.create();
  const code = () => guest.load(new Assembler().poke(HOLE, 0x1234).hlt()).run();
  expect(code()).toMatchObject({ kind: 'mmio', address: HOLE });
  {
    using page = guest.addPage(hole);
    expect(guest.slots.count).toBe(2);
    expect(code().kind).toBe('hlt');
    expect(new Uint16Array(page.mapping.view.slice(0, 2).slice().buffer)[0]).toBe(0x1234);
  }
  expect(guest.slots.count).toBe(1);
  expect(code()).toMatchObject({ kind: 'mmio', address: HOLE });
  using again = guest.addPage(hole);
  expect(code().kind).toBe('hlt');
  expect(again.mapping.view.slice(0, 1)[0]).toBe(0x34);
});

test('a slot’s number is reused once the slot is disposed', () => {
  using guest = TestGuest.create();
  using memory = Mapping.anonymous(3 * 4096);
  const add = (page: bigint) =>
    guest.slots.add(offset(hole, page * PAGE_SIZE), offset(memory.hva, page * PAGE_SIZE), PAGE_SIZE);
  using first = add(0n);
  const second = add(1n);
  using third = add(2n);
  expect([first.slot, second.slot, third.slot]).toEqual([1, 2, 3]);
  second[Symbol.dispose]();
  second[Symbol.dispose]();
  expect(() => second.setLogged(true)).toThrowError(RangeError);
  using replacement = add(1n);
  expect(replacement.slot).toBe(2);
});

test('a read-only slot serves reads from memory and exits on writes', () => {
  using guest = TestGuest.create();
  using page = guest.addPage(hole, { isReadonly: true });
  page.mapping.view.slice(0, 4).set([1, 2, 3, 4]);
  guest.load(new Assembler().poke(HOLE, 0x55).peek(HOLE).hlt());
  const exit = guest.run();
  expect(exit).toMatchObject({ kind: 'mmio', isWrite: true, address: HOLE });
  expect(exit.kind === 'mmio' && exit.data[0]).toBe(0x55);
  expect(guest.run().kind).toBe('hlt');
  expect(guest.vcpu.getRegs().rax).toBe(0x04030201n);
});

test('each invalid slot reports KVM’s own errno', () => {
  using guest = TestGuest.create();
  using memory = Mapping.anonymous(2 * 4096);
  using _page = guest.slots.add(hole, memory.hva, PAGE_SIZE);
  const add = (at: bigint, host: bigint, bytes: bigint) => () => guest.slots.add(gpa(at), hva(host), bytes);
  expect(add(hole, memory.hva, PAGE_SIZE)).toThrowError(/KVM_SET_USER_MEMORY_REGION on vm, slot 2: EEXIST/);
  expect(add(hole + 1n, memory.hva, PAGE_SIZE)).toThrowError(/EINVAL/);
  expect(add(hole + PAGE_SIZE, memory.hva + 1n, PAGE_SIZE)).toThrowError(/EINVAL/);
  expect(add(hole + PAGE_SIZE, memory.hva, 100n)).toThrowError(/EINVAL/);
  expect(add(hole + PAGE_SIZE, memory.hva, 0n)).toThrowError(/EINVAL/);
  expect(guest.slots.count).toBe(2);
});

test('the dirty log names the pages written, once', () => {
  using guest = TestGuest.create();
  using memory = Mapping.anonymous(128 * 4096);
  using slot = guest.slots.add(hole, memory.hva, 128n * PAGE_SIZE, { isLogged: true });
  guest.load(
    new Assembler()
      .poke(HOLE + 5 * 4096, 1)
      .poke(HOLE + 77 * 4096, 1)
      .hlt(),
  );
  expect(guest.run().kind).toBe('hlt');
  const bitmap = slot.getDirtyLog();
  expect(bitmap.length).toBe(16);
  expect(pagesOf(bitmap)).toEqual([5, 77]);
  expect(pagesOf(slot.getDirtyLog())).toEqual([]);
  slot.setLogged(false);
  expect(() => slot.getDirtyLog()).toThrowError(/KVM_GET_DIRTY_LOG on vm, slot 1: ENOENT/);
});

test.each([
  { pages: 1, bytes: 8 },
  { pages: 64, bytes: 8 },
  { pages: 65, bytes: 16 },
])('the dirty log of $pages pages is $bytes bytes long, whole words of 64 bits', ({ pages, bytes }) => {
  using guest = TestGuest.create();
  using memory = Mapping.anonymous(pages * 4096);
  using slot = guest.slots.add(hole, memory.hva, BigInt(pages) * PAGE_SIZE, { isLogged: true });
  guest.load(new Assembler().poke(HOLE + (pages - 1) * 4096, 1).hlt());
  expect(guest.run().kind).toBe('hlt');
  const bitmap = slot.getDirtyLog();
  expect(bitmap.length).toBe(bytes);
  expect(pagesOf(bitmap)).toEqual([pages - 1]);
});

test('with manual protection, a page stays dirty until it is cleared', () => {
  using guest = TestGuest.create();
  guest.vm.enableCap('KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2', BigInt(KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE));
  using memory = Mapping.anonymous(128 * 4096);
  using slot = guest.slots.add(hole, memory.hva, 128n * PAGE_SIZE, { isLogged: true });
  guest.load(
    new Assembler()
      .poke(HOLE + 70 * 4096, 1)
      .poke(HOLE + 71 * 4096, 1)
      .hlt(),
  );
  guest.run();
  expect(pagesOf(slot.getDirtyLog())).toEqual([70, 71]);
  expect(pagesOf(slot.getDirtyLog())).toEqual([70, 71]);
  slot.clearDirtyLog(64n, 64, Uint8Array.of(1 << 6, 0, 0, 0, 0, 0, 0, 0));
  expect(pagesOf(slot.getDirtyLog())).toEqual([71]);
  expect(() => slot.clearDirtyLog(1n, 64, new Uint8Array(8))).toThrowError(/KVM_CLEAR_DIRTY_LOG .*EINVAL/);
});

test('a log that starts all set contains every page', () => {
  using guest = TestGuest.create();
  const flags = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;
  guest.vm.enableCap('KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2', BigInt(flags));
  using memory = Mapping.anonymous(64 * 4096);
  using slot = guest.slots.add(hole, memory.hva, 64n * PAGE_SIZE, { isLogged: true });
  expect(pagesOf(slot.getDirtyLog()).length).toBe(64);
});

test('an ioeventfd takes matching writes and no others', () => {
  using guest = TestGuest.create();
  using bell = Fd.eventfd('bell');
  using _match = guest.vm.assignIoeventfd({ fd: bell, address: hole, length: 4, datamatch: 3n });
  guest.load(new Assembler().poke(HOLE, 3).poke(HOLE, 4).poke(HOLE, 3, 2).poke(HOLE, 3).hlt());
  expect(guest.run()).toMatchObject({ kind: 'mmio', data: Uint8Array.of(4, 0, 0, 0) });
  expect(guest.run()).toMatchObject({ kind: 'mmio', data: Uint8Array.of(3, 0) });
  expect(guest.run().kind).toBe('hlt');
  expect(drainEventfd(bell.number)).toBe(2n);
});

test('an ioeventfd of any length takes writes of every width', () => {
  using guest = TestGuest.create();
  using bell = Fd.eventfd('bell');
  using _any = guest.vm.assignIoeventfd({ fd: bell, address: hole, length: 0 });
  guest.load(new Assembler().poke(HOLE, 1, 1).poke(HOLE, 2, 2).poke(HOLE, 3, 4).poke(HOLE, 4, 8).hlt());
  expect(guest.run().kind).toBe('hlt');
  expect(drainEventfd(bell.number)).toBe(4n);
});

test('an ioeventfd on a port suppresses the exit until it is disposed', () => {
  using guest = TestGuest.create();
  using bell = Fd.eventfd('bell');
  const bound = guest.vm.assignIoeventfd({ fd: bell, address: 0xc050n, length: 2, isPio: true });
  guest.load(new Assembler().out(0xc050, 2).hlt());
  expect(guest.run().kind).toBe('hlt');
  expect(drainEventfd(bell.number)).toBe(1n);
  bound[Symbol.dispose]();
  guest.load(new Assembler().out(0xc050, 2).hlt());
  expect(guest.run()).toMatchObject({ kind: 'io', port: 0xc050 });
  expect(drainEventfd(bell.number)).toBe(0n);
});

test('two ioeventfds cannot match the same write', () => {
  using guest = TestGuest.create();
  using bell = Fd.eventfd('bell');
  using other = Fd.eventfd('other');
  using _first = guest.vm.assignIoeventfd({ fd: bell, address: hole, length: 4, datamatch: 1n });
  using _second = guest.vm.assignIoeventfd({ fd: other, address: hole, length: 4, datamatch: 2n });
  expect(() => guest.vm.assignIoeventfd({ fd: other, address: hole, length: 4, datamatch: 1n })).toThrowError(
    /KVM_IOEVENTFD on other, address 0xd0000000: EEXIST/,
  );
  expect(() => guest.vm.assignIoeventfd({ fd: other, address: hole, length: 3 as 4 })).toThrowError(/EINVAL/);
});

test('what is bound to a VM ends with its descriptor: disposing it afterwards does nothing', () => {
  const guest = TestGuest.create({ irqchip: 'full' });
  const { vm } = guest;
  using bell = Fd.eventfd('bell');
  using line = Fd.eventfd('line');
  const bound = [
    vm.assignIoeventfd({ fd: bell, address: hole, length: 4 }),
    vm.assignIrqfd({ fd: line, gsi: 5 }),
    registerCoalesced(vm, { address: hole + 64n, bytes: 4 }),
  ];
  guest[Symbol.dispose]();
  for (const one of bound) expect(() => one[Symbol.dispose]()).not.toThrow();
});

test('what is bound to a VM is unbound once', () => {
  using guest = TestGuest.create({ irqchip: 'full' });
  using bell = Fd.eventfd('bell');
  using line = Fd.eventfd('line');
  for (const bind of [
    () => guest.vm.assignIoeventfd({ fd: bell, address: hole, length: 4, datamatch: 9n }),
    () => guest.vm.assignIoeventfd({ fd: bell, address: 0xc050n, length: 2, isPio: true }),
    () => guest.vm.assignIrqfd({ fd: line, gsi: 5, resampleFd: bell }),
  ]) {
    const first = bind();
    expect(bind).toThrowError(/: (EEXIST|EBUSY)/);
    first[Symbol.dispose]();
    first[Symbol.dispose]();
    using _second = bind();
  }
});

test('coalesced writes are queued in order without an exit', () => {
  using guest = TestGuest.create();
  const ring = CoalescedRing.of(guest.vcpu.handle);
  const zone = registerCoalesced(guest.vm, { address: hole, bytes: 16 });
  using _ports = registerCoalesced(guest.vm, { address: 0x70n, bytes: 1, isPio: true });
  const code = () =>
    guest.load(
      new Assembler()
        .poke(HOLE, 0x11)
        .poke(HOLE + 8, 0x22, 8)
        .out(0x70)
        .hlt(),
    );
  for (let round = 0; round < 60; round++) {
    expect(code().run().kind).toBe('hlt');
    const seen: unknown[] = [];
    expect(ring.drain((address, data, isPio) => seen.push([address, data.length, data[0], isPio]))).toBe(3);
    expect(seen).toEqual([
      [HOLE, 4, 0x11, false],
      [HOLE + 8, 8, 0x22, false],
      [0x70, 1, 0x22, true],
    ]);
  }
  expect(ring.drain(() => undefined)).toBe(0);
  zone[Symbol.dispose]();
  expect(code().run()).toMatchObject({ kind: 'mmio', address: HOLE });
});

test('the VM reports its capabilities and enables those it has', () => {
  using guest = TestGuest.create();
  expect(guest.vm.checkExtension('KVM_CAP_NR_MEMSLOTS')).toBeGreaterThan(31);
  expect(guest.vm.checkExtension('KVM_CAP_IOEVENTFD')).toBe(1);
  expect(() => guest.vm.enableCap('KVM_CAP_NR_MEMSLOTS')).toThrowError(
    /KVM_ENABLE_CAP on vm, KVM_CAP_NR_MEMSLOTS: EINVAL/,
  );
});

test('a capability that the processor lacks is 0 for the VM as for the system', () => {
  using guest = TestGuest.create();
  expect([guest.vm, guest.kvm].map((fd) => fd.checkExtension('KVM_CAP_MSI_DEVID'))).toEqual([0, 0]);
});

test('kvmclock continues from the value it was set to', () => {
  using guest = TestGuest.create({ irqchip: 'full' });
  guest.vm.setClock({ clock: 1_000_000_000_000n });
  const { clock } = guest.vm.getClock();
  expect(clock).toBeGreaterThanOrEqual(1_000_000_000_000n);
});

test('a vCPU unmaps its kvm_run and closes its descriptor', () => {
  using guest = TestGuest.create();
  const before = [liveMappings(), openFds().length];
  const vcpu = guest.vm.createVcpu(1);
  expect([liveMappings(), openFds().length]).toEqual(before.map((count) => count + 1));
  expect(vcpu.handle).toMatchObject({ target: 'vcpu 1', bytes: guest.kvm.getVcpuMmapSize() });
  vcpu[Symbol.dispose]();
  expect([liveMappings(), openFds().length]).toEqual(before);
});

test('a vCPU’s kvm_run stays mapped for threads that may still read it', () => {
  using guest = TestGuest.create();
  const vcpu = guest.vm.createVcpu(1);
  const { address, bytes } = vcpu.handle;
  const deferral = deferUnmapping();
  try {
    vcpu[Symbol.dispose]();
    const ranges = deferral.take();
    expect(ranges).toEqual([{ address, bytes }]);
    unmap(ranges);
  } finally {
    deferral.end();
  }
});

test('a vCPU that cannot be mapped leaves no descriptor', () => {
  using kvm = Kvm.open();
  using whole = kvm.createVm();
  using vm = Vm.adopt(whole.fd.duplicate(), 0);
  const before = openFds();
  expect(() => vm.createVcpu(0)).toThrowError(/mmap on vcpu 0: EINVAL/);
  expect(openFds()).toEqual(before);
});

test('a vCPU id can be used once', () => {
  using guest = TestGuest.create();
  expect(() => guest.vm.createVcpu(0)).toThrowError(/KVM_CREATE_VCPU on vcpu 0: EEXIST/);
  using second = guest.vm.createVcpu(1);
  expect(second.getRegs()).toEqual({
    ...Regs.decode(new Uint8Array(Regs.size)),
    rip: 0xfff0n,
    rdx: second.getRegs().rdx,
    rflags: 2n,
  });
});

test('a reference keeps the VM’s descriptor open until it is put', () => {
  const guest = TestGuest.create();
  const { reference } = guest.vm;
  expect(reference.getUnlessDying()).toBe(true);
  guest[Symbol.dispose]();
  expect(guest.vm.isOpen).toBe(false);
  expect(guest.vm.fd.isOpen).toBe(true);
  expect(reference.isAlive).toBe(true);
  reference.put();
  expect(guest.vm.fd.isOpen).toBe(false);
  expect(reference.getUnlessDying()).toBe(false);
});
