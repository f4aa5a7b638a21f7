import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { Fd } from '../../sys/fd.js';
import { setDeviceState } from '../../vfio/core/migration.js';
import {
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_STOP,
} from '../../vfio/feature.js';
import { resumeState, saveState } from '../mdev/testing/migrate.js';
import { mutationOf } from '../mdev/testing/mutations.js';
import { FakeVhostKernel } from '../net/testing/fake-vhost-kernel.js';
import { vhostOver } from '../net/vhost.js';
import { COMMON, FEATURE, GuestMemory, type GuestQueue, maps, STATUS } from './testing/guest.js';
import { PairedDriver } from './testing/paired-driver.js';
import { allRemote, settleTurns } from './testing/remote-maps.js';
import { taken, Workbench } from './testing/workbench.js';

const MSIX = 2;
const INTX = 0;
const TRIGGER_EVENTFD = (1 << 2) | (1 << 5);
const SIZE = 64;
const BUFFER = 2048;
const TX = maps.main.iova + 0x2_0000;
const RX = maps.main.iova + 0x8_0000;
const FAKE = { net: 'fake' };

/** A frame by its number, of a length that differs from those beside it. */
const frameOf = (number: number): Uint8Array => {
  const frame = new Uint8Array(60 + ((number * 131) % 1200));
  new DataView(frame.buffer).setUint32(0, number);
  return frame;
};
const numberOf = (frame: Uint8Array, at = 0): number =>
  new DataView(frame.buffer, frame.byteOffset).getUint32(at);

/**
 * A guest with a driver that looks for what is returned only when it is interrupted, on one device after another. What each wire
 * has had and given is kept.
 */
class MovedGuest implements Disposable {
  readonly memory = new GuestMemory();
  bench: Workbench;
  readonly #features: bigint;
  readonly #isRemote: boolean;
  #fds: ReturnType<Workbench['wire']> = [];
  #isMasked = false;
  /** Queues and counts of the driver, which no device sees. */
  rx!: GuestQueue;
  tx!: GuestQueue;
  nextFrame = 0;
  sent: number[] = [];
  delivered: number[] = [];
  received: number[] = [];
  #txOut = 0;
  #rxOut = 0;
  readonly #used = { rx: 0, tx: 0 };
  readonly #offered: { address: number; length: number }[] = [];
  readonly #heads: number[] = [];

  constructor(features: bigint, isRemote: boolean) {
    this.#features = features;
    this.#isRemote = isRemote;
    if (isRemote) this.memory.map(allRemote);
    this.bench = this.#newBench();
    const { driver } = this.bench;
    driver.start({ features: driver.offered & features, queueSize: SIZE });
    [this.rx, this.tx] = [driver.rx, driver.tx];
    this.#wire();
  }

