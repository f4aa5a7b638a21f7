/** The vendor driver vgpu-gtt in a core, over the tracking of pages that real KVM gets, with KVM's slots by rule. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import * as gtt from '../devices/vgpu-gtt/spec.js';
import { PAGE_SIZE } from '../sys/address.js';
import type { KvmGuest, KvmPageTrackNotifierNode } from '../sys/kvm-guest.js';
import { Scope } from '../sys/scope.js';
import type { CoreDeviceFile } from '../vfio/core/device-file.js';
import { Mutex } from '../vfio/core/locks.js';
import type { Steps } from '../vfio/core/steps.js';
import { DRM_FORMAT_RGB565, DRM_FORMAT_XRGB8888 } from '../vfio/drm.js';
import { Scheduler, ScriptedVm } from '../vfio/testing/index.js';
import { GttCard, valid } from './testing/gtt-card.js';
import { ENTRIES, RAM, RAM_PAGES, TABLE, TrackedGuest } from './testing/tracked-guest.js';

const PAGE = Number(PAGE_SIZE);
const FLIPS = Number(process.env.TSVISOR_FLIPS ?? 1000);
const INTERLEAVINGS = Number(process.env.TSVISOR_HISTORIES ?? 300);

test(`over ${FLIPS} page flips with random updates of the table, every picture is the one that the guest has in memory`, () => {
  using scope = new Scope();
  const guest = new TrackedGuest(scope);
  using card = new GttCard();
  card.setKvm(guest.vm);
  card.open();
  const seed = Number(process.env.TSVISOR_SEED ?? Date.now() % 2 ** 31);
  let state = seed;
  const below = (end: number): number => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return Math.floor((state / 2 ** 32) * end);
  };
  for (let at = 0; at < 32 * PAGE; at += 4)
    new DataView(guest.ram.buffer, guest.ram.byteOffset).setUint32(at, at * 2654435761);
  const model = new Map<number, bigint>();
  card.useTable(TABLE, ENTRIES);
  expect(card.get(gtt.REG_STATUS), `seed ${seed}`).toBe(gtt.STATUS_READY);
  for (let flip = 1; flip <= FLIPS; flip++) {
    for (let updates = below(6); updates > 0; updates--) {
      const index = below(ENTRIES);
      const entry =
        below(4) === 0 ? 0n : valid(below(4) === 0 ? RAM_PAGES + below(1 << 20) : below(RAM_PAGES));
      guest.writeEntry(index, entry);
      model.set(index, entry);
    }
    const [width, height] = [1 + below(400), 1 + below(40)];
    const stride = 4 * width + 4 * below(8);
    const base = 4 * below((ENTRIES * PAGE - height * stride) / 4);
    card.show(base, width, height, DRM_FORMAT_XRGB8888, stride);
    const wanted = new Uint8Array((height - 1) * stride + 4 * width);
    for (let i = 0; i < wanted.length; i++) {
      const entry = model.get(Math.floor((base + i) / PAGE)) ?? 0n;
      const page = Number(entry & gtt.ENTRY_ADDRESS);
      if (entry !== 0n && page < RAM) wanted[i] = guest.ram[page + ((base + i) % PAGE)] as number;
    }
    const shown = card.picture();
    expect(shown !== undefined && Buffer.compare(shown, wanted) === 0, `flip ${flip} of seed ${seed}`).toBe(
      true,
    );
    expect([card.get(gtt.REG_FLIP), card.get(gtt.REG_SHOWN)]).toEqual([flip, base]);
    const bad = [...model.values()].filter((entry) => Number(entry & gtt.ENTRY_ADDRESS) >= RAM).length;
    expect(card.get(gtt.REG_BAD_ENTRIES)).toBe(bad);
  }
});

test('an entry that is written in parts counts once it is whole, and only the table’s pages exit', () => {
  using scope = new Scope();
  const guest = new TrackedGuest(scope);
  using card = new GttCard();
  card.setKvm(guest.vm);
  card.open();
  card.useTable(TABLE, ENTRIES);
  expect(guest.slots.all.map(({ isReadonly }) => isReadonly)).toEqual([false, true, false]);
  guest.ram.fill(7, 3 * PAGE, 4 * PAGE);
  const bytes = new Uint8Array(new BigUint64Array([valid(3)]).buffer);
  for (const [i, byte] of bytes.entries()) guest.write(TABLE + i, Uint8Array.of(byte));
  card.show(0, 8, 1);
  expect(card.picture()).toEqual(new Uint8Array(32).fill(7));
  expect(card.get(gtt.REG_UPDATES)).toBe(8);
  guest.write(TABLE - 8, bytes); // RAM like any other
  guest.write(TABLE + 8 * ENTRIES, bytes); // the table's last page, after the table
  expect(card.get(gtt.REG_UPDATES)).toBe(8);
  card.set(gtt.REG_CONTROL, 0);
  expect(guest.slots.all).toHaveLength(1);
  expect(card.picture()).toBeUndefined();
});

test.each([
  ['beyond RAM', RAM, 1],
  ['half beyond RAM', RAM - PAGE, 1024],
  ['far beyond it', 2 ** 40, 1],
  ['at the end of the address space', 2 ** 64 - PAGE, 1],
  ['of no entries', TABLE, 0],
  ['of too many', 0, gtt.MOST_ENTRIES + 1],
  ['not of whole pages', TABLE + 8, 1],
])('a table %s is refused by a bit, and nothing is tracked', (_what, base, entries) => {
  using scope = new Scope();
  const guest = new TrackedGuest(scope);
  using card = new GttCard();
  card.setKvm(guest.vm);
  card.open();
  card.useTable(base, entries);
  card.show(0, 1, 1);
  expect(card.get(gtt.REG_STATUS)).toBe(gtt.STATUS_BAD_TABLE | gtt.STATUS_BAD_PICTURE);
  expect([card.picture(), guest.track.trackedPages]).toEqual([undefined, 0]);
});

test('a picture can have the table within it, and changes as the table does', () => {
  using scope = new Scope();
  const guest = new TrackedGuest(scope);
  using card = new GttCard();
  card.setKvm(guest.vm);
  card.open();
  guest.writeEntry(0, valid(TABLE / PAGE));
  card.useTable(TABLE, ENTRIES);
  card.show(0, 4, 1);
  guest.writeEntry(1, 0x1234_5678_9abc_0000n);
  expect(card.picture()).toEqual(guest.ram.slice(TABLE, TABLE + 16));
});

test('whatever the registers and the table get, nothing throws, and what is shown lies in graphics memory', () => {
  const number = fc.oneof(
    fc.nat(0xffff_ffff),
    fc.constantFrom(0, 1, 3, TABLE, 0xffff_ffff, DRM_FORMAT_RGB565, DRM_FORMAT_XRGB8888),
  );
  const step = fc.tuple(fc.boolean(), fc.nat(0x13), number, fc.constantFrom(1, 2, 4, 8));
  using scope = new Scope();
  const guest = new TrackedGuest(scope);
  using card = new GttCard();
  card.setKvm(guest.vm);
  card.open();
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      for (const [isRegister, at, value, width] of steps) {
        const data = new Uint8Array(new Uint32Array([value, value]).buffer, 0, width);
        if (isRegister) card.ops.write(gtt.REGISTER_BAR, 4 * at, data);
        else guest.write(TABLE + 8 * at, data);
        const { plane } = card.ops;
        if (plane === undefined) continue;
        const line = plane.width * (plane.drmFormat === DRM_FORMAT_RGB565 ? 2 : 4);
        expect(plane.offset + (plane.height - 1) * plane.stride + line).toBeLessThanOrEqual(
          gtt.MOST_ENTRIES * PAGE,
        );
      }
      card.set(gtt.REG_CONTROL, 0);
      expect(guest.slots.all).toHaveLength(1);
    }),
  );
});

test('without a VM whose memory is offered, the card says so, and takes no table', () => {
  using card = new GttCard();
  card.setKvm(new ScriptedVm());
  card.open();
  card.useTable(TABLE, ENTRIES);
  card.show(0, 1, 1);
  expect(card.get(gtt.REG_STATUS)).toBe(gtt.STATUS_NO_KVM | gtt.STATUS_BAD_PICTURE);
  expect(card.picture()).toBeUndefined();
});

test('a group that moves to another VM while the table is tracked takes the card along: the old VM has no listener, reference or read-only slot', () => {
  using scope = new Scope();
  const [one, other] = [new TrackedGuest(scope, 'one'), new TrackedGuest(scope, 'other')];
  using card = new GttCard();
  card.setKvm(one.vm);
  const file = card.open();
  card.useTable(TABLE, ENTRIES);
  one.writeEntry(0, valid(1));
  expect([one.track.trackedPages, card.get(gtt.REG_UPDATES)]).toEqual([2, 1]);
  card.setKvm(null);
  expect([one.track.trackedPages, one.slots.all.length, card.get(gtt.REG_STATUS)]).toEqual([
    0,
    1,
    gtt.STATUS_NO_KVM,
  ]);
  one.writeEntry(1, valid(1));
  other.ram.fill(5, 2 * PAGE, 3 * PAGE);
  card.setKvm(other.vm);
  one.writeEntry(1, valid(1));
  other.writeEntry(0, valid(2));
  card.show(0, 1, 1);
  expect([card.get(gtt.REG_UPDATES), card.picture()]).toEqual([2, new Uint8Array(4).fill(5)]);
  file[Symbol.dispose]();
  expect([one, other].map(({ vm, track }) => [vm.references, track.trackedPages])).toEqual([
    [1, 0],
    [1, 0],
  ]);
});

test('a VM that ends while the table is tracked leaves a card that shows nothing and calls nobody', () => {
  using scope = new Scope();
  const guest = new TrackedGuest(scope);
  using card = new GttCard();
  card.setKvm(guest.vm);
  card.open();
  card.useTable(TABLE, ENTRIES);
  guest.writeEntry(0, valid(1));
  card.show(0, 1, 1);
  guest.end();
  guest.writeEntry(0, valid(2));
  expect([card.picture(), card.get(gtt.REG_UPDATES), guest.slots.all.length]).toEqual([undefined, 1, 1]);
  card.useTable(TABLE, ENTRIES);
  expect(card.get(gtt.REG_STATUS) & gtt.STATUS_READY).toBe(0);
  expect(guest.vm.usesAfterFree).toEqual([]);
});

test(`in ${INTERLEAVINGS} interleavings of opens, associations, writes and ends of VMs, no VM calls a card that it is not, or no longer, associated with`, () => {
  const actions = ['use', 'one', 'other', 'none', 'write', 'end'] as const;
  fc.assert(
    fc.property(
      fc.array(fc.array(fc.constantFrom(...actions), { minLength: 1, maxLength: 4 }), {
        minLength: 2,
        maxLength: 4,
      }),
      fc.infiniteStream(fc.nat(11)),
      (tasks, choices) => {
        using scope = new Scope();
        const late: string[] = [];
        const ended = new Set<ScriptedVm>();
        /** The VM of the group; while that changes, the old one and the new one. */
        let told = new Set<ScriptedVm | null>();
        /** By a card's node: the one that the VM which it listens to now knows. */
        const watching = new Map<KvmPageTrackNotifierNode, KvmPageTrackNotifierNode>();
        const watched = (guest: KvmGuest, vm: ScriptedVm): KvmGuest => ({
          readGuest: (at, data) => guest.readGuest(at, data),
          writeGuest: (at, data) => guest.writeGuest(at, data),
          isVisibleGfn: (gfn) => guest.isVisibleGfn(gfn),
          writeTrackAddGfn(gfn, pages) {
            if (ended.has(vm)) late.push(`${vm.name}: tracked after its end`);
            guest.writeTrackAddGfn(gfn, pages);
          },
          writeTrackRemoveGfn: (gfn, pages) => guest.writeTrackRemoveGfn(gfn, pages),
          pageTrackUnregisterNotifier(node) {
            const mine = watching.get(node);
            if (mine !== undefined) guest.pageTrackUnregisterNotifier(mine);
          },
          pageTrackRegisterNotifier(node) {
            const mine: KvmPageTrackNotifierNode = {
              name: node.name,
              trackWrite(at, data) {
                if (ended.has(vm) || !told.has(vm)) late.push(`${vm.name}: a late callback`);
                node.trackWrite(at, data);
              },
              trackRemoveRegion: (gfn, pages) => node.trackRemoveRegion(gfn, pages),
            };
            guest.pageTrackRegisterNotifier(mine);
            watching.set(node, mine);
          },
        });
        const guests = [
          new TrackedGuest(scope, 'one', watched),
          new TrackedGuest(scope, 'other', watched),
        ] as const;
        using card = new GttCard();
        const { group } = card.contained;
        const scheduler = new Scheduler(card.world.core.environment.executor);
        /** As kvm->lock around kvm-vfio: a VM does not end while a file is being added to it. */
        const kvmVfio = new Mutex(card.world.core.environment, 'kvm-vfio', 'test');
        const setKvm = function* (kvm: ScriptedVm | null): Steps<void> {
          told.add(kvm);
          yield* group.setKvmSteps(kvm);
          told = new Set([kvm]);
        };
        const associate = function* (kvm: ScriptedVm | null): Steps<void> {
          using _held = yield* kvmVfio.acquire();
          if (kvm === null || !ended.has(kvm)) yield* setKvm(kvm);
        };
        const take = {
          *use(): Steps<void> {
            const file: CoreDeviceFile = yield* group.getDeviceFdSteps(card.device.name);
            yield 'open';
            card.useTable(TABLE, ENTRIES);
            yield 'in use';
            yield* file.closeSteps();
          },
          one: () => associate(guests[0].vm),
          other: () => associate(guests[1].vm),
          none: () => associate(null),
          *write(): Steps<void> {
            for (const guest of guests) {
              guest.writeEntry(3, valid(3));
              yield 'written';
            }
          },
          *end(): Steps<void> {
            const [guest] = guests;
            using _held = yield* kvmVfio.acquire();
            if (told.has(guest.vm)) yield* setKvm(null); // as kvm-vfio does
            ended.add(guest.vm);
            guest.track[Symbol.dispose]();
          },
        };
        for (const [of, list] of tasks.entries())
          scheduler.spawn(
            `task ${of}`,
            (function* (): Steps<void> {
              for (const action of list) yield* take[action]();
            })(),
          );
        const spawned = scheduler.tasks;
        scheduler.runAll(
          (runnable) => runnable[(choices.next().value ?? 0) % runnable.length] ?? (runnable[0] as never),
        );
        for (const { error } of spawned) if (error !== undefined) throw error;
        card.setKvm(null);
        expect(late).toEqual([]);
        for (const { vm, track, slots } of guests) {
          expect([vm.references, vm.usesAfterFree, track.trackedPages]).toEqual([1, [], 0]);
          expect(slots.all).toHaveLength(1);
        }
      },
    ),
    { numRuns: INTERLEAVINGS },
  );
}, 120_000);
