/** The log of a card whose packets the kernel moves: it has what the kernel writes, too. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { iova } from '../../sys/address.js';
import { deviceFeature } from '../../vfio/core/device-feature.js';
import { setDeviceState } from '../../vfio/core/migration.js';
import {
  VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_STOP,
} from '../../vfio/feature.js';
import { FakeVhostKernel } from '../net/testing/fake-vhost-kernel.js';
import { type GuestMap, maps } from './testing/guest.js';
import { hear, settle, unmap, vhostOf } from './testing/kernel-card.js';
import { PairedDriver } from './testing/paired-driver.js';
import { Workbench } from './testing/workbench.js';

const PAGE = 4096;
const SIZE = 64;
const MSIX = 2;
/** Buffers lie in two maps, and are whole pages. */
const RX = maps.main.iova + 0x1f_0000;
const BYTES = maps.main.bytes + maps.next.bytes;
const LOG_ALL = 1n << 26n;

const frameOf = (length: number, seed = 1): Uint8Array => new Uint8Array(length).fill(seed);

class KernelCard implements Disposable {
  readonly bench: Workbench;
  readonly told = hear().told;

  constructor(
    readonly kernels: readonly FakeVhostKernel[] = [new FakeVhostKernel()],
    options: Record<string, string> = {},
  ) {
    this.bench = new Workbench({ net: 'vhost:tap0', ...options }, [vhostOf(kernels)]);
  }

  get kernel(): FakeVhostKernel {
    return this.kernels[0] as FakeVhostKernel;
  }

  get isLogged(): readonly boolean[] {
    return this.kernels.map(
      ({ accepted, rings }) =>
        (accepted & LOG_ALL) !== 0n || rings.some(({ isOn, logAddress }) => isOn && logAddress !== undefined),
    );
  }

  feature = (flags: number, input = {}) => deviceFeature(this.bench.instance.ops, flags, input);

  startLog(from: number = maps.main.iova, bytes: number = BYTES): void {
    this.feature(VFIO_DEVICE_FEATURE_DMA_LOGGING_START | VFIO_DEVICE_FEATURE_SET, {
      logging: { pageSize: BigInt(PAGE), ranges: [{ iova: iova(BigInt(from)), length: BigInt(bytes) }] },
    });
  }

  stopLog(): void {
    this.feature(VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP | VFIO_DEVICE_FEATURE_SET);
  }

  /** IOVAs of the pages that have been written. */
  report(from: number = maps.main.iova, bytes: number = BYTES): number[] {
    const bitmap = new Uint8Array(bytes / PAGE / 8);
    this.feature(VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT | VFIO_DEVICE_FEATURE_GET, {
      report: { iova: iova(BigInt(from)), length: BigInt(bytes), pageSize: BigInt(PAGE), bitmap },
    });
    return Array.from({ length: bytes / PAGE }, (_, page) => page)
      .filter((page) => ((bitmap[page >> 3] as number) & (1 << (page & 7))) !== 0)
      .map((page) => from + page * PAGE);
  }

  turn(): void {
    settle(this.bench, this.kernels);
  }

  receive(address: number, frame: Uint8Array): void {
    this.bench.driver.provide(address);
    this.bench.driver.ring(0);
    this.kernel.deliver(frame);
    this.turn();
  }

  send(length = 60, address = maps.next.iova + 0x8_0000): void {
    this.bench.driver.send(frameOf(length), address);
    this.bench.driver.ring(1);
    this.turn();
  }

  /** Pages of the used rings. */
  get used(): { readonly rx: number; readonly tx: number } {
    const { rx, tx } = this.bench.driver;
    return { rx: rx.used, tx: tx.used };
  }

  unmap(gone: GuestMap, rest: readonly GuestMap[]): void {
    unmap(this.bench, gone, rest);
  }

  [Symbol.dispose](): void {
    this.bench[Symbol.dispose]();
  }
}

