import { afterEach, beforeEach, expect, test } from 'vitest';
import { drainEventfd } from '../../sys/eventfd.js';
import { Fd } from '../../sys/fd.js';
import { InlineEventThread } from '../../sys/inline-event-thread.js';
import { Scope } from '../../sys/scope.js';
import type { VfioDeviceOps } from '../../vfio/driver.js';
import {
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_PCI_MSIX_IRQ_INDEX,
  VFIO_REGION_INFO_FLAG_MMAP,
} from '../../vfio/uapi.js';
import { start as startCard } from '../testcard/card-task.js';
import { createTestCardDriver } from '../testcard/driver.js';
import { GuestMemory, maps } from '../virtio-net/testing/guest.js';
import { type HostileInstance, hostileByOption, hostileDriver } from './hostile-driver.js';
import { start } from './interrupt-task.js';
import { MOST_LOGGED, type Mutation } from './mutation-log.js';
import type { HostileOptions } from './options.js';

const CARD = new URL('test:card-task');
const TASK = new URL('test:interrupt-task');
const UUID = 'f1d2c0de-0000-4000-8000-000000000004';
const CONFIG = VFIO_PCI_CONFIG_REGION_INDEX;
const [COMMAND, SCRATCH, RAISE] = [4, 4, 8];
const [DMA_TARGET, DMA_LENGTH, DMA_VALUE, DMA_COMMAND, DMA_STATUS] = [0x28, 0x30, 0x34, 0x38, 0x3c];
const FILL = 2;

let scope: Scope;
let memory: GuestMemory;
let thread: InlineEventThread;
beforeEach(() => {
  scope = new Scope();
  thread = scope.own(
    new InlineEventThread(
      new Map([
        [CARD.href, startCard],
        [TASK.href, start],
      ]),
    ),
  );
  memory = scope.own(new GuestMemory());
});
afterEach(() => scope[Symbol.dispose]());

function put(ops: VfioDeviceOps, region: number, offset: number, value: number): void {
  try {
    ops.write(region, offset, new Uint8Array(new Uint32Array([value]).buffer));
  } catch {
    // a call that fails
  }
}
function get(ops: VfioDeviceOps, region: number, offset: number): number | string {
  const data = new Uint8Array(4);
  try {
    ops.read(region, offset, data);
  } catch (error) {
    return (error as Error).message.split('\n')[0] as string;
  }
  return new DataView(data.buffer).getUint32(0, true);
}

/** A card that is open and, unless that is left out, in use. */
function card(options: HostileOptions, isUsed = true): HostileInstance {
  const driver = hostileDriver(createTestCardDriver(CARD), options, TASK);
  const [type] = driver.types;
  const instance = scope.own(driver.create(type as never, UUID, {}, { eventThread: thread }));
  instance.ops.openDevice(memory.open);
  scope.defer(() => instance.ops.closeDevice());
  if (isUsed) put(instance.ops, CONFIG, COMMAND, 6);
  return instance;
}

/** What a guest sees that writes and reads a register. */
function session({ ops }: HostileInstance, rounds = 200): (number | string)[] {
  return Array.from({ length: rounds }, (_, i) => {
    put(ops, 0, SCRATCH, i * 0x0101_0101);
    return get(ops, 0, SCRATCH);
  });
}
const labels = (mutations: readonly Mutation[]): string[] => mutations.map(({ label }) => label);

test('the same seed does the same to the same guest, and another seed something else', () => {
  const [one, two, other] = [1, 1, 2].map((seed) => card({ seed, rate: 0.1 })) as [
    HostileInstance,
    HostileInstance,
    HostileInstance,
  ];
  const seen = session(one);
  expect(session(two)).toEqual(seen);
  expect(two.mutations).toEqual(one.mutations);
  expect(one.mutations.length).toBeGreaterThan(10);
  expect(session(other)).not.toEqual(seen);
});

test('an occasion is counted by its place: what a guest does elsewhere in between changes nothing', () => {
  const kinds = ['value'] as const;
  const [quiet, busy] = [card({ seed: 3, rate: 0.2, kinds }), card({ seed: 3, rate: 0.2, kinds })];
  for (let i = 0; i < 300; i++) {
    get(quiet.ops, 0, SCRATCH);
    get(busy.ops, 0, SCRATCH);
    get(busy.ops, 0, DMA_STATUS);
  }
  const ofScratch = (instance: HostileInstance) =>
    labels(instance.mutations).filter((label) => label.includes('.0x4.'));
  expect(ofScratch(busy)).toEqual(ofScratch(quiet));
  expect(ofScratch(quiet).length).toBeGreaterThan(20);
});

test('nothing is mutated before the guest uses the device, unless it is to begin early', () => {
  const idle = card({ seed: 1, rate: 1, kinds: ['value', 'write', 'error'] }, false);
  expect(get(idle.ops, CONFIG, 0)).toBe(0x7463_1234);
  expect(idle.mutations).toEqual([]);
  const early = card({ seed: 1, rate: 1, kinds: ['value'], isEarly: true }, false);
  expect(get(early.ops, CONFIG, 0)).not.toBe(0x7463_1234);
});

