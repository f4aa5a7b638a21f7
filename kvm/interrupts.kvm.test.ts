import { expect, test } from 'vitest';
import { drainEventfd, signalEventfd } from '../sys/eventfd.js';
import { Fd } from '../sys/fd.js';
import { GsiRouting } from './gsi-routing.js';
import { Assembler, DATA, TestGuest } from './testing.js';
import { KVM_IRQCHIP_IOAPIC } from './uapi.js';

const VECTOR = 0x40;
const OTHER_VECTOR = 0x41;
/** Local APIC 0, fixed delivery, edge-triggered. */
const message = (vector: number) => ({ address: 0xfee0_0000n, data: vector });
const COUNTER = DATA;
const OTHER_COUNTER = DATA + 8;

/** A guest that loops forever and counts interrupts by vector. */
function counting(guest: TestGuest): { count(): bigint; otherCount(): bigint } {
  const code = new Assembler().sti().label('loop').out(0x500).jmp('loop');
  code.handler('handler', COUNTER).handler('other', OTHER_COUNTER);
  guest.load(code).enableApic();
  guest.setVector(VECTOR, code.address('handler')).setVector(OTHER_VECTOR, code.address('other'));
  const words = guest.words(DATA, 2);
  return { count: () => words[0] as bigint, otherCount: () => words[1] as bigint };
}

/** Enough iterations of the guest for an unwanted interrupt to show up. */
function settle(guest: TestGuest): void {
  let rounds = 50;
  guest.runUntil(() => rounds-- === 0);
}

const routed = (guest: TestGuest, irqchip: 'full' | 'split'): GsiRouting =>
  GsiRouting.create(guest.vm, { isIoapicRouted: irqchip === 'full', isPicRouted: false });

test.each(['full', 'split'] as const)(
  '%s irqchip: an irqfd on an MSI route reaches the guest every time',
  (irqchip) => {
    using guest = TestGuest.create({ irqchip });
    const { count } = counting(guest);
    const routing = routed(guest, irqchip);
    using line = Fd.eventfd('line');
    using route = routing.addMsi(message(VECTOR));
    expect(route.gsi).toBe(24);
    using _irqfd = guest.vm.assignIrqfd({ fd: line, gsi: route.gsi });
    for (let n = 1n; n <= 20n; n++) {
      signalEventfd(line.number);
      guest.runUntil(() => count() === n);
    }
  },
);

test('after a route changes, its irqfd raises the new vector', () => {
  using guest = TestGuest.create({ irqchip: 'split' });
  const { count, otherCount } = counting(guest);
  const routing = routed(guest, 'split');
  using line = Fd.eventfd('line');
  using route = routing.addMsi(message(VECTOR));
  using _irqfd = guest.vm.assignIrqfd({ fd: line, gsi: route.gsi });
  for (let n = 1n; n <= 10n; n++) {
    route.update(message(VECTOR));
    signalEventfd(line.number);
    guest.runUntil(() => count() === n);
    route.update(message(OTHER_VECTOR));
    signalEventfd(line.number);
    guest.runUntil(() => otherCount() === n);
  }
});

test('a signal sent before an eventfd is bound is not lost', () => {
  using guest = TestGuest.create({ irqchip: 'split' });
  const { count } = counting(guest);
  using route = routed(guest, 'split').addMsi(message(VECTOR));
  using line = Fd.eventfd('line');
  signalEventfd(line.number);
  using _irqfd = guest.vm.assignIrqfd({ fd: line, gsi: route.gsi });
  guest.runUntil(() => count() === 1n);
});

test('a deassigned irqfd raises nothing, and its eventfd can be bound again', () => {
  using guest = TestGuest.create({ irqchip: 'split' });
  const { count } = counting(guest);
  using route = routed(guest, 'split').addMsi(message(VECTOR));
  using line = Fd.eventfd('line');
  const irqfd = guest.vm.assignIrqfd({ fd: line, gsi: route.gsi });
  expect(() => guest.vm.assignIrqfd({ fd: line, gsi: route.gsi })).toThrowError(
    /KVM_IRQFD on line, gsi 24: EBUSY/,
  );
  irqfd[Symbol.dispose]();
  signalEventfd(line.number);
  settle(guest);
  expect(count()).toBe(0n);
  using _again = guest.vm.assignIrqfd({ fd: line, gsi: route.gsi });
  guest.runUntil(() => count() === 1n);
});

