import { describe, expect, test } from 'vitest';
import { isErrno } from '../../sys/error.js';
import type { InputEvent } from '../../vfio/driver.js';
import { resumeState, saveState } from '../mdev/testing/migrate.js';
import { DATA, TurnBench } from '../virtio/testing/turn-bench.js';
import type { GuestMemory } from '../virtio-net/testing/guest.js';
import { allRemote } from '../virtio-net/testing/remote-maps.js';
import { taken } from '../virtio-net/testing/workbench.js';
import { createVirtioInputDriver, type VirtioInputInstance } from './driver.js';

const [EVENTQ, STATUSQ] = [0, 1] as const;
const [EV_KEY, EV_REL, EV_ABS, EV_LED] = [1, 2, 3, 0x11] as const;
const KEY_A = 30;
const key = (code: number, value: number): InputEvent => ({ type: EV_KEY, code, value });

class InputBench extends TurnBench<VirtioInputInstance> {
  #buffers = 0;
  #seen = 0;

  constructor(type: string, memory?: GuestMemory) {
    super(2, createVirtioInputDriver, { type }, memory);
  }

  /** Goes on where another device's driver is. */
  follow(before: InputBench): void {
    this.queues = before.queues;
    this.#buffers = before.#buffers;
    this.#seen = before.#seen;
  }

