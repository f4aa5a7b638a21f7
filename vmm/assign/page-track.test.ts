import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type Gpa, gpa, PAGE_SIZE } from '../../sys/address.js';
import type { KvmPageTrackNotifierNode } from '../../sys/kvm-guest.js';
import { createSharedMemory, Mapping } from '../../sys/mapping.js';
import { disposable, Scope } from '../../sys/scope.js';
import { ScriptedVm } from '../../vfio/testing/index.js';
import { RangeBus } from './bus.js';
import { ExitDispatcher } from './exit-dispatcher.js';
import { MemoryMap } from './memory-map.js';
import { PageTrack } from './page-track.js';
import { RuledSlots } from './testing/ruled-slots.js';

const PAGES = 64n;
/** Where the second range of RAM begins: a gap of as many pages is before it. */
const HIGH = PAGES * 2n;

class Node implements KvmPageTrackNotifierNode {
  readonly heard: string[] = [];
  onWrite: (at: Gpa, data: Uint8Array) => void = () => {};
  constructor(readonly name = 'node') {}
  trackWrite(at: Gpa, data: Uint8Array): void {
    this.heard.push(`${at.toString(16)}=${[...data]}`);
    this.onWrite(at, data);
  }
  trackRemoveRegion(gfn: bigint, pages: bigint): void {
    this.heard.push(`removed ${gfn}+${pages}`);
  }
}

function world(scope: Scope) {
  const slots = new RuledSlots();
  const mapping = scope.own(Mapping.huge(Number(PAGES * 2n * PAGE_SIZE)));
  const memory = scope.own(new MemoryMap(slots));
  const half = PAGES * PAGE_SIZE;
  const low = memory.addRam(gpa(0n), mapping, { bytes: half });
  memory.addRam(gpa(HIGH * PAGE_SIZE), mapping, { offset: half, bytes: half });
  const vm = new ScriptedVm();
  const held = { now: 0, times: 0 };
  const hold = () => {
    held.now++;
    held.times++;
    return disposable(() => held.now--);
  };
  const track = new PageTrack({ memory, reference: vm, hold });
  scope.own(track);
  const exits = new ExitDispatcher(new RangeBus('pio'), new RangeBus('mmio'), track);
  const write = (at: bigint, ...data: number[]) =>
    exits.dispatch(0, { kind: 'mmio', address: Number(at), data: Uint8Array.from(data), isWrite: true });
  return { slots, memory, track, vm, held, low, write, mapping };
}

test('whatever pages are tracked, slots never overlap, are all of RAM, as few as can be, read-only at tracked pages only, and change while no vCPU runs', () => {
  const page = fc.tuple(fc.boolean(), fc.bigInt(0n, PAGES - 1n), fc.bigInt(1n, 5n), fc.boolean());
  fc.assert(
    fc.property(fc.array(page, { maxLength: 30 }), (steps) => {
      using scope = new Scope();
      const { slots, track, held, memory, mapping } = world(scope);
      const before = slots.all;
      slots.onChange = () => expect(held.now).toBe(1);
      const counts = new Map<bigint, number>();
      const log: string[] = [];
      memory.listen({
        added: ({ gpa: at }) => void log.push(`${at}`),
        removed: () => void log.push('removed'),
      });
      for (const [isHigh, at, pages, adds] of steps) {
        const first = at + (isHigh ? HIGH : 0n);
        const fits = at + pages <= PAGES;
        if (adds && !fits) expect(() => track.writeTrackAddGfn(first, pages)).toThrow(/EINVAL/);
        else if (adds) track.writeTrackAddGfn(first, pages);
        else track.writeTrackRemoveGfn(first, pages);
        for (let gfn = first; gfn < first + pages && (fits || !adds); gfn++)
          counts.set(gfn, Math.max(0, (counts.get(gfn) ?? 0) + (adds ? 1 : -1)));

        const { all } = slots;
        const covered = new Map<bigint, boolean>();
        for (const slot of all)
          for (let byte = 0n; byte < slot.bytes; byte += PAGE_SIZE) {
            const gfn = (slot.gpa + byte) / PAGE_SIZE;
            covered.set(gfn, slot.isReadonly);
            const offset = gfn < PAGES ? gfn : gfn - HIGH + PAGES;
            expect(slot.hva + byte).toBe(mapping.hva + offset * PAGE_SIZE);
          }
        expect(covered.size).toBe(Number(PAGES * 2n));
        for (const [gfn, isReadonly] of covered) expect(isReadonly).toBe((counts.get(gfn) ?? 0) > 0);
        for (const [i, slot] of all.entries()) {
          const next = all[i + 1];
          if (next?.gpa === slot.gpa + slot.bytes) expect(next.isReadonly).not.toBe(slot.isReadonly);
        }
      }
      track[Symbol.dispose]();
      slots.onChange = () => {};
      expect(slots.all).toEqual(before);
      expect(log).toEqual(['0', `${HIGH * PAGE_SIZE}`]); // DMA maps follow regions, which stay as they are
    }),
  );
});

test('a write to a tracked page is in memory when the listener hears of it, one to another page is not heard of', () => {
  using scope = new Scope();
  const { track, write, memory } = world(scope);
  const node = new Node();
  const seen: number[][] = [];
  node.onWrite = (at, data) => seen.push([...memory.ram(at, data.length)]);
  track.pageTrackRegisterNotifier(node);
  expect(write(0x1008n, 1, 2)).toBe(true);
  expect(memory.ram(0x1008n, 2)).toEqual(Uint8Array.of(0, 0)); // no RAM exits before a page was tracked
  track.writeTrackAddGfn(1n);
  write(0x1008n, 1, 2, 3, 4);
  write(0x2000n, 9); // of a vCPU that had exited before this page was tracked no more
  expect(node.heard).toEqual(['1008=1,2,3,4']);
  expect(seen).toEqual([[1, 2, 3, 4]]);
  expect([...memory.ram(0x2000n, 1)]).toEqual([9]);
  track.writeTrackRemoveGfn(1n);
  write(0x1008n, 7);
  expect([node.heard.length, memory.ram(0x1008n, 1)[0]]).toEqual([1, 7]);
});

