import { expect, test } from 'vitest';
import { gpa, hva } from '../sys/address.js';
import { type MemoryEvent, trace } from '../sys/trace.js';
import { MemorySlots } from './memory-slots.js';
import type { Vm } from './vm.js';

const AT = gpa(0x1_0000n);
const FROM = hva(0x7000_0000n);

function slots() {
  const calls: unknown[] = [];
  const state = { isOpen: true, isFailing: false };
  const vm = {
    fd: state,
    setUserMemoryRegion({ slot, flags, bytes }: { slot: number; flags: number; bytes: bigint }) {
      if (state.isFailing) throw new RangeError('it fails');
      calls.push([slot, flags, bytes]);
    },
  };
  return { calls, state, memory: new MemorySlots(vm as unknown as Vm) };
}

test.each([
  { options: {}, flags: 0 },
  { options: { isReadonly: true }, flags: 2 },
  { options: { isLogged: true }, flags: 1 },
  { options: { isReadonly: true, isLogged: true }, flags: 3 },
])('with $options, a slot has the flags $flags, and its log is turned on and off', ({ options, flags }) => {
  const { memory, calls } = slots();
  const slot = memory.add(AT, FROM, 0x2000n, options);
  expect(slot).toMatchObject({ slot: 0, gpa: AT, hva: FROM, bytes: 0x2000n, isReadonly: flags >= 2 });
  slot.setLogged(true);
  slot.setLogged(false);
  slot[Symbol.dispose]();
  slot[Symbol.dispose]();
  expect(() => slot.setLogged(true)).toThrow(/^slot 0 was removed$/);
  const readonly = flags & 2;
  expect(calls).toEqual([
    [0, flags, 0x2000n],
    [0, readonly | 1, 0x2000n],
    [0, readonly, 0x2000n],
    [0, readonly, 0n],
  ]);
});

test('a slot has the lowest number that is free, and one that KVM refuses takes none', () => {
  const { memory, state } = slots();
  const add = () => memory.add(AT, FROM, 0x1000n);
  const made = [add(), add(), add()];
  expect(made.map(({ slot }) => slot)).toEqual([0, 1, 2]);
  made[1]?.[Symbol.dispose]();
  state.isFailing = true;
  expect(add).toThrow('it fails');
  state.isFailing = false;
  expect(memory.count).toBe(2);
  expect([add().slot, add().slot, memory.count]).toEqual([1, 3, 4]);
});

test('after the VM is closed, a slot ends without a call', () => {
  const { memory, calls, state } = slots();
  const slot = memory.add(AT, FROM, 0x1000n);
  state.isOpen = false;
  slot[Symbol.dispose]();
  expect([calls.length, memory.count]).toEqual([1, 0]);
});

test('slots that come and go are published with their place', () => {
  const events: MemoryEvent[] = [];
  const listener = (event: MemoryEvent): void => void events.push(event);
  trace.memory.subscribe(listener);
  const { memory } = slots();
  memory.add(AT, FROM, 0x2000n)[Symbol.dispose]();
  trace.memory.unsubscribe(listener);
  const rest = { name: 'slot 0', gpa: AT, hva: FROM, bytes: 0x2000n };
  expect(events).toMatchObject([
    { what: 'slot added', ...rest },
    { what: 'slot removed', ...rest },
  ]);
});