test('GSIs are allocated from 24, lowest first, and reused after release', () => {
  using guest = TestGuest.create({ irqchip: 'full' });
  const routing = routed(guest, 'full');
  expect(routing.count).toBe(24);
  const routes = [0x50, 0x51, 0x52].map((vector) => routing.addMsi(message(vector)));
  expect(routes.map(({ gsi }) => gsi)).toEqual([24, 25, 26]);
  routes[1]?.[Symbol.dispose]();
  routes[1]?.[Symbol.dispose]();
  expect(() => routes[1]?.update(message(VECTOR))).toThrowError(RangeError);
  expect(routing.addMsi(message(0x53)).gsi).toBe(25);
  expect(routing.count).toBe(27);
  expect(() => routing.set(24, [])).toThrowError(RangeError);
});

test('a failed batch leaves the table unchanged', () => {
  using guest = TestGuest.create({ irqchip: 'split' });
  const routing = routed(guest, 'split');
  const { count } = counting(guest);
  using route = routing.addMsi(message(VECTOR));
  using line = Fd.eventfd('line');
  using _irqfd = guest.vm.assignIrqfd({ fd: line, gsi: route.gsi });
  expect(() =>
    routing.batch(() => {
      route.update(message(OTHER_VECTOR));
      routing.set(4, [{ kind: 'pin', irqchip: KVM_IRQCHIP_IOAPIC, pin: 4 }]); // the split irqchip has no such pin
    }),
  ).toThrowError(/KVM_SET_GSI_ROUTING on vm: EINVAL/);
  expect(routing.count).toBe(1);
  signalEventfd(line.number);
  guest.runUntil(() => count() === 1n);
});

test.each(['full', 'split'] as const)('%s irqchip: a message is delivered without a route', (irqchip) => {
  using guest = TestGuest.create({ irqchip });
  const { count } = counting(guest);
  expect(guest.vm.signalMsi(message(VECTOR))).toBe(true);
  guest.runUntil(() => count() === 1n);
});

/** Programs an IOAPIC pin: this vector, to APIC 0, unmasked. */
function programPin(guest: TestGuest, pin: number, isLevel: boolean): void {
  const state = guest.vm.getIoapic();
  state.redirtbl[pin] = BigInt(VECTOR) | (isLevel ? 1n << 15n : 0n);
  guest.vm.setIoapic(state);
}

test('a line raises the IOAPIC’s pin', () => {
  using guest = TestGuest.create({ irqchip: 'full' });
  const { count } = counting(guest);
  routed(guest, 'full');
  programPin(guest, 20, false);
  for (let n = 1n; n <= 3n; n++) {
    guest.vm.irqLine(20, true);
    guest.vm.irqLine(20, false);
    guest.runUntil(() => count() === n);
  }
});

test('a level irqfd stays asserted until the guest’s EOI, which signals the resample eventfd', () => {
  using guest = TestGuest.create({ irqchip: 'full' });
  const { count } = counting(guest);
  routed(guest, 'full');
  programPin(guest, 20, true);
  using line = Fd.eventfd('line');
  using resampleFd = Fd.eventfd('resample');
  using _irqfd = guest.vm.assignIrqfd({ fd: line, gsi: 20, resampleFd });
  for (let n = 1n; n <= 3n; n++) {
    signalEventfd(line.number);
    let resampled = 0n;
    guest.runUntil(() => {
      resampled += drainEventfd(resampleFd.number);
      return resampled > 0n;
    });
    expect(resampled).toBe(1n);
    expect(count()).toBe(n);
  }
  settle(guest);
  expect(count()).toBe(3n);
});