  /** Gives the device buffers for events. */
  provide(count: number): void {
    for (let i = 0; i < count; i++) {
      const address = DATA + 8 * (this.#buffers++ % 64);
      this.queues[EVENTQ]!.add([{ address, length: 8, isDeviceWritable: true }]);
    }
    this.ring(EVENTQ);
  }

  /** What has arrived since the last call: type, code and value of each event. */
  arrived(): number[][] {
    return this.queues[EVENTQ]!.reap().map(({ length }) => {
      expect(length).toBe(8);
      const at = this.memory.at(DATA + 8 * (this.#seen++ % 64));
      const { words } = this.memory;
      return [words.getUint16(at, true), words.getUint16(at + 2, true), words.getInt32(at + 4, true)];
    });
  }

  select(select: number, subsel = 0): Uint8Array {
    const { offset } = this.driver.structure(4);
    this.instance.ops.write(4, offset, Uint8Array.of(select));
    this.instance.ops.write(4, offset + 1, Uint8Array.of(subsel));
    const size = this.driver.deviceConfig(2, 1);
    return Uint8Array.from({ length: size }, (_, i) => this.driver.deviceConfig(8 + i, 1));
  }
}

const hasBit = (bits: Uint8Array, code: number): boolean =>
  ((bits[code >> 3] ?? 0) & (1 << (code & 7))) !== 0;

test.each([
  ['keyboard', 0x0900, 1],
  ['tablet', 0x0980, 2],
  ['mouse', 0x0902, 3],
])('a %s tells its class, name, serial number and identity', (type, pciClass, product) => {
  using bench = new InputBench(type);
  expect(bench.driver.config(2, 2)).toBe(0x1052);
  expect(bench.driver.config(0x0a, 2)).toBe(pciClass);
  expect(String(Buffer.from(bench.select(1)))).toBe(`tsvisor ${type}`);
  expect(String(Buffer.from(bench.select(2)))).toMatch(/^[0-9a-f-]{36}$/);
  expect([...new Uint16Array(bench.select(3).buffer)]).toEqual([6, 0x1af4, product, 1]);
  expect(bench.select(1, 1)).toHaveLength(0);
  expect(bench.select(0x10)).toHaveLength(0);
  expect(bench.driver.deviceConfig(136, 1)).toBe(0xff);
});

test('each kind has the events of what it is, and no others', () => {
  using keyboard = new InputBench('keyboard');
  using tablet = new InputBench('tablet');
  using mouse = new InputBench('mouse');
  const keys = keyboard.select(0x11, EV_KEY);
  expect([0, 1, KEY_A, 248, 249].map((code) => hasBit(keys, code))).toEqual([false, true, true, true, false]);
  expect([EV_REL, EV_ABS].map((type) => keyboard.select(0x11, type).length)).toEqual([0, 0]);
  expect([...keyboard.select(0x11, EV_LED)]).toEqual([7]);
  expect(keyboard.select(0x11, 0x14).length).toBeGreaterThan(0);
  expect([...tablet.select(0x11, EV_ABS)]).toEqual([3]);
  expect([...new Uint32Array(tablet.select(0x12, 1).buffer)]).toEqual([0, 0x7fff, 0, 0, 0]);
  expect([tablet.select(0x12, 2).length, mouse.select(0x12, 0).length]).toEqual([0, 0]);
  expect(hasBit(tablet.select(0x11, EV_KEY), 0x110)).toBe(true);
  expect([...mouse.select(0x11, EV_REL)]).toEqual([0b0100_0011, 1]);
  expect(hasBit(tablet.select(0x11, EV_REL), 0)).toBe(false);
});

test('an option that is wrong is EINVAL, and the hint says what could be', () => {
  expect(() => new InputBench('pen')).toThrowError(/type: pen is none of keyboard, tablet, mouse/);
});

describe.each([
  ['memory of this process', undefined],
  ['memory that is accessed by message', allRemote],
] as const)('in %s', (_, list) => {
  function opened(type: string): InputBench {
    const bench = new InputBench(type);
    if (list !== undefined) bench.memory.map(list);
    return bench.start();
  }

  test('events arrive in order, each packet with SYN_REPORT at its end, one interrupt each', () => {
    using bench = opened('mouse');
    bench.provide(8);
    bench.instance.input([
      { type: EV_REL, code: 0, value: -5 },
      { type: EV_REL, code: 1, value: 7 },
    ]);
    expect(taken(bench.vectors[1]!)).toBe(1);
    bench.instance.input([key(0x110, 1)]);
    expect(bench.arrived()).toEqual([
      [EV_REL, 0, -5],
      [EV_REL, 1, 7],
      [0, 0, 0],
      [EV_KEY, 0x110, 1],
      [0, 0, 0],
    ]);
    expect(bench.instance.counters()).toMatchObject({ packets: 2, events: 3, droppedPackets: 0 });
  });

  test('a packet with more events than buffers is dropped as a whole, and the next that fits comes', () => {
    using bench = opened('keyboard');
    bench.provide(2);
    bench.instance.input([key(KEY_A, 1), key(31, 1)]);
    expect(bench.arrived()).toEqual([]);
    bench.instance.input([key(KEY_A, 1)]);
    expect(bench.arrived()).toEqual([
      [EV_KEY, KEY_A, 1],
      [0, 0, 0],
    ]);
    bench.instance.input([key(KEY_A, 0)]);
    bench.provide(2);
    expect(bench.arrived()).toEqual([]);
    expect(bench.instance.counters()).toMatchObject({ packets: 1, droppedPackets: 2 });
    expect(bench.needsReset).toBe(false);
  });

  test('lights that the driver sets are known, and their buffers come back', () => {
    using bench = opened('keyboard');
    const at = bench.memory.at(DATA + 0x1000);
    for (const [i, [code, value]] of [
      [0, 1],
      [1, 1],
      [0, 0],
    ].entries()) {
      bench.memory.words.setUint16(at + 8 * i, EV_LED, true);
      bench.memory.words.setUint16(at + 8 * i + 2, code as number, true);
      bench.memory.words.setUint32(at + 8 * i + 4, value as number, true);
      bench.queues[STATUSQ]!.add([{ address: DATA + 0x1000 + 8 * i, length: 8 }]);
      bench.ring(STATUSQ);
    }
    expect(bench.instance.leds).toBe(2);
    expect(bench.queues[STATUSQ]!.reap()).toHaveLength(3);
    expect(bench.instance.counters().statusEvents).toBe(3);
  });
});

test.each([
  ['of another kind of device', { type: EV_ABS, code: 0, value: 1 }],
  ['that is a light', { type: EV_LED, code: 0, value: 1 }],
  ['of more than 32 bits', { type: EV_KEY, code: KEY_A, value: 2 ** 31 }],
  ['of a part', { type: EV_KEY, code: KEY_A, value: 0.5 }],
])('an event %s is EINVAL, and nothing of its packet is sent', (_, wrong) => {
  using bench = new InputBench('keyboard').start();
  bench.provide(8);
  let error: unknown;
  try {
    bench.instance.input([key(KEY_A, 1), wrong]);
  } catch (caught) {
    error = caught;
  }
  expect(isErrno(error, 'EINVAL')).toBe(true);
  expect(bench.arrived()).toEqual([]);
  expect(() => bench.instance.input([])).toThrowError(/0 events/);
});

test('without a driver, or without bus mastering, packets are dropped and nothing is written', () => {
  using bench = new InputBench('keyboard');
  bench.instance.input([key(KEY_A, 1)]);
  bench.start();
  bench.provide(4);
  bench.driver.setBusMaster(false);
  bench.instance.input([key(KEY_A, 1)]);
  expect(bench.arrived()).toEqual([]);
  bench.driver.setBusMaster(true);
  bench.instance.input([key(KEY_A, 0)]);
  expect(bench.arrived()).toHaveLength(2);
  expect(bench.instance.counters().droppedPackets).toBe(2);
});

test.each([
  [
    'too small for an event',
    (bench: InputBench) => bench.queues[0]!.add([{ address: DATA, length: 4, isDeviceWritable: true }]),
  ],
  [
    'that the device cannot write',
    (bench: InputBench) => bench.queues[0]!.add([{ address: DATA, length: 8 }]),
  ],
  [
    'that is not in memory',
    (bench: InputBench) =>
      bench.queues[0]!.add([{ address: 0x9000_0000, length: 8, isDeviceWritable: true }]),
  ],
])('a buffer %s makes the device need a reset, after which it works', (_, add) => {
  using bench = new InputBench('keyboard').start();
  add(bench);
  add(bench);
  bench.instance.input([key(KEY_A, 1)]);
  expect(bench.needsReset).toBe(true);
  bench.start();
  bench.provide(2);
  bench.instance.input([key(KEY_A, 1)]);
  expect(bench.queues[0]!.reap()).toHaveLength(2);
});

test('rings at the end of all addresses are no memory: the device needs a reset', () => {
  using bench = new InputBench('keyboard');
  bench.driver.negotiate();
  bench.driver.commonWrite(0x16, 2, 0);
  for (const at of [0x20, 0x28, 0x30]) {
    bench.driver.commonWrite(at, 4, 0xffff_f000);
    bench.driver.commonWrite(at + 4, 4, 0xffff_ffff);
  }
  bench.driver.commonWrite(0x1c, 2, 1);
  bench.driver.status |= 4;
  expect(bench.needsReset).toBe(true);
  expect(taken(bench.vectors[0]!)).toBe(0); // the driver has chosen no vector
});

test('a driver goes on behind another device, with its buffers, selection and lights', () => {
  using before = new InputBench('keyboard').start();
  before.provide(6);
  before.instance.input([key(KEY_A, 1)]);
  before.arrived();
  before.select(0x11, EV_LED);
  const state = saveState(before.instance.ops);
  before.instance.input([key(31, 1)]);
  expect(before.arrived()).toEqual([]);
  using after = new InputBench('keyboard', before.memory);
  after.driver.setBusMaster(true);
  after.follow(before);
  expect(resumeState(after.instance.ops, state)).toBe('ok');
  after.instance.input([key(KEY_A, 0)]);
  expect(after.arrived()).toEqual([
    [EV_KEY, KEY_A, 0],
    [0, 0, 0],
  ]);
  expect(after.driver.deviceConfig(8, 1)).toBe(7);
  using mouse = new InputBench('mouse', before.memory);
  expect(resumeState(mouse.instance.ops, state)).toBe('EINVAL');
});
