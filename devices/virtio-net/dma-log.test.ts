/** A copy of guest memory that is brought up to date by the card's log has all that the card wrote. */
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
  VFIO_DEVICE_STATE_STOP,
} from '../../vfio/feature.js';
import { GuestMemory, maps } from './testing/guest.js';
import { allRemote, settleTurns } from './testing/remote-maps.js';
import { Workbench } from './testing/workbench.js';

const PAGE = 4096;
const SIZE = 64;
const RX = maps.main.iova + 0x8_0000;
const BYTES = 0x10_0000;

class LoggedCard implements Disposable {
  readonly memory = new GuestMemory();
  readonly bench: Workbench;
  readonly copy: Uint8Array;
  #offered = 0;
  #number = 0;

  constructor(readonly isRemote: boolean) {
    if (isRemote) this.memory.map(allRemote);
    this.bench = new Workbench({ net: 'fake' }, [], this.memory);
    this.bench.driver.start({ queueSize: SIZE });
    this.copy = Uint8Array.from(this.#memory);
    this.feature(VFIO_DEVICE_FEATURE_DMA_LOGGING_START | VFIO_DEVICE_FEATURE_SET, {
      logging: { pageSize: 4096n, ranges: [{ iova: iova(BigInt(maps.main.iova)), length: BigInt(BYTES) }] },
    });
  }

  get #memory(): Uint8Array {
    const at = this.memory.at(maps.main.iova);
    return this.memory.bytes.subarray(at, at + BYTES);
  }

  feature = (flags: number, input = {}) => deviceFeature(this.bench.instance.ops, flags, input);

  provide(count: number): void {
    const { rx } = this.bench.driver;
    for (let i = 0; i < count && this.#offered < SIZE - 1; i++, this.#offered++)
      rx.add([{ address: RX + 2048 * (rx.availIndex % SIZE), length: 2048, isDeviceWritable: true }]);
    this.bench.driver.ring(0);
  }

  deliver(count: number): void {
    for (let i = 0; i < count; i++)
      this.bench.port.waiting.push(new Uint8Array(60 + ((this.#number * 131) % 1200)).fill(++this.#number));
    this.bench.port.signal();
  }

  pump(): void {
    if (this.isRemote) settleTurns(this.bench.thread);
    else this.bench.thread.pump();
    this.#offered -= this.bench.driver.rx.reap().length;
  }

  /** Copies what the log says. Returns how many pages that was. */
  update(): number {
    const bitmap = new Uint8Array(BYTES / PAGE / 8);
    this.feature(VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT | VFIO_DEVICE_FEATURE_GET, {
      report: { iova: iova(BigInt(maps.main.iova)), length: BigInt(BYTES), pageSize: 4096n, bitmap },
    });
    let count = 0;
    for (let page = 0; page < BYTES / PAGE; page++) {
      if (((bitmap[page >> 3] as number) & (1 << (page & 7))) === 0) continue;
      this.copy.set(this.#memory.subarray(page * PAGE, (page + 1) * PAGE), page * PAGE);
      count++;
    }
    return count;
  }

  /** Pages that only the card writes, and that differ from the copy. */
  stale(): number[] {
    const { rx, tx } = this.bench.driver;
    const own = [rx.used, tx.used].map((at) => at - maps.main.iova);
    const isCards = (at: number) => own.includes(at) || at >= RX - maps.main.iova;
    return Array.from({ length: BYTES / PAGE }, (_, page) => page * PAGE)
      .filter(isCards)
      .filter(
        (at) => Buffer.compare(this.copy.subarray(at, at + PAGE), this.#memory.subarray(at, at + PAGE)) !== 0,
      );
  }

  [Symbol.dispose](): void {
    this.bench[Symbol.dispose]();
    this.memory[Symbol.dispose]();
  }
}

const step = fc.record({
  kind: fc.constantFrom('provide' as const, 'deliver' as const, 'pump' as const, 'update' as const),
  count: fc.integer({ min: 1, max: 20 }),
});

test.each([false, true])(
  'whenever the copy is updated, it has all once the card has stopped (remote memory: %s)',
  (isRemote) => {
    let pages = 0;
    fc.assert(
      fc.property(fc.array(step, { minLength: 5, maxLength: 30 }), (steps) => {
        using card = new LoggedCard(isRemote);
        for (const { kind, count } of steps) {
          if (kind === 'update') card.update();
          else if (kind === 'pump') card.pump();
          else card[kind](count);
        }
        setDeviceState(card.bench.instance.ops, VFIO_DEVICE_STATE_STOP);
        pages += card.update();
        expect(card.stale()).toEqual([]);
        expect(card.update()).toBe(0); // each page once
      }),
      { numRuns: 60 },
    );
    expect(pages).toBeGreaterThan(0);
  },
);

test('a copy without the log is stale: the log is what keeps it', () => {
  using card = new LoggedCard(false);
  card.provide(4);
  card.deliver(2);
  card.pump();
  expect(card.stale().length).toBeGreaterThan(1);
  expect(card.update()).toBeGreaterThan(1);
  expect(card.stale()).toEqual([]);
});

test('a log is started once, and ends with a stop and with the close', () => {
  using card = new LoggedCard(false);
  const start = () =>
    card.feature(VFIO_DEVICE_FEATURE_DMA_LOGGING_START | VFIO_DEVICE_FEATURE_SET, {
      logging: { pageSize: 4096n, ranges: [{ iova: iova(0n), length: 4096n }] },
    });
  expect(start).toThrowError(/START on virtio-net.*EINVAL\n.*on already/);
  card.feature(VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP | VFIO_DEVICE_FEATURE_SET);
  expect(() => card.update()).toThrowError(/REPORT on virtio-net.*EINVAL\n.*off/);
  start();
  card.bench.instance.ops.closeDevice();
  card.bench.instance.ops.openDevice(card.memory.open);
  expect(start().pageSize).toBe(4096n);
});
