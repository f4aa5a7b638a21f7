import { expect, test } from 'vitest';
import { type Gpa, gpa, hva } from '../../sys/address.js';
import { createSharedMemory } from '../../sys/mapping.js';
import { disposable, Scope } from '../../sys/scope.js';
import type { MemoryListener, MemoryRegion } from '../../vfio/assign/index.js';
import { LOW_RAM_END } from '../layout.js';
import { MemoryMap, type MemorySlotPort, type MemorySlotUse } from './memory-map.js';
import { pcMemory } from './testing.js';

/** KVM's slots as a list. */
class Slots implements MemorySlotPort {
  readonly now: string[] = [];
  add(at: Gpa, _hva: bigint, bytes: bigint, { isReadonly }: MemorySlotUse = {}): Disposable {
    const text = `${at.toString(16)}+${bytes.toString(16)}${isReadonly ? ' read-only' : ''}`;
    this.now.push(text);
    return disposable(() => this.now.splice(this.now.indexOf(text), 1));
  }
}

class Listener implements MemoryListener {
  readonly now: string[] = [];
  refuse: string | undefined;
  added({ name }: MemoryRegion): void {
    if (name === this.refuse) throw new Error(`no room for ${name}`);
    this.now.push(name);
  }
  removed({ name }: MemoryRegion): void {
    this.now.splice(this.now.indexOf(name), 1);
  }
}

test('RAM is one slot up to the hole below 4 GiB, and goes on above it', () => {
  const slots = new Slots();
  using scope = new Scope();
  const memory = pcMemory(scope, LOW_RAM_END + 0x10_0000n, slots);
  expect(slots.now).toEqual(['0+c0000000', '100000000+100000']);
  const [low, high] = memory.regions;
  expect(high?.hva).toBe((low?.hva ?? 0n) + LOW_RAM_END);
});

test('what is written to guest RAM is read back, and outside of it nothing can be', () => {
  using scope = new Scope();
  const memory = pcMemory(scope, 0x10_0000n, new Slots());
  memory.ram(0x1000n, 4).set([1, 2, 3, 4]);
  expect([...memory.ram(0x1002n, 2)]).toEqual([3, 4]);
  expect(() => memory.ram(0xfffffn, 2)).toThrowError(RangeError);
  expect(() => memory.ram(LOW_RAM_END, 1)).toThrowError(RangeError);
  expect(memory.ram(0x1000n, 0)).toHaveLength(0);
});

test('views for a few accesses and for many are of the same bytes, above the hole, too', () => {
  using scope = new Scope();
  const memory = pcMemory(scope, LOW_RAM_END + 0x10_0000n, new Slots());
  for (const at of [0x1000n, 0x1_0000_1000n]) {
    memory.ram(at, 4).set([1, 2, 3, Number(at >> 32n)]);
    expect([...(memory.ramAt(at, 4) ?? [])]).toEqual([1, 2, 3, Number(at >> 32n)]);
    memory.ramAt(at, 1)?.set([9]);
    expect(memory.ram(at, 1)[0]).toBe(9);
    const blocks = new Set(Array.from({ length: 200 }, () => memory.ram(at, 4).buffer));
    expect([...memory.ram(at, 4)]).toEqual([9, 2, 3, Number(at >> 32n)]);
    expect(blocks.size).toBeLessThan(100); // else each would cost as much as a load of the guest
  }
});

test('a listener is told of what is there, of each change, and at its end of the loss of all', () => {
  using scope = new Scope();
  using bar = createSharedMemory('bar', 4096);
  const memory = pcMemory(scope, 0x10_0000n, new Slots());
  const listener = new Listener();
  const listening = memory.listen(listener);
  expect(listener.now).toEqual(['ram']);
  const shown = memory.map(gpa(0xc000_0000n), bar.mapping.hva, 4096n, 'BAR2');
  expect(listener.now).toEqual(['ram', 'BAR2']);
  shown[Symbol.dispose]();
  expect(listener.now).toEqual(['ram']);
  listening[Symbol.dispose]();
  expect(listener.now).toEqual([]);
});