test('each value that is mutated is another one, and the log says which it was', () => {
  const instance = card({ seed: 5, rate: 1, kinds: ['value'] });
  for (let i = 0; i < 50; i++) {
    expect(get(instance.ops, 0, 0)).not.toBe(0x6472_6163);
    const last = instance.mutations.at(-1);
    expect(last).toMatchObject({ number: i + 1, label: `value/bar0.0x0.4#${i + 1}` });
  }
});

test('of a run, one mutation can be made alone, by its label or by its number', () => {
  const kinds = ['write'] as const;
  const all = card({ seed: 9, rate: 0.1, kinds });
  session(all);
  const [, , third] = all.mutations;
  const byLabel = card({ seed: 9, rate: 0.1, kinds, only: [third?.label as string] });
  const seen = session(byLabel);
  expect(byLabel.mutations).toEqual([third]);
  const byNumber = card({ seed: 9, rate: 0.1, kinds, window: { first: 3, last: 3 } });
  expect(session(byNumber)).toEqual(seen);
  expect(byNumber.mutations).toEqual([third]);
});

test('regions limit where accesses are mutated; the others stay mapped', () => {
  const instance = card({
    seed: 1,
    rate: 1,
    kinds: ['value'],
    regions: [{ region: 0, first: 0x40, last: 0x43 }],
  });
  expect(get(instance.ops, 0, 0)).toBe(0x6472_6163);
  get(instance.ops, 0, 0x40);
  expect(labels(instance.mutations)).toEqual(['value/bar0.0x40.4#1']);
  const isMapped = (region: number) =>
    (instance.ops.getRegionInfo(region).flags & VFIO_REGION_INFO_FLAG_MMAP) !== 0;
  expect([isMapped(0), isMapped(2)]).toEqual([false, true]);
});

/** Fills 16 bytes in the middle of a page of others, and returns the page. */
function fill({ ops }: HostileInstance, round: number): Uint8Array {
  const target = maps.main.iova + 0x1000;
  const page = memory.bytes.subarray(memory.at(target), memory.at(target) + 0x1000);
  page.fill(0xee);
  for (const [register, value] of [
    [DMA_TARGET, target + 0x100],
    [DMA_LENGTH, 16],
    [DMA_VALUE, round & 0x7f],
    [DMA_COMMAND, FILL],
  ] as const)
    put(ops, 0, register, value);
  thread.pump();
  return page;
}

test('DMA is mutated in a driver’s own event task, and only where the device writes', () => {
  const instance = card({ seed: 4, rate: 0.5, kinds: ['dma'] });
  let wrong = 0;
  for (let round = 0; round < 200; round++) {
    const page = fill(instance, round);
    expect(page.subarray(0, 0x100).every((byte) => byte === 0xee)).toBe(true);
    expect(page.subarray(0x110).every((byte) => byte === 0xee)).toBe(true);
    if (!page.subarray(0x100, 0x110).every((byte) => byte === (round & 0x7f))) wrong++;
  }
  // What is late falls on the next one's bytes, too.
  expect(wrong).toBeGreaterThanOrEqual(instance.mutations.length);
  expect(instance.mutations.length).toBeGreaterThan(50);
  const actions = new Set(instance.mutations.map(({ action }) => action));
  expect([...actions].sort()).toEqual(['flipped', 'late', 'lost', 'repeated', 'short', 'torn']);
});

test('what is held back for memory that is unmapped since does not arrive', () => {
  const instance = card({ seed: 4, rate: 1, kinds: ['dma'] });
  for (let round = 0; !instance.mutations.some(({ action }) => action === 'late'); round++)
    fill(instance, round);
  memory.map([maps.next]);
  instance.ops.dmaUnmap?.(BigInt(maps.main.iova) as never, BigInt(maps.main.bytes));
  fill(instance, 1);
  thread.pump();
  const at = memory.at(maps.main.iova + 0x1000);
  expect(memory.bytes.subarray(at + 0x100, at + 0x110)).toEqual(new Uint8Array(16).fill(0xee));
});

test('interrupts are lost, repeated, late and of the wrong vector, and none arrives at a vector without an eventfd', () => {
  const instance = card({ seed: 6, rate: 0.5, kinds: ['interrupt'] });
  const fds = Array.from({ length: 4 }, (_, i) => scope.own(Fd.eventfd(`vector ${i}`)));
  const data = [...fds.slice(0, 3).map(({ number }) => number), -1];
  const flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
  instance.ops.setIrqs({ index: VFIO_PCI_MSIX_IRQ_INDEX, flags, start: 0, count: 4, data });
  for (let i = 0; i < 200; i++) {
    put(instance.ops, 0, RAISE, 1);
    thread.pump();
  }
  const [other, own, third, none] = fds.map((fd) => Number(drainEventfd(fd.number))) as [
    number,
    number,
    number,
    number,
  ];
  expect(own).toBeGreaterThan(100);
  expect(other).toBeGreaterThan(0);
  expect(third).toBeGreaterThan(0);
  expect(none).toBe(0);
  const actions = new Set(instance.mutations.map(({ action }) => action));
  expect([...actions].sort()).toEqual(['late', 'lost', 'repeated', 'spurious', 'wrong vector']);
});