test('the pages that the kernel writes are reported, once, and no others are', () => {
  using card = new KernelCard();
  card.bench.driver.start();
  card.receive(RX, frameOf(1500));
  card.startLog();
  expect(card.report()).toEqual([]);
  const { rx, tx } = card.used;
  // A frame with its header across two pages, of a buffer with a third one.
  card.bench.driver.provide(RX + PAGE - 20, 3 * PAGE);
  card.kernel.deliver(frameOf(1500));
  card.turn();
  expect(card.report()).toEqual([rx, RX, RX + PAGE]);
  expect(card.report()).toEqual([]);
  card.send();
  expect(card.report()).toEqual([tx]);
  expect(card.kernel.moved).toEqual({ sent: 0, received: 0 });
  card.stopLog();
  expect(card.isLogged).toEqual([false]);
  card.receive(RX, frameOf(60));
  expect(() => card.report()).toThrowError(/off/);
});

test('a report of a range leaves the pages of others for theirs', () => {
  using card = new KernelCard();
  card.bench.driver.start();
  card.startLog();
  card.receive(RX, frameOf(60));
  card.receive(maps.next.iova, frameOf(60));
  expect(card.report(maps.next.iova, maps.next.bytes)).toEqual([maps.next.iova]);
  // The start of a queue writes its used ring's flags; it was before the log.
  expect(card.report(maps.main.iova, maps.main.bytes)).toEqual([card.used.rx, RX]);
});

test('a driver that starts, or resets and starts again, while the log is on is logged', () => {
  using card = new KernelCard();
  card.startLog();
  for (let i = 0; i < 2; i++) {
    card.bench.driver.start();
    card.receive(RX, frameOf(60));
    card.bench.driver.status = 0;
    expect(card.report()).toEqual([card.used.rx, card.used.tx, RX]);
  }
  card.bench.driver.start();
  card.stopLog();
  expect(card.isLogged).toEqual([false]);
});

test('memory that comes and goes is logged, and what was written before it went is reported', () => {
  using card = new KernelCard();
  card.bench.memory.map([maps.main]);
  card.bench.driver.start();
  card.startLog();
  card.bench.memory.mapAll();
  card.receive(maps.next.iova, frameOf(60));
  card.turn();
  expect(card.kernel.regions).toHaveLength(2);
  card.unmap(maps.next, [maps.main]);
  expect(card.report()).toEqual([card.used.rx, maps.next.iova]);
  expect(card.told).toHaveLength(1);
});

test('memory beyond 1 TiB has START refused; if it comes later, this process takes over, and logs', () => {
  const far = { ...maps.next, iova: 2 ** 40 };
  using card = new KernelCard();
  card.bench.memory.map([maps.main, far]);
  card.bench.driver.start();
  expect(() => card.startLog()).toThrowError(/START on vhost-net.*E2BIG\n.*beyond 1 TiB/);
  expect(card.isLogged).toEqual([false]);
  expect(card.kernel.running).toEqual([0, 1]);
  card.unmap(far, [maps.main]);
  card.startLog();
  card.bench.memory.map([maps.main, far]);
  card.bench.driver.provide(far.iova);
  card.bench.driver.ring(0);
  card.kernel.deliver(frameOf(60));
  for (let i = 0; i < 3; i++) card.turn();
  expect(card.told.at(-1)).toMatch(/its memory reaches beyond 1 TiB, where what it writes cannot be logged$/);
  expect(card.kernel.running).toEqual([]);
  card.receive(RX, frameOf(60));
  expect(card.kernel.moved.received).toBe(2);
  expect(card.report()).toContain(RX);
});

test('the highest memory that can be logged is', () => {
  const high = { ...maps.next, iova: 2 ** 40 - maps.next.bytes };
  using card = new KernelCard();
  card.bench.memory.map([maps.main, high]);
  card.bench.driver.start();
  card.startLog(high.iova, high.bytes);
  const last = high.iova + high.bytes - PAGE;
  card.bench.driver.provide(last);
  card.kernel.deliver(frameOf(60));
  card.turn();
  expect(card.report(high.iova, high.bytes)).toEqual([last]);
});

test('once this process has taken over, the pages that the kernel wrote and its own are reported', () => {
  using card = new KernelCard();
  card.bench.driver.start();
  card.startLog();
  card.receive(RX, frameOf(60));
  // For one direction only, which the kernel cannot be given.
  card.send(60, maps.readOnly.iova);
  expect(card.told.at(-1)).toMatch(/in place of vhost-net/);
  card.receive(RX + PAGE, frameOf(60));
  expect(card.kernel.moved).toEqual({ sent: 1, received: 1 });
  const { rx, tx } = card.used;
  expect(card.report()).toEqual([rx, tx, RX, RX + PAGE]);
  // A reset gives the queues back to the kernel, which logs on.
  card.bench.driver.start();
  card.receive(RX, frameOf(60));
  expect(card.kernel.moved.received).toBe(1);
  expect(card.report()).toContain(RX);
});