test('a listener that takes all at once is told so of what is there, and has none of it if it throws', () => {
  using scope = new Scope();
  using bar = createSharedMemory('bar', 4096);
  const memory = pcMemory(scope, LOW_RAM_END + 0x10_0000n, new Slots());
  const told: string[] = [];
  let refuses = true;
  const listener: MemoryListener = {
    added: ({ name }) => void told.push(`added ${name}`),
    addedAll: (regions) => {
      if (refuses) throw new Error('no');
      told.push(`all ${regions.map(({ name }) => name).join(' ')}`);
    },
    removed: ({ name }) => void told.push(`removed ${name}`),
  };
  expect(() => memory.listen(listener)).toThrowError('no');
  expect(told).toEqual([]);
  refuses = false;
  const listening = memory.listen(listener);
  const shown = memory.map(gpa(0xd000_0000n), bar.mapping.hva, 4096n, 'BAR2');
  listening[Symbol.dispose]();
  shown[Symbol.dispose]();
  const high = 'ram above 4 GiB';
  expect(told).toEqual([`all ram ${high}`, 'added BAR2', 'removed BAR2', `removed ${high}`, 'removed ram']);
});

test('memory that the guest may only read is a slot of its own, which no listener maps for DMA', () => {
  const slots = new Slots();
  using scope = new Scope();
  const memory = pcMemory(scope, 0x10_0000n, slots);
  const listener = new Listener();
  scope.own(memory.listen(listener));
  {
    using _rom = memory.mapReadonly(gpa(0xe000_0000n), hva(0x7000_0000n), 0x1_0000n);
    expect(slots.now).toEqual(['0+100000', 'e0000000+10000 read-only']);
    expect(listener.now).toEqual(['ram']);
  }
  expect(slots.now).toEqual(['0+100000']);
});

test('a region that a listener refuses is not there for anyone', () => {
  const slots = new Slots();
  using memory = new MemoryMap(slots);
  using bar = createSharedMemory('bar', 4096);
  const [content, refusing] = [new Listener(), new Listener()];
  refusing.refuse = 'BAR2';
  using _first = memory.listen(content);
  using _second = memory.listen(refusing);
  expect(() => memory.map(gpa(0n), bar.mapping.hva, 4096n, 'BAR2')).toThrowError(/no room for BAR2/);
  expect([content.now, refusing.now, slots.now, memory.regions]).toEqual([[], [], [], []]);
});

test('a listener that refuses what is there already is told to forget the rest', () => {
  using scope = new Scope();
  const memory = pcMemory(scope, LOW_RAM_END + 0x1000n, new Slots());
  const listener = new Listener();
  listener.refuse = 'ram above 4 GiB';
  expect(() => memory.listen(listener)).toThrowError(/no room/);
  expect(listener.now).toEqual([]);
});

test('a region that is older than its listeners is reported removed before its slot is, even if one of them fails', () => {
  const slots = new Slots();
  using memory = new MemoryMap(slots);
  using bar = createSharedMemory('bar', 4096);
  const shown = memory.map(gpa(0n), bar.mapping.hva, 4096n, 'BAR2');
  const slotsThen: string[][] = [];
  const failing: MemoryListener = {
    added() {},
    removed() {
      slotsThen.push([...slots.now]);
      throw new Error('cannot unmap');
    },
  };
  const listener = new Listener();
  using _first = memory.listen(listener);
  using _second = memory.listen(failing);
  expect(listener.now).toEqual(['BAR2']);
  expect(() => shown[Symbol.dispose]()).toThrowError(/cannot unmap/);
  expect(slotsThen).toEqual([['0+1000']]);
  expect([listener.now, slots.now, memory.regions]).toEqual([[], [], []]);
});

test('RAM that reaches past either end of its mapping is refused: the guest would own other memory of the process', () => {
  using memory = new MemoryMap(new Slots());
  using bar = createSharedMemory('ram', 8192);
  for (const part of [{ bytes: 12_288n }, { offset: 4096n, bytes: 8192n }, { offset: -4096n }])
    expect(() => memory.addRam(gpa(0n), bar.mapping, part)).toThrowError(RangeError);
  memory.addRam(gpa(0n), bar.mapping, { offset: 4096n, bytes: 4096n });
  expect(memory.regions.map(({ bytes }) => bytes)).toEqual([4096n]);
});