test('split irqchip: the EOI of the VMM’s own level interrupt is an exit', () => {
  using guest = TestGuest.create({ irqchip: 'split' });
  const { count } = counting(guest);
  const LEVEL = 1 << 15;
  const ASSERT = 1 << 14;
  const pin = { address: 0xfee0_0000n, data: VECTOR | LEVEL | ASSERT };
  routed(guest, 'split').set(10, [{ kind: 'msi', ...pin }]);
  expect(guest.vm.signalMsi(pin)).toBe(true);
  guest.runUntil((exit) => exit.kind === 'ioapic-eoi' && exit.vector === VECTOR);
  expect(count()).toBe(1n);
});

test('a message reaches the local APIC that all bits of its address name', () => {
  using guest = TestGuest.create({
    irqchip: 'split',
    // Bits 40 to 63 of the address are bits 8 to 31 of the destination, and bits 32 to 39 are reserved.
    prepare: (vm) => vm.enableCap('KVM_CAP_X2APIC_API', 1n),
  });
  const { count } = counting(guest);
  const to = (address: bigint) => () => guest.vm.signalMsi({ address, data: VECTOR });
  expect(to(0xfee0_0000n)()).toBe(true);
  guest.runUntil(() => count() === 1n);
  for (const address of [0xfee0_5000n, 0x100_fee0_0000n]) expect(to(address)()).toBe(false);
  expect(to(0x1_fee0_0000n)).toThrowError(/^KVM_SIGNAL_MSI on vm: EINVAL/);
  settle(guest);
  expect(count()).toBe(1n);
});

test('a message to a local APIC that its guest has not enabled is blocked', () => {
  using guest = TestGuest.create({ irqchip: 'split' });
  const pin = { address: 0xfee0_0000n, data: VECTOR };
  expect(guest.vm.signalMsi(pin)).toBe(false);
  guest.enableApic();
  expect(guest.vm.signalMsi(pin)).toBe(true);
});

test('the timer ticks on its pin', () => {
  using guest = TestGuest.create({
    irqchip: 'full',
    prepare: (vm) => {
      vm.createPit2();
    },
  });
  const { count } = counting(guest);
  routed(guest, 'full');
  programPin(guest, 0, false);
  const pit = guest.vm.getPit2();
  const [channel] = pit.channels;
  Object.assign(channel ?? {}, { count: 1193, mode: 2, rw_mode: 3, gate: 1 });
  guest.vm.setPit2(pit);
  expect(guest.vm.getPit2().channels[0]).toMatchObject({ count: 1193, mode: 2 });
  guest.runUntil(() => count() >= 3n);
});

test('the PICs’ state can be read and set', () => {
  using guest = TestGuest.create({ irqchip: 'full' });
  guest.vm.setPic(0, { ...guest.vm.getPic(0), imr: 0xfb, irq_base: 0x20 });
  expect(guest.vm.getPic(0)).toMatchObject({ imr: 0xfb, irq_base: 0x20 });
  guest.vm.setPic(1, { ...guest.vm.getPic(1), imr: 0xff, irq_base: 0x28 });
  expect(guest.vm.getPic(1)).toMatchObject({ imr: 0xff, irq_base: 0x28 });
});

test('calls that need an irqchip name it as missing', () => {
  using guest = TestGuest.create();
  using line = Fd.eventfd('line');
  expect(() => guest.vm.assignIrqfd({ fd: line, gsi: 5 })).toThrowError(/KVM_IRQFD .*EINVAL\n {2}hint/);
  expect(() => GsiRouting.create(guest.vm, { isIoapicRouted: true, isPicRouted: true })).toThrowError(
    /EINVAL/,
  );
  expect(() => guest.vm.irqLine(5, true)).toThrowError(/KVM_IRQ_LINE on vm: ENXIO/);
  expect(() => guest.vm.getIoapic()).toThrowError(/KVM_GET_IRQCHIP on vm: ENXIO/);
  expect(() => guest.vm.createPit2()).toThrowError(/KVM_CREATE_PIT2 on vm: ENOENT/);
});