test('without hostility to interrupts, they arrive, and an eventfd can be taken away', () => {
  const instance = card({ seed: 6, rate: 0.0001 });
  const fd = scope.own(Fd.eventfd('vector'));
  const flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
  const set = (number: number) =>
    instance.ops.setIrqs({ index: VFIO_PCI_MSIX_IRQ_INDEX, flags, start: 1, count: 1, data: [number] });
  set(fd.number);
  put(instance.ops, 0, RAISE, 1);
  thread.pump();
  expect(drainEventfd(fd.number)).toBe(1n);
  set(-1);
  put(instance.ops, 0, RAISE, 1);
  thread.pump();
  expect(drainEventfd(fd.number)).toBe(0n);
});

test('calls fail with an errno, and say that it is on purpose', () => {
  const instance = card({ seed: 1, rate: 1, kinds: ['error'] });
  expect(() => instance.ops.read(0, 0, new Uint8Array(4))).toThrowError(
    /^pread on testcard: E\w+.*\n.*hostile on purpose/s,
  );
  expect(() => instance.ops.reset?.()).toThrowError(/^VFIO_DEVICE_RESET on testcard: E/);
});

test('the log keeps the latest, and the counters say how many there were', () => {
  const instance = card({ seed: 1, rate: 1, kinds: ['value'] });
  for (let i = 0; i < MOST_LOGGED + 10; i++) get(instance.ops, 0, 0);
  expect(instance.mutations.map(({ number }) => number)).toEqual(
    Array.from({ length: MOST_LOGGED }, (_, i) => i + 11),
  );
  expect(instance.counters()).toMatchObject({ mutations: MOST_LOGGED + 10, interrupts: 0 });
});

test('a seed or a rate that there is not is refused', () => {
  const driver = createTestCardDriver(CARD);
  for (const seed of [-1, 1.5, 2 ** 32, Number.NaN])
    expect(() => hostileDriver(driver, { seed })).toThrowError(
      /the seed .* is no integer from 0 to 4294967295/,
    );
  for (const rate of [0, 1.1, Number.NaN])
    expect(() => hostileDriver(driver, { seed: 1, rate })).toThrowError(/is not in \(0, 1\]/);
  expect(() => hostileDriver(driver, { seed: 1, kinds: ['dam' as never] })).toThrowError(
    /dam is none of value/,
  );
});

test.each([
  ['x', /"x" is no seed/],
  ['4294967296', /no seed/],
  ['1:rate=2', /rate=2 is not above 0 and up to 1/],
  ['1:kinds=dam', /"dam" is none of value, .*did you mean dma/s],
  ['1:kind=dma', /"kind" is not one of .*kinds/s],
  ['1:window=5-2', /window=5-2 is not FIRST-LAST/],
  ['1:regions=bar6', /"bar6" is no region/],
  ['1:regions=bar0@4', /"4" is no range of offsets/],
  ['1:early=on', /"early" is not one of/],
])('hostile=%s is refused before anything is made, and when it is made', (hostile, problem) => {
  const driver = hostileByOption(createTestCardDriver(CARD), TASK);
  const type = driver.types[0] as never;
  expect(driver.checkOptions?.(type, { hostile })).toMatch(problem);
  expect(() => driver.create(type, UUID, { hostile }, { eventThread: thread })).toThrowError(problem);
});

test('by option, a device is hostile with it, and itself without it', () => {
  const driver = hostileByOption(createTestCardDriver(CARD), TASK);
  const type = driver.types[0] as never;
  const hostile =
    '7:rate=1:kinds=value+dma:regions=bar0@0x0-0xf+config:window=1-5:only=value/bar0.0x0.4#2:early';
  expect(driver.checkOptions?.(type, { hostile, msi: '4' })).toBeUndefined();
  expect(driver.checkOptions?.(type, { hostile, msi: '5' })).toMatch(/msi/);
  const instance = scope.own(driver.create(type, UUID, { hostile }, { eventThread: thread }));
  instance.ops.openDevice(memory.open);
  scope.defer(() => instance.ops.closeDevice());
  const values = [1, 2, 3].map(() => get(instance.ops, 0, 0));
  expect(values.map((value) => value === 0x6472_6163)).toEqual([true, false, true]);
  const plain = scope.own(driver.create(type, UUID, {}, { eventThread: thread }));
  expect(plain.counters?.()).not.toHaveProperty('mutations');
});