test('what the kernel wrote is reported though its file had to be closed', () => {
  using card = new KernelCard();
  card.bench.driver.start();
  card.startLog();
  card.kernel.isSlowToMark = true;
  card.receive(RX, frameOf(60));
  card.kernel.refused.set('SET_VRING_CALL', 'ENOMEM');
  card.bench.wire(MSIX, 3);
  expect(card.kernel.files).toEqual(['tap']);
  card.receive(RX + PAGE, frameOf(60));
  expect(card.report()).toEqual(expect.arrayContaining([card.used.rx, RX, RX + PAGE]));
  card.stopLog();
  card.startLog();
  card.receive(RX, frameOf(60));
  expect(card.report()).toEqual([card.used.rx, card.used.tx, RX]);
});

test.each(['SET_LOG_BASE', 'SET_FEATURES', 'SET_VRING_ADDR'])(
  'a kernel that refuses %s has START refused, and nothing of it is left on',
  (call) => {
    using card = new KernelCard();
    card.bench.driver.start();
    card.kernel.refused.set(call, 'EFAULT');
    expect(() => card.startLog()).toThrowError(new RegExp(`VHOST_${call} on /dev/vhost-net.*EFAULT`));
    expect(() => card.report()).toThrowError(/off/);
    expect(card.isLogged).toEqual([false]);
    card.kernel.refused.clear();
    // What cannot be turned off again is closed.
    expect(card.kernel.files).toEqual(call === 'SET_LOG_BASE' ? ['tap', 'vhost-net'] : ['tap']);
    card.startLog();
    card.receive(RX, frameOf(60));
    expect(card.report()).toContain(RX);
    expect(card.kernel.moved.received).toBe(call === 'SET_LOG_BASE' ? 0 : 1);
  },
);

test('a kernel that refuses to end the log is closed', () => {
  using card = new KernelCard();
  card.bench.driver.start();
  card.startLog();
  card.kernel.refused.set('SET_FEATURES', 'EFAULT');
  card.stopLog();
  expect(card.kernel.files).toEqual(['tap']);
  card.send();
  expect(card.kernel.moved.sent).toBe(1);
});

test('of several queue pairs, each is logged, and one that refuses leaves none on', () => {
  using card = new KernelCard([new FakeVhostKernel(), new FakeVhostKernel()], { queues: '2' });
  const { bench, kernels } = card;
  const guest = new PairedDriver(bench.driver);
  guest.start();
  const answer = guest.setPairs(2);
  card.turn();
  expect(answer()).toBe(0);
  kernels[1]!.refused.set('SET_LOG_BASE', 'EFAULT');
  expect(() => card.startLog()).toThrowError(/EFAULT/);
  expect(card.isLogged).toEqual([false, false]);
  kernels[1]!.refused.clear();
  card.startLog();
  guest.provide(0, RX);
  guest.provide(1, RX + PAGE);
  for (const kernel of kernels) kernel.deliver(frameOf(60));
  card.turn();
  // Its doorbell has the control queue served once more, a millisecond later: before the log starts, or after.
  const pages = card.report().filter((page) => page !== guest.control.used);
  expect(pages).toEqual([guest.rx[0]!.used, guest.rx[1]!.used, RX, RX + PAGE].sort((a, b) => a - b));
  card.stopLog();
  expect(card.isLogged).toEqual([false, false]);
});

test('a kernel that cannot log is said, and its card has no log', () => {
  const kernel = new FakeVhostKernel();
  kernel.features &= ~LOG_ALL;
  using card = new KernelCard([kernel]);
  expect(card.bench.instance.ops.dmaLogging).toBeUndefined();
  expect(card.told).toEqual([
    'virtio-net, net=vhost:tap0: the kernel moves its packets (vhost-net), and cannot log the pages that it writes',
  ]);
});

