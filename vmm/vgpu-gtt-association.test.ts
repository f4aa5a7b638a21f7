/**
 * The behaviours of the association (docs/behaviours.md, C1 to C18) once more, as far as a vendor driver sees them, with
 * one for which a wrong pointer has consequences: vgpu-gtt tracks pages of the VM, and reads its picture there.
 */
import { expect, test } from 'vitest';
import * as gtt from '../devices/vgpu-gtt/spec.js';
import type { KvmGuest } from '../sys/kvm-guest.js';
import { overlay } from '../sys/overlay.js';
import { Scope } from '../sys/scope.js';
import type { Steps } from '../vfio/core/steps.js';
import { everyInterleaving, Scheduler, ScriptedVm } from '../vfio/testing/index.js';
import { GttCard, valid } from './testing/gtt-card.js';
import { ENTRIES, TABLE, TrackedGuest } from './testing/tracked-guest.js';

/** A guest that counts how often a listener comes and goes. */
function counted(scope: Scope, name: string) {
  const seen = { come: 0, gone: 0 };
  const wrap = (guest: KvmGuest): KvmGuest =>
    overlay(guest, {
      pageTrackRegisterNotifier: (node: Parameters<KvmGuest['pageTrackRegisterNotifier']>[0]) => {
        guest.pageTrackRegisterNotifier(node);
        seen.come++;
      },
      pageTrackUnregisterNotifier: (node: Parameters<KvmGuest['pageTrackUnregisterNotifier']>[0]) => {
        guest.pageTrackUnregisterNotifier(node);
        seen.gone++;
      },
    });
  return { guest: new TrackedGuest(scope, name, wrap), seen };
}

/** Whether the card follows this guest's table, and shows what lies in its memory. */
function shows({ guest }: ReturnType<typeof counted>, card: GttCard): boolean {
  card.useTable(TABLE, ENTRIES);
  if ((card.get(gtt.REG_STATUS) & gtt.STATUS_READY) === 0) return false;
  const before = card.get(gtt.REG_UPDATES);
  guest.writeEntry(0, valid(3));
  if (card.get(gtt.REG_UPDATES) === before) return false;
  guest.ram.fill(0x5a, 3 * 4096, 4 * 4096);
  card.show(0, 4, 1);
  return card.picture()?.every((byte) => byte === 0x5a) ?? false;
}

/** Nothing of it is used by any card. */
function expectUnused({ guest, seen }: ReturnType<typeof counted>): void {
  expect([guest.track.trackedPages, guest.slots.all.length, guest.vm.usesAfterFree]).toEqual([0, 1, []]);
  expect(seen.gone).toBe(seen.come);
}

test('C1, C2, C11 a VM that was set before the open is the card’s when its open returns, once', () => {
  using scope = new Scope();
  const one = counted(scope, 'one');
  using card = new GttCard();
  card.setKvm(one.guest.vm);
  expect([one.seen.come, one.guest.vm.references]).toEqual([0, 1]);
  card.open();
  expect(one.seen.come).toBe(1);
  expect(card.get(gtt.REG_STATUS)).toBe(0);
  expect(shows(one, card)).toBe(true);
});

test('C3 another listener of the group that registers later changes nothing for the card', () => {
  using scope = new Scope();
  const one = counted(scope, 'one');
  using card = new GttCard();
  card.setKvm(one.guest.vm);
  card.open();
  card.useTable(TABLE, ENTRIES);
  one.guest.writeEntry(0, valid(1));
  const { core } = card.world;
  const other = { name: 'other', call: () => {} };
  core.run(card.device.group.registerNotifier({ mask: 1 }, other));
  expect([one.seen.come, one.seen.gone, card.get(gtt.REG_UPDATES)]).toEqual([1, 0, 1]);
  core.run(card.device.group.unregisterNotifier(other));
});

test('C4, C11 a VM that is set while the card is open reaches it by the event, once', () => {
  using scope = new Scope();
  const one = counted(scope, 'one');
  using card = new GttCard();
  card.open();
  expect(card.get(gtt.REG_STATUS)).toBe(gtt.STATUS_NO_KVM);
  card.setKvm(one.guest.vm);
  expect(card.device.kvm).toBeUndefined();
  expect([one.seen.come, shows(one, card)]).toEqual([1, true]);
});

test('C5 a card that is opened after SET_KVM(null) has no VM, and one that was open lets go', () => {
  using scope = new Scope();
  const one = counted(scope, 'one');
  using card = new GttCard();
  card.setKvm(one.guest.vm);
  const early = card.open();
  expect(shows(one, card)).toBe(true);
  card.setKvm(null);
  expect(card.picture()).toBeUndefined();
  expectUnused(one);
  early[Symbol.dispose]();
  card.open();
  expect([card.get(gtt.REG_STATUS), one.seen.come]).toEqual([gtt.STATUS_NO_KVM, 1]);
});