  #newBench(): Workbench {
    return new Workbench(FAKE, [], this.memory);
  }

  get #hasEventIdx(): boolean {
    return (this.#features & FEATURE.eventIdx) !== 0n;
  }

  /** Eventfds behind the vectors, unless they are masked. */
  #wire(): void {
    this.#fds = this.#isMasked ? [] : this.bench.wire(MSIX, 3);
    if (this.#isMasked)
      this.bench.instance.ops.setIrqs({
        ...{ index: MSIX, flags: TRIGGER_EVENTFD, start: 0, count: 3 },
        data: [-1, -1, -1],
      });
  }

  setMasked(isMasked: boolean): void {
    if (isMasked === this.#isMasked) return;
    this.interrupted();
    this.#isMasked = isMasked;
    this.#wire();
  }

  send(count: number, isRung: boolean): void {
    const from = this.tx.availIndex;
    for (let i = 0; i < count && this.#txOut < SIZE - 1; i++, this.#txOut++) {
      const [number, address] = [this.nextFrame++, TX + BUFFER * (this.tx.availIndex % SIZE)];
      const frame = frameOf(number);
      this.memory.bytes.fill(0, this.memory.at(address), this.memory.at(address) + 12);
      this.memory.bytes.set(frame, this.memory.at(address + 12));
      this.#heads.push(this.tx.add([{ address, length: 12 + frame.length }]));
      this.sent.push(number);
    }
    if (isRung && this.tx.availIndex !== from && this.tx.needsDoorbell(from, this.#hasEventIdx))
      this.bench.driver.ring(1);
  }

  provide(count: number, length: number): void {
    const from = this.rx.availIndex;
    for (let i = 0; i < count && this.#rxOut < SIZE - 1; i++, this.#rxOut++) {
      const address = RX + BUFFER * (this.rx.availIndex % SIZE);
      this.#offered.push({ address, length });
      this.rx.add([{ address, length, isDeviceWritable: true }]);
    }
    if (this.rx.availIndex !== from && this.rx.needsDoorbell(from, this.#hasEventIdx))
      this.bench.driver.ring(0);
  }

  deliver(count: number): void {
    for (let i = 0; i < count; i++) {
      const number = this.nextFrame++;
      this.bench.port.waiting.push(frameOf(number));
      this.delivered.push(number);
    }
    this.bench.port.signal();
  }

  /** Lets the device do what it has to do. */
  pump(): void {
    if (this.#isRemote) settleTurns(this.bench.thread);
    else this.bench.thread.pump();
  }

  /** The interrupts' handler, of all that has come. */
  interrupted(): void {
    const count = this.#fds.reduce((sum, fd) => sum + taken(fd), 0);
    if (count > 0) this.#reap();
  }

  /** Chains that have come back. */
  get progress(): number {
    return this.#used.rx + this.#used.tx;
  }

  #reap(): void {
    for (let seen = -1; seen !== this.#used.rx + this.#used.tx; ) {
      seen = this.#used.rx + this.#used.tx;
      for (const { id } of this.tx.reap()) {
        expect(id).toBe(this.#heads[this.#used.tx]); // each once, and in order
        this.#used.tx++;
        this.#txOut--;
      }
      const used = this.rx.reap();
      for (let i = 0; i < used.length; ) {
        const first = this.#offered[this.#used.rx] as { address: number };
        const at = this.memory.at(first.address);
        const chains = this.memory.words.getUint16(at + 10, true);
        expect(chains).toBeGreaterThan(0);
        const number = numberOf(this.memory.bytes, at + 12);
        const pieces: Uint8Array[] = [];
        for (let piece = 0; piece < chains; piece++, i++, this.#used.rx++, this.#rxOut--) {
          const { address, length } = this.#offered[this.#used.rx] as { address: number; length: number };
          const written = used[i]?.length ?? 0;
          expect(written).toBeLessThanOrEqual(length);
          pieces.push(this.memory.bytes.slice(this.memory.at(address), this.memory.at(address) + written));
        }
        expect(Buffer.concat(pieces).subarray(12)).toEqual(Buffer.from(frameOf(number)));
        this.received.push(number);
      }
      if (!this.#hasEventIdx) continue;
      this.rx.usedEvent = this.#used.rx;
      this.tx.usedEvent = this.#used.tx;
    }
  }

  /** Goes on with another device, or with the same after a stop. The old one's wire keeps what it has sent. */
  move(order: number, isNew: boolean, wires: Wire[]): void {
    const before = this.bench;
    const state = saveState(before.instance.ops);
    // What the old device has signalled before its stop has reached the guest.
    this.interrupted();
    if (!isNew) {
      setDeviceState(before.instance.ops, VFIO_DEVICE_STATE_RUNNING);
      return;
    }
    this.pump(); // it neither moves nor signals anything any more
    expect(this.#fds.map(taken).every((count) => count === 0)).toBe(true);
    wires.push(before.port.sent);
    before[Symbol.dispose]();
    this.bench = this.#newBench();
    const { ops } = this.bench.instance;
    if (order & 1) this.bench.driver.setBusMaster(true);
    if (order & 2) this.#wire();
    expect(resumeState(ops, state)).toBe('ok');
    if (!(order & 1)) this.bench.driver.setBusMaster(true);
    if (!(order & 2)) this.#wire();
  }

  [Symbol.dispose](): void {
    this.bench[Symbol.dispose]();
    this.memory[Symbol.dispose]();
  }
}

type Wire = Uint8Array[];

const step = fc.oneof(
  fc.record({
    kind: fc.constant('send' as const),
    count: fc.integer({ min: 1, max: 40 }),
    flag: fc.boolean(),
  }),
  fc.record({
    kind: fc.constant('provide' as const),
    count: fc.integer({ min: 1, max: 20 }),
    flag: fc.boolean(),
  }),
  fc.record({
    kind: fc.constant('deliver' as const),
    count: fc.integer({ min: 1, max: 12 }),
    flag: fc.boolean(),
  }),
  fc.record({ kind: fc.constant('pump' as const), count: fc.constant(0), flag: fc.boolean() }),
  fc.record({ kind: fc.constant('full' as const), count: fc.constant(0), flag: fc.boolean() }),
  fc.record({ kind: fc.constant('mask' as const), count: fc.constant(0), flag: fc.boolean() }),
  fc.record({ kind: fc.constant('move' as const), count: fc.nat(3), flag: fc.boolean() }),
);

type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

/** Plays a history. Returns the numbers of the frames that each wire has had, one wire after the other. */
function play(guest: MovedGuest, steps: readonly Step[]): number[] {
  const wires: Wire[] = [];
  for (const { kind, count, flag } of steps) {
    if (kind === 'send') guest.send(count, flag);
    else if (kind === 'provide') guest.provide(count, flag ? BUFFER : 300);
    else if (kind === 'deliver') guest.deliver(count);
    else if (kind === 'full') guest.bench.port.isFull = flag;
    else if (kind === 'mask') guest.setMasked(flag);
    else if (kind === 'move') guest.move(count, flag, wires);
    else guest.pump();
    if (kind === 'pump' && flag) guest.interrupted();
  }
  guest.bench.port.isFull = false;
  guest.setMasked(false);
  guest.bench.driver.ring(1);
  for (let round = 0, before = -1; before !== guest.progress; round++) {
    before = round < 4 ? -1 : guest.progress;
    guest.pump();
    guest.interrupted();
    guest.provide(SIZE, BUFFER);
  }
  wires.push(guest.bench.port.sent);
  return wires.flat().map((frame) => numberOf(frame));
}

const FEATURES = fc.constantFrom(
  ~FEATURE.eventIdx,
  -1n,
  ~FEATURE.mergeable,
  FEATURE.version1,
  FEATURE.version1 | FEATURE.mergeable,
);

/** Runs histories of a guest, with its memory here or in another process. */
function moves(isRemote: boolean, numRuns: number): void {
  let count = 0;
  fc.assert(
    fc.property(FEATURES, fc.array(step, { minLength: 5, maxLength: 40 }), (features, steps) => {
      using guest = new MovedGuest(features, isRemote);
      const wire = play(guest, steps);
      expect(wire).toEqual(guest.sent); // each frame once, in order
      // Frames that waited at a wire which was left may be lost, and those that have no room; none is there twice, or late.
      const wasLeft = steps.some(({ kind, flag }) => kind === 'move' && flag);
      const hasMergeable = (features & FEATURE.mergeable) !== 0n;
      expect(guest.received).toEqual([...new Set(guest.received)].sort((a, b) => a - b));
      expect(guest.delivered).toEqual(expect.arrayContaining(guest.received));
      if (!wasLeft && hasMergeable && !isRemote) expect(guest.received).toEqual(guest.delivered);
      if (wasLeft) count++;
    }),
    { numRuns },
  );
  expect(count).toBeGreaterThan(numRuns / 3);
}

test('stopped at any moment, and moved: each frame is sent once, each buffer returned once, with an interrupt', () => {
  moves(false, 150);
}, 120_000);

test('so it is with memory of another process', () => {
  moves(true, 60);
}, 120_000);

test('a driver finds the registers as it left them, and the card’s address', () => {
  using memory = new GuestMemory();
  using from = new Workbench({ ...FAKE, mac: '52:54:00:00:00:01' }, [], memory);
  using to = new Workbench(FAKE, [], memory);
  const own = Array.from({ length: 6 }, (_, at) => to.driver.deviceConfig(at, 1));
  from.driver.start({ features: from.driver.offered & ~FEATURE.indirect, vectors: [2, 0, 1], queueSize: 32 });
  from.driver.commonWrite(COMMON.deviceFeatureSelect, 4, 1);
  const registers = ({ driver }: Workbench) =>
    [0, 1].map((queue) => {
      driver.commonWrite(COMMON.queueSelect, 2, queue);
      return Array.from({ length: 0x38 }, (_, at) => driver.common(at, 1));
    });
  const mac = ({ driver }: Workbench) => Array.from({ length: 6 }, (_, at) => driver.deviceConfig(at, 1));
  const before = registers(from);
  expect(resumeState(to.instance.ops, saveState(from.instance.ops))).toBe('ok');
  expect(registers(to)).toEqual(before);
  expect(mac(to)).toEqual([0x52, 0x54, 0, 0, 0, 1]);
  to.driver.status = 0;
  expect(mac(to)).toEqual([0x52, 0x54, 0, 0, 0, 1]);
  to.instance.ops.closeDevice();
  to.instance.ops.openDevice(memory.open);
  expect(mac(to)).toEqual(own);
  expect(own).not.toEqual([0x52, 0x54, 0, 0, 0, 1]);
});

test('a card whose address was chosen keeps it, and the driver is told once that it is another one', () => {
  for (const [chosen, times] of [
    ['52:54:00:00:00:02', 1],
    ['52:54:00:00:00:01', 0],
  ] as const) {
    using memory = new GuestMemory();
    using from = new Workbench({ ...FAKE, mac: '52:54:00:00:00:01' }, [], memory);
    using to = new Workbench({ ...FAKE, mac: chosen }, [], memory);
    from.driver.start({ vectors: [2, 0, 1] });
    const [, , config] = to.wire(MSIX, 3);
    const generation = ({ driver }: Workbench) => driver.common(0x15, 1);
    expect(resumeState(to.instance.ops, saveState(from.instance.ops))).toBe('ok');
    setDeviceState(to.instance.ops, VFIO_DEVICE_STATE_RUNNING);
    expect(to.driver.deviceConfig(5, 1)).toBe(Number(chosen.slice(-1)));
    expect(taken(config as Fd)).toBe(times);
    expect(generation(to) !== generation(from)).toBe(times === 1);
  }
});

test('a driver of several queue pairs goes on with those it uses, and so does its control queue', () => {
  using memory = new GuestMemory();
  const options = { ...FAKE, queues: '4' };
  using from = new Workbench(options, [], memory);
  using to = new Workbench(options, [], memory);
  const driver = new PairedDriver(from.driver);
  driver.start();
  const first = driver.setPairs(3);
  from.thread.pump();
  expect(first()).toBe(0);
  driver.provide(2, RX);
  const late = driver.setPairs(2); // waits in the queue
  expect(resumeState(to.instance.ops, saveState(from.instance.ops))).toBe('ok');
  from.thread.pump();
  expect(late()).not.toBe(0);
  to.driver.setBusMaster(true);
  expect(to.ports.map(({ isActive }) => isActive)).toEqual([false, true, true, false]);
  to.ports[2]?.waiting.push(frameOf(7));
  to.ports[2]?.signal();
  to.thread.pump();
  expect(late()).toBe(0);
  expect(driver.control.reap()).toHaveLength(2);
  expect(driver.rx[2]?.reap()).toHaveLength(1);
  expect(to.ports.map(({ isActive }) => isActive)).toEqual([false, true, false, false]);
});

test('a host that refuses a pair which the driver uses has the driver reset the card', () => {
  using memory = new GuestMemory();
  const options = { ...FAKE, queues: '2' };
  using from = new Workbench(options, [], memory);
  using to = new Workbench(options, [], memory);
  const driver = new PairedDriver(from.driver);
  driver.start();
  driver.setPairs(2);
  from.thread.pump();
  (to.ports[1] as { isRefused: boolean }).isRefused = true;
  expect(resumeState(to.instance.ops, saveState(from.instance.ops))).toBe('ok');
  expect(to.driver.status & STATUS.needsReset).toBe(STATUS.needsReset);
});

test('a queue that has stopped for a violation is not started elsewhere, until the driver resets', () => {
  using memory = new GuestMemory();
  using from = new Workbench(FAKE, [], memory);
  using to = new Workbench(FAKE, [], memory);
  from.driver.start({ queueSize: SIZE });
  const { tx, rx } = from.driver;
  tx.offer(SIZE); // no descriptor
  from.driver.ring(1);
  from.thread.pump();
  expect(from.driver.status & STATUS.needsReset).toBe(STATUS.needsReset);
  expect(resumeState(to.instance.ops, saveState(from.instance.ops))).toBe('ok');
  to.driver.setBusMaster(true);
  Object.assign(to.driver, { tx, rx });
  to.driver.send(frameOf(1), TX);
  to.driver.provide(RX);
  to.port.waiting.push(frameOf(2));
  to.port.signal();
  to.driver.ring(1);
  to.thread.pump();
  expect(to.port.sent).toEqual([]);
  expect(rx.reap()).toHaveLength(1); // the other queue goes on
  expect(to.driver.status & STATUS.needsReset).toBe(STATUS.needsReset);
  to.driver.start({ queueSize: SIZE });
  to.driver.send(frameOf(3), TX);
  to.driver.ring(1);
  to.thread.pump();
  expect(to.port.sent.map((frame) => numberOf(frame))).toEqual([3]);
});

test('what a driver does to a stopped card begins when it goes on', () => {
  using bench = new Workbench(FAKE);
  const { driver, instance, port } = bench;
  setDeviceState(instance.ops, VFIO_DEVICE_STATE_STOP);
  driver.start({ queueSize: SIZE });
  driver.send(frameOf(1), TX);
  driver.ring(1);
  bench.thread.pump();
  expect([port.sent.length, driver.tx.usedIndex]).toEqual([0, 0]);
  setDeviceState(instance.ops, VFIO_DEVICE_STATE_RUNNING);
  expect([port.sent.length, driver.tx.usedIndex]).toEqual([1, 1]);
  setDeviceState(instance.ops, VFIO_DEVICE_STATE_STOP);
  driver.send(frameOf(2), TX);
  driver.status = 0; // a reset stops it for good
  setDeviceState(instance.ops, VFIO_DEVICE_STATE_RUNNING);
  driver.ring(1);
  bench.thread.pump();
  expect(port.sent).toHaveLength(1);
});

test('INTx that waits for its unmasking is asserted where the card goes on', () => {
  using memory = new GuestMemory();
  using from = new Workbench(FAKE, [], memory);
  using to = new Workbench(FAKE, [], memory);
  const [pin] = from.wire(INTX, 1);
  const [other] = to.wire(INTX, 1);
  from.driver.start({ features: FEATURE.version1, queueSize: SIZE });
  from.driver.send(frameOf(1), TX);
  from.driver.ring(1);
  from.thread.pump();
  expect(taken(pin!)).toBe(1);
  expect(resumeState(to.instance.ops, saveState(from.instance.ops))).toBe('ok');
  expect(taken(other!)).toBe(1);
  expect(to.driver.isr).toBe(1);
});

test('a link that is another one than the driver knows is told by a change of the configuration', () => {
  using memory = new GuestMemory();
  using from = new Workbench(FAKE, [], memory);
  using to = new Workbench(FAKE, [], memory);
  const [config] = to.wire(MSIX, 3);
  from.driver.start();
  from.driver.provide(RX);
  from.port.failure = new Error('unplugged');
  from.port.waiting.push(frameOf(1));
  from.port.signal();
  from.thread.pump();
  expect(from.driver.deviceConfig(6, 2)).toBe(0);
  const generation = from.driver.common(COMMON.generation, 1);
  expect(resumeState(to.instance.ops, saveState(from.instance.ops))).toBe('ok');
  expect(to.driver.deviceConfig(6, 2)).toBe(1);
  expect(to.driver.common(COMMON.generation, 1)).not.toBe(generation);
  expect(taken(config!)).toBe(1);
});

test.each([
  ['another MTU', { mtu: '9000' }, /its MTU is 1500, and this device's is 9000/],
  ['more queue pairs', { queues: '2' }, /its number of queues is 2, and this device's is 5/],
  ['no offloads', { net: 'fake', offloads: 'off' }, /features 0x[0-9a-f]+ were not offered/],
] as const)('a card with %s does not take the state, and says why', (_what, options, says) => {
  using from = new Workbench({ net: 'fake:31' });
  using to = new Workbench({ net: 'fake:31', ...options });
  from.driver.start();
  const state = saveState(from.instance.ops);
  const { ops } = to.instance;
  {
    using into = setDeviceState(ops, VFIO_DEVICE_STATE_RESUMING);
    into?.write(
      Buffer.concat([
        state,
        new Uint8Array(Math.max(0, Number(ops.migration?.getDataSize()) - state.length)),
      ]),
    );
  }
  expect(() => setDeviceState(ops, VFIO_DEVICE_STATE_STOP)).toThrowError(says);
  expect(to.driver.status).toBe(0);
});

/** A device over vhost-net, in a fake kernel. */
function overKernel(memory: GuestMemory) {
  const kernel = new FakeVhostKernel();
  const bench = new Workbench({ net: 'vhost:tap0' }, [vhostOver(kernel)], memory);
  const turn = () => {
    for (let idle = 0; idle < 3; ) {
      bench.thread.pump();
      idle = kernel.work() > 0 ? 0 : idle + 1;
    }
  };
  return { kernel, bench, turn, [Symbol.dispose]: () => bench[Symbol.dispose]() };
}

test('the kernel’s queues go on at the index at which they stopped, in another kernel and in the same', () => {
  using memory = new GuestMemory();
  using from = overKernel(memory);
  using to = overKernel(memory);
  from.bench.driver.start({ features: FEATURE.version1, queueSize: SIZE });
  const { tx, rx } = from.bench.driver;
  from.bench.driver.provide(RX);
  from.bench.driver.provide(RX + BUFFER);
  for (const number of [1, 2, 3]) from.bench.driver.send(frameOf(number), TX + BUFFER * number);
  from.bench.driver.ring(1);
  from.kernel.deliver(frameOf(9));
  from.turn();
  setDeviceState(from.bench.instance.ops, VFIO_DEVICE_STATE_STOP);
  from.bench.driver.send(frameOf(4), TX);
  from.bench.driver.ring(1);
  from.turn();
  expect(from.kernel.sent).toHaveLength(3);
  setDeviceState(from.bench.instance.ops, VFIO_DEVICE_STATE_RUNNING);
  from.turn();
  expect(from.kernel.sent.map((frame) => numberOf(frame, 12))).toEqual([1, 2, 3, 4]);
  const state = saveState(from.bench.instance.ops);
  expect(resumeState(to.bench.instance.ops, state)).toBe('ok');
  to.bench.driver.setBusMaster(true);
  expect(to.kernel.calls.filter((call) => call.startsWith('SET_VRING_BASE'))).toEqual([
    'SET_VRING_BASE 0 1',
    'SET_VRING_BASE 1 4',
  ]);
  Object.assign(to.bench.driver, { tx, rx });
  to.bench.driver.send(frameOf(5), TX);
  to.bench.driver.ring(1);
  to.kernel.deliver(frameOf(10));
  to.turn();
  expect(to.kernel.sent.map((frame) => numberOf(frame, 12))).toEqual([5]);
  expect([tx.reap().length, rx.reap().length]).toEqual([5, 2]);
  expect(from.kernel.moved).toEqual({ sent: 0, received: 0 });
});

test('an interrupt that the kernel has left with this process at the stop is not lost', () => {
  using memory = new GuestMemory();
  using from = overKernel(memory);
  using to = overKernel(memory);
  from.bench.wire(INTX, 1);
  from.bench.driver.start({ features: FEATURE.version1, queueSize: SIZE });
  from.bench.driver.send(frameOf(1), TX);
  from.bench.driver.ring(1);
  from.kernel.work(); // signals, and nobody has heard it
  const [pin] = to.bench.wire(INTX, 1);
  expect(from.bench.driver.tx.usedIndex).toBe(1);
  expect(resumeState(to.bench.instance.ops, saveState(from.bench.instance.ops))).toBe('ok');
  expect(taken(pin!)).toBe(1);
  expect(to.bench.driver.isr).toBe(1);
});

test('10,000 wrong states are each refused, or do no harm, and a reset makes the card work again', () => {
  using memory = new GuestMemory();
  using from = new Workbench(FAKE, [], memory);
  using to = new Workbench(FAKE, [], memory);
  from.driver.start({ queueSize: SIZE });
  const { tx, rx } = from.driver;
  for (let i = 0; i < 20; i++) {
    from.driver.send(frameOf(i), TX + BUFFER * i);
    from.driver.provide(RX + BUFFER * i);
  }
  from.driver.ring(1);
  from.thread.pump();
  const state = saveState(from.instance.ops);
  let loaded = 0;
  fc.assert(
    fc.property(mutationOf(state), (wrong) => {
      if (wrong.length > state.length) return;
      const outcome = resumeState(to.instance.ops, wrong);
      if (outcome !== 'ok') expect(outcome).toBe('EINVAL');
      else {
        loaded++;
        to.driver.setBusMaster(true);
        to.port.waiting.push(frameOf(1));
        to.port.signal();
        to.driver.ring(1);
        to.thread.pump();
        setDeviceState(to.instance.ops, VFIO_DEVICE_STATE_STOP);
      }
      to.instance.ops.reset?.();
      expect(to.instance.ops.migration?.getState()).toBe(VFIO_DEVICE_STATE_RUNNING);
      to.port.waiting.length = 0;
    }),
    { numRuns: 10_000 },
  );
  expect(loaded).toBeGreaterThan(300);
  expect(loaded).toBeLessThan(9700);
  to.port.sent.length = 0;
  Object.assign(to.driver, { tx, rx });
  to.driver.start({ queueSize: SIZE });
  to.driver.send(frameOf(3), TX);
  to.driver.ring(1);
  to.thread.pump();
  expect(to.port.sent.map((frame) => numberOf(frame))).toEqual([3]);
});
