/** Rings that a test fills in KVM's place: as virt/kvm/dirty_ring.c does. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Mapping } from '../sys/mapping.js';
import { Scope } from '../sys/scope.js';
import { DirtyRings } from './dirty-rings.js';
import { DirtyGfn, KVM_DIRTY_GFN_F_DIRTY, KVM_DIRTY_GFN_F_RESET } from './uapi.js';

const ENTRIES = 8;
/** KVM keeps some for itself: a ring with less room is full. */
const RESERVED = 2;
const PAGES = 24;

/** One vCPU's ring. */
class FakeRing implements Disposable {
  readonly mapping = Mapping.anonymous(ENTRIES * DirtyGfn.size);
  readonly #bytes = this.mapping.view.slice(0, ENTRIES * DirtyGfn.size);
  #dirty = 0;
  #reset = 0;

  get isFull(): boolean {
    return this.#dirty - this.#reset >= ENTRIES - RESERVED;
  }

  push(slot: number, offset: bigint): void {
    if (this.#dirty - this.#reset === ENTRIES) throw new Error('the ring overflows');
    const at = (this.#dirty++ % ENTRIES) * DirtyGfn.size;
    DirtyGfn.write(this.#bytes, { flags: KVM_DIRTY_GFN_F_DIRTY, slot, offset }, at);
  }

  /** Resets what was harvested, in order. */
  reset(protect: (slot: number, offset: bigint) => void): number {
    for (let count = 0; ; count++) {
      const at = (this.#reset % ENTRIES) * DirtyGfn.size;
      const { flags, slot, offset } = DirtyGfn.decode(this.#bytes, at);
      if (this.#reset === this.#dirty || flags !== KVM_DIRTY_GFN_F_RESET) return count;
      protect(slot, offset);
      DirtyGfn.write(this.#bytes, { flags: 0 }, at);
      this.#reset++;
    }
  }

  [Symbol.dispose](): void {
    this.mapping[Symbol.dispose]();
  }
}

/** A VM with rings, and slots whose pages are logged at the first write after they were protected. */
class FakeVm {
  readonly rings: DirtyRings;
  readonly vcpus: readonly FakeRing[];
  readonly #protected = new Map<number, Set<number>>();
  readonly #added: Disposable[];
  resets = 0;

  constructor(scope: Scope, vcpus = 1) {
    this.rings = new DirtyRings(ENTRIES * DirtyGfn.size, () => {
      this.resets++;
      const protect = (slot: number, page: bigint) => this.#protected.get(slot)?.add(Number(page));
      const count = this.vcpus.map((ring) => ring.reset(protect)).reduce((sum, each) => sum + each, 0);
      expect(count).toBeGreaterThan(0);
    });
    this.vcpus = Array.from({ length: vcpus }, () => scope.own(new FakeRing()));
    this.#added = this.vcpus.map(({ mapping }) => scope.own(this.rings.add(mapping.view)));
  }

  setLogged(slot: number, isLogged: boolean): void {
    if (isLogged && !this.#protected.has(slot))
      this.#protected.set(slot, new Set(Array.from({ length: PAGES }, (_, page) => page)));
    if (!isLogged) this.#protected.delete(slot);
    if (isLogged) this.rings.track(slot, new Uint8Array(8));
    else this.rings.untrack(slot);
  }

  /** The guest writes; it exits first if its ring is full. */
  write(vcpu: number, slot: number, page: number): void {
    const ring = this.vcpus[vcpu] as FakeRing;
    if (ring.isFull) this.rings.harvest();
    expect(ring.isFull).toBe(false);
    if (this.#protected.get(slot)?.delete(page)) ring.push(slot, BigInt(page));
  }

  taken(slot: number): readonly number[] | undefined {
    const bitmap = this.rings.take(slot);
    return bitmap && pagesOf(bitmap);
  }

  /** The vCPU is closed. */
  remove(vcpu: number): void {
    this.#added[vcpu]?.[Symbol.dispose]();
  }
}

const pagesOf = (bitmap: Uint8Array): readonly number[] =>
  Array.from({ length: bitmap.length * 8 }, (_, i) => i).filter(
    (i) => ((bitmap[i >> 3] as number) >> (i & 7)) & 1,
  );

test('each page that a vCPU writes is taken once, by its slot', () => {
  using scope = new Scope();
  const vm = new FakeVm(scope, 2);
  vm.setLogged(0, true);
  vm.setLogged(7, true);
  vm.write(0, 0, 5);
  vm.write(1, 0, 23);
  vm.write(1, 7, 0);
  vm.write(0, 3, 1); // does not log
  expect(vm.taken(0)).toEqual([5, 23]);
  expect(vm.taken(7)).toEqual([0]);
  expect([vm.taken(0), vm.taken(7), vm.taken(3)]).toEqual([[], [], undefined]);
  expect(vm.resets).toBe(1);
  vm.write(1, 0, 5);
  expect(vm.taken(0)).toEqual([5]);
});

test('what is harvested from a full ring is in the next log', () => {
  using scope = new Scope();
  const vm = new FakeVm(scope);
  vm.setLogged(0, true);
  for (let page = 0; page < PAGES; page++) vm.write(0, 0, page);
  expect(vm.resets).toBeGreaterThan(1);
  expect(vm.taken(0)).toEqual(Array.from({ length: PAGES }, (_, page) => page));
});

test('an entry of another address space, past its slot or of none changes nothing', () => {
  using scope = new Scope();
  const vm = new FakeVm(scope);
  vm.setLogged(0, true);
  const [ring] = vm.vcpus as [FakeRing];
  for (const [slot, page] of [
    [1 << 16, 1n],
    [0, 64n],
    [0, 1n << 32n],
    [0, (1n << 64n) - 1n],
    [0xffff_ffff, 1n],
  ] as const)
    ring.push(slot, page);
  expect(vm.taken(0)).toEqual([]);
  expect(ring.isFull).toBe(false);
});

test('a slot that takes the number of another has none of its pages', () => {
  using scope = new Scope();
  const vm = new FakeVm(scope);
  vm.setLogged(0, true);
  vm.write(0, 0, 5);
  vm.setLogged(0, false);
  expect(vm.taken(0)).toBeUndefined();
  vm.setLogged(0, true);
  expect(vm.taken(0)).toEqual([]);
  vm.write(0, 0, 6);
  vm.setLogged(0, true); // KVM keeps the log of a slot that logs already
  expect(vm.taken(0)).toEqual([6]);
});

test('the ring of a vCPU that is closed is read no more', () => {
  using scope = new Scope();
  const vm = new FakeVm(scope, 2);
  vm.setLogged(0, true);
  vm.write(0, 0, 1);
  vm.write(1, 0, 2);
  vm.remove(0);
  expect(vm.taken(0)).toEqual([2]);
});

test('whatever vCPUs and slots do, each log has what was written since the one before', () => {
  const step = fc.oneof(
    { weight: 20, arbitrary: fc.tuple(fc.constant('write'), fc.nat(2), fc.nat(1), fc.nat(PAGES - 1)) },
    { weight: 2, arbitrary: fc.tuple(fc.constant('take'), fc.constant(0), fc.nat(1), fc.constant(0)) },
    {
      weight: 1,
      arbitrary: fc.tuple(fc.constant('harvest'), fc.constant(0), fc.constant(0), fc.constant(0)),
    },
    { weight: 1, arbitrary: fc.tuple(fc.constant('log'), fc.nat(1), fc.nat(1), fc.constant(0)) },
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
      using scope = new Scope();
      const vm = new FakeVm(scope, 3);
      const written = new Map<number, Set<number>>();
      for (const [what, first, slot, page] of steps) {
        if (what === 'write') {
          vm.write(first, slot, page);
          written.get(slot)?.add(page);
        } else if (what === 'take') {
          const expected = written.get(slot);
          expect(vm.taken(slot)).toEqual(expected && [...expected].sort((a, b) => a - b));
          expected?.clear();
        } else if (what === 'harvest') vm.rings.harvest();
        else {
          vm.setLogged(slot, first === 1);
          if (first === 0) written.delete(slot);
          else if (!written.has(slot)) written.set(slot, new Set());
        }
      }
    }),
  );
});