test('C6 from one VM to another: a card that opens late sees only the second, an open one both in turn', () => {
  using scope = new Scope();
  const [one, two] = [counted(scope, 'one'), counted(scope, 'two')] as const;
  using card = new GttCard();
  const move = () => {
    card.setKvm(one.guest.vm);
    card.setKvm(null);
    card.setKvm(two.guest.vm);
  };
  move();
  const late = card.open();
  expect([one.seen.come, two.seen.come, shows(two, card)]).toEqual([0, 1, true]);
  one.guest.writeEntry(0, valid(9));
  expect(card.get(gtt.REG_UPDATES)).toBe(1);
  move();
  expect([one.seen.come, one.seen.gone, two.seen.come, two.seen.gone]).toEqual([1, 1, 2, 1]);
  expect(shows(two, card)).toBe(true);
  late[Symbol.dispose]();
  for (const each of [one, two]) expectUnused(each);
});

test('C10 opens and closes leave neither a reference nor a tracked page between them', () => {
  using scope = new Scope();
  const one = counted(scope, 'one');
  using card = new GttCard();
  card.setKvm(one.guest.vm);
  for (let i = 1; i <= 3; i++) {
    const file = card.open();
    expect(shows(one, card)).toBe(true);
    file[Symbol.dispose]();
    expect([one.guest.vm.references, one.seen.come]).toEqual([1, i]);
    expectUnused(one);
  }
});

test.each(['kvm-vfio', 'VM'] as const)(
  'C13 the end of the %s takes the VM from every card, once each',
  (end) => {
    using scope = new Scope();
    const one = counted(scope, 'one');
    using first = new GttCard();
    using second = new GttCard();
    const cards = [first, second];
    const kvmVfios = cards.map((card) => {
      const vm = card === first ? one.guest.vm : new ScriptedVm('other');
      return { vm, kvmVfio: vm.createKvmVfio(card.world.core.vfioFileOps), card };
    });
    for (const card of cards) card.open(); // before the association: a device opened with a VM would keep the VM
    for (const { kvmVfio, card } of kvmVfios) kvmVfio.addFile(card.contained.group);
    expect(shows(one, first)).toBe(true);
    if (end === 'kvm-vfio') kvmVfios[0]?.kvmVfio[Symbol.dispose]();
    else one.guest.end();
    expect([first.picture(), first.get(gtt.REG_STATUS) & gtt.STATUS_NO_KVM]).toEqual([
      undefined,
      gtt.STATUS_NO_KVM,
    ]);
    expectUnused(one);
    for (const { kvmVfio } of kvmVfios.slice(1)) kvmVfio[Symbol.dispose]();
  },
);

test('C16 in every interleaving of an open with a DEL that is the VM’s end, the card never uses a VM that is gone', () => {
  const runs = everyInterleaving(() => {
    const scope = new Scope();
    const one = counted(scope, 'one');
    const card = new GttCard();
    const { group } = card.contained;
    card.setKvm(one.guest.vm);
    const scheduler = new Scheduler(card.world.core.environment.executor);
    scheduler.spawn(
      'open',
      (function* (): Steps<void> {
        const file = yield* group.getDeviceFdSteps(card.device.name);
        yield 'open';
        card.useTable(TABLE, ENTRIES);
        yield 'in use';
        yield* file.closeSteps();
      })(),
    );
    scheduler.spawn(
      'DEL',
      (function* (): Steps<void> {
        yield* group.setKvmSteps(null);
        one.guest.track[Symbol.dispose]();
        one.guest.vm.put();
      })(),
    );
    return {
      scheduler,
      check() {
        expect(one.guest.vm.usesAfterFree).toEqual([]);
        expect(one.guest.vm.isFreed).toBe(true);
        expectUnused(one);
        card[Symbol.dispose]();
        scope[Symbol.dispose]();
      },
    };
  });
  expect(runs).toBeGreaterThan(10);
});

test('C17 if the card has the last reference, the VM ends when the card is closed, and may say so to the card’s own group', () => {
  using scope = new Scope();
  const one = counted(scope, 'one');
  using card = new GttCard();
  const { vm } = one.guest;
  vm.createKvmVfio(card.world.core.vfioFileOps).addFile(card.contained.group);
  const file = card.open();
  expect(shows(one, card)).toBe(true);
  vm.put();
  expect(vm.isFreed).toBe(false);
  file[Symbol.dispose]();
  expect(vm.isFreed).toBe(true);
  expectUnused(one);
});

test('C18 a card that is closed leaves no listener on its group', () => {
  using scope = new Scope();
  const one = counted(scope, 'one');
  using card = new GttCard();
  card.setKvm(one.guest.vm);
  card.open()[Symbol.dispose]();
  expect(card.device.group.notifier.blocks).toEqual([]);
  expect(card.world.takeWarnings()).toEqual([]);
});