test('a page that is tracked twice is tracked until it is removed twice, and slots change at the first and the last only', () => {
  using scope = new Scope();
  const { track, slots, held } = world(scope);
  track.writeTrackAddGfn(3n);
  const { changes } = slots;
  track.writeTrackAddGfn(3n);
  track.writeTrackRemoveGfn(3n);
  expect([slots.changes, held.times, track.trackedPages]).toEqual([changes, 1, 1]);
  track.writeTrackRemoveGfn(3n);
  track.writeTrackRemoveGfn(3n);
  expect([slots.all.length, held.times, track.trackedPages]).toEqual([2, 2, 0]);
});

test('only RAM can be read, written and tracked: no gap, no device, and nothing across an end', () => {
  using scope = new Scope();
  using bar = createSharedMemory('bar', 4096);
  const { track, memory } = world(scope);
  memory.map(gpa(0x1000_0000n), bar.mapping.hva, PAGE_SIZE, 'BAR2');
  track.writeGuest(gpa(0x3ffffn), Uint8Array.of(5));
  const data = new Uint8Array(2);
  for (const at of [0x3ffffn, 0x40000n, 0x1000_0000n, (1n << 64n) - 2n]) {
    expect(() => track.readGuest(gpa(at), data)).toThrow(/kvm_read_guest .*EFAULT/);
    expect(() => track.writeGuest(gpa(at), data)).toThrow(/kvm_write_guest .*EFAULT/);
  }
  expect([...data]).toEqual([0, 0]);
  expect([0n, 63n, 64n, 128n, 0x10000n].map((gfn) => track.isVisibleGfn(gfn))).toEqual([
    true,
    true,
    false,
    true,
    false,
  ]);
  for (const [gfn, pages] of [
    [64n, 1n],
    [63n, 2n],
    [0x10000n, 1n],
    [0n, 0n],
  ] as const)
    expect(() => track.writeTrackAddGfn(gfn, pages)).toThrow(/kvm_write_track_add_gfn .*EINVAL/);
});

test('if a slot is refused, the slots and what is tracked are as before', () => {
  using scope = new Scope();
  const { track, slots } = world(scope);
  track.writeTrackAddGfn(10n, 2n);
  const before = slots.all;
  slots.most = 5;
  expect(() => track.writeTrackAddGfn(20n)).toThrow(/EINVAL/);
  expect([slots.all, track.trackedPages]).toEqual([before, 2]);
});

test('a listener can unregister itself and others while it is told; the others that are left are told', () => {
  using scope = new Scope();
  const { track, write, vm } = world(scope);
  const [first, second, third] = ['first', 'second', 'third'].map((name) => new Node(name)) as [
    Node,
    Node,
    Node,
  ];
  for (const node of [first, second, third]) track.pageTrackRegisterNotifier(node);
  expect(() => track.pageTrackRegisterNotifier(first)).toThrow(/first.*EEXIST/);
  expect(vm.references).toBe(4);
  first.onWrite = () => {
    track.pageTrackUnregisterNotifier(first);
    track.pageTrackUnregisterNotifier(second);
    track.writeTrackRemoveGfn(0n);
    throw new Error('a bug of the listener');
  };
  track.writeTrackAddGfn(0n);
  write(0n, 1);
  write(0n, 2);
  expect([first.heard, second.heard, third.heard]).toEqual([['0=1'], [], ['0=1']]);
  track.pageTrackUnregisterNotifier(first);
  expect(vm.references).toBe(2);
});

test('RAM that goes takes what was tracked in it along, and listeners are told once', () => {
  using scope = new Scope();
  const { track, low, slots, write } = world(scope);
  const node = new Node();
  track.pageTrackRegisterNotifier(node);
  track.writeTrackAddGfn(1n);
  track.writeTrackAddGfn(HIGH);
  low[Symbol.dispose]();
  expect([node.heard, track.trackedPages, slots.all.length]).toEqual([[`removed 0+${PAGES}`], 1, 2]);
  track.writeTrackRemoveGfn(1n);
  write(0x1000n, 1);
  expect(node.heard).toHaveLength(1);
});

test('after the VM there is no memory, no listener is called, and no reference is left', () => {
  using scope = new Scope();
  const { track, write, vm } = world(scope);
  const node = new Node();
  track.pageTrackRegisterNotifier(node);
  track.writeTrackAddGfn(1n);
  track[Symbol.dispose]();
  expect(node.heard).toEqual([`removed ${HIGH}+${PAGES}`, `removed 0+${PAGES}`]);
  write(0x1000n, 1);
  expect(node.heard).toHaveLength(2);
  expect(() => track.readGuest(gpa(0n), new Uint8Array(1))).toThrow(/EFAULT/);
  expect(() => track.writeTrackAddGfn(1n)).toThrow(/EINVAL/);
  expect(() => track.pageTrackRegisterNotifier(node)).toThrow(/ESRCH/);
  track.pageTrackUnregisterNotifier(node);
  expect([vm.references, vm.usesAfterFree]).toEqual([1, []]);
});

test('a VM that is being destroyed takes no listener', () => {
  using scope = new Scope();
  const { track, vm } = world(scope);
  vm.put();
  expect(() => track.pageTrackRegisterNotifier(new Node())).toThrow(/ESRCH/);
});