test('a card that is closed while it is logged leaves nothing on, and can be opened and logged again', () => {
  using card = new KernelCard();
  card.bench.driver.start();
  card.startLog();
  card.bench.instance.ops.closeDevice();
  expect(card.isLogged).toEqual([false]);
  card.bench.instance.ops.openDevice(card.bench.memory.open);
  card.bench.driver.start();
  card.startLog();
  card.receive(RX, frameOf(60));
  expect(card.report()).toContain(RX);
});

/** A copy of guest memory that is brought up to date by the log. */
class Copied {
  readonly card = new KernelCard();
  readonly copy: Uint8Array;
  #offered = 0;
  #number = 0;
  #isStopped = false;

  constructor(readonly takesLog = true) {
    this.card.bench.driver.start({ queueSize: SIZE });
    this.card.kernel.isSlowToMark = true;
    this.card.startLog();
    this.copy = Uint8Array.from(this.card.bench.memory.bytes);
  }

  act(kind: (typeof KINDS)[number], count: number): void {
    const { card } = this;
    const { driver, memory, thread, instance } = card.bench;
    switch (kind) {
      case 'provide':
        for (let i = 0; i < count && this.#offered < SIZE - 1; i++, this.#offered++)
          driver.provide(RX + 2048 * (driver.rx.availIndex % SIZE));
        driver.ring(0);
        return;
      case 'deliver':
        for (let i = 0; i < count; i++)
          card.kernel.deliver(frameOf(60 + ((this.#number * 131) % 1200), ++this.#number));
        return;
      case 'work':
        thread.pump();
        card.kernel.work();
        thread.pump();
        if (!this.#isStopped) this.#offered -= driver.rx.reap().length;
        return;
      case 'mark':
        card.kernel.mark(count);
        return;
      case 'update':
        this.update();
        return;
      case 'master':
        driver.setBusMaster(false);
        driver.setBusMaster(true);
        return;
      case 'remap':
        card.unmap(maps.next, [maps.main, maps.readOnly]);
        memory.mapAll();
        return;
      case 'pause':
        this.#isStopped = !this.#isStopped;
        setDeviceState(instance.ops, this.#isStopped ? VFIO_DEVICE_STATE_STOP : VFIO_DEVICE_STATE_RUNNING);
    }
  }

  stop(): void {
    if (!this.#isStopped) this.act('pause', 1);
    this.update();
  }

  update(): void {
    if (!this.takesLog) return;
    const { memory } = this.card.bench;
    for (const page of this.card.report()) {
      const at = memory.at(page);
      this.copy.set(memory.bytes.subarray(at, at + PAGE), at);
    }
  }

  /** Pages that only the kernel writes, and that differ from the copy. */
  stale(): number[] {
    const { memory } = this.card.bench;
    const { rx, tx } = this.card.used;
    const buffers = Array.from({ length: (SIZE * 2048) / PAGE }, (_, i) => RX + i * PAGE);
    return [rx, tx, ...buffers].filter((page) => {
      const at = memory.at(page);
      return Buffer.compare(this.copy.subarray(at, at + PAGE), memory.bytes.subarray(at, at + PAGE)) !== 0;
    });
  }

  [Symbol.dispose](): void {
    this.card[Symbol.dispose]();
  }
}

const KINDS = ['provide', 'deliver', 'work', 'mark', 'update', 'master', 'remap', 'pause'] as const;
const step = fc.record({ kind: fc.constantFrom(...KINDS), count: fc.integer({ min: 1, max: 20 }) });

test('however the kernel’s writes, its marks and the reports mix, a copy has all once the card has stopped', () => {
  let stale = 0;
  fc.assert(
    fc.property(fc.array(step, { minLength: 8, maxLength: 40 }), (steps) => {
      using copied = new Copied();
      for (const { kind, count } of steps) copied.act(kind, count);
      stale += copied.stale().length;
      copied.stop();
      expect(copied.stale()).toEqual([]);
      expect(copied.card.report()).toEqual([]);
    }),
    { numRuns: 60 },
  );
  // The last reports were needed.
  expect(stale).toBeGreaterThan(0);
});

test('a copy without the reports is stale', () => {
  using copied = new Copied(false);
  for (const kind of ['provide', 'deliver', 'work'] as const) copied.act(kind, 2);
  copied.stop();
  expect(copied.stale().length).toBeGreaterThan(1);
});
