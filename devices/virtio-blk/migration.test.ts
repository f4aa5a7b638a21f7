import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { setDeviceState } from '../../vfio/core/migration.js';
import {
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_STOP,
} from '../../vfio/feature.js';
import { HeldIo } from '../block/testing/held-io.js';
import { resumeState, saveState } from '../mdev/testing/migrate.js';
import { mutationOf } from '../mdev/testing/mutations.js';
import { type ChainBuffer, GuestMemory } from '../virtio-net/testing/guest.js';
import { allRemote, settleTurns } from '../virtio-net/testing/remote-maps.js';
import { taken } from '../virtio-net/testing/workbench.js';
import { DiskBench, diskFile, NO_STATUS, pattern, testFolder } from './testing/workbench.js';

const SECTORS = 128;
const BYTES = 512 * SECTORS;
const [READ, WRITE, FLUSH] = [0, 1, 4] as const;

/** A request of the guest's, and where its answer will be. */
interface Asked {
  readonly type: number;
  readonly sector: number;
  readonly data: number;
  readonly status: ChainBuffer;
  /** What a write writes, or a read must read. */
  readonly bytes: Uint8Array;
}

/** A guest with one disk image, behind one device after another. */
class MovedDisk implements Disposable {
  readonly #folder = testFolder();
  readonly file = diskFile(this.#folder.path, pattern(BYTES));
  readonly memory = new GuestMemory();
  readonly #isRemote: boolean;
  readonly #seed: number;
  readonly #asked: Asked[] = [];
  readonly #returned = new Set<number>();
  /** What the image has to hold at the end. */
  readonly #expected = pattern(BYTES);
  io!: HeldIo;
  bench: DiskBench;

  constructor(isRemote: boolean, seed: number) {
    this.#isRemote = isRemote;
    this.#seed = seed;
    if (isRemote) this.memory.map(allRemote);
    this.bench = this.#newBench().start();
  }

  /** The host does what is asked of it in an order of its own. */
  #newBench(): DiskBench {
    let turn = this.#seed;
    this.io = new HeldIo((count) => {
      turn = (turn * 75 + 74) % 65537;
      return turn % count;
    });
    return new DiskBench({ file: this.file }, this.io, this.memory);
  }

  /** No two requests of a history have a sector in common, as their order is the disk's. */
  ask(type: number): void {
    const sector = this.#asked.length;
    // Of 64 requests, each has a descriptor and a place for its data.
    if ((sector >= 64 && !this.#returned.has(sector - 64)) || sector >= SECTORS) return;
    const { data, status } = this.bench.offer(type, sector);
    const at = this.memory.at(data);
    const bytes =
      type === WRITE ? pattern(512, 100 + sector) : this.#expected.slice(512 * sector, 512 * sector + 512);
    if (type === READ) this.memory.bytes.fill(0, at, at + 512);
    else if (type === WRITE) {
      this.memory.bytes.set(bytes, at);
      this.#expected.set(bytes, 512 * sector);
    }
    this.#asked.push({ type, sector, data, status, bytes });
  }

  pump(): void {
    if (this.#isRemote) settleTurns(this.bench.thread);
    else this.bench.thread.pump();
  }

  /** The handler of the queue's interrupt. */
  interrupted(): void {
    if (taken(this.bench.vectors[1]!) === 0) return;
    const { queue } = this.bench;
    for (let isOver = false; !isOver; isOver = queue.usedIndex === this.#returned.size) {
      this.#reap();
      queue.usedEvent = this.#returned.size; // the next one is to interrupt
    }
  }

  #reap(): void {
    for (const { id } of this.bench.queue.reap()) {
      const request = this.#asked.findIndex((_each, i) => i % 64 === id && !this.#returned.has(i));
      const { type, data, status, bytes } = this.#asked[request] as Asked;
      this.#returned.add(request);
      expect(this.bench.statusAt(status)).toBe(0);
      const at = this.memory.at(data);
      if (type === READ)
        expect(Buffer.from(this.memory.bytes.slice(at, at + 512))).toEqual(Buffer.from(bytes));
    }
  }

  /** Goes on with another device, or with the same after a stop. */
  move(isNew: boolean): void {
    const { bench } = this;
    const state = saveState(bench.instance.ops);
    expect(this.io.busy).toBe(0); // all that has begun is done
    this.interrupted();
    if (!isNew) {
      setDeviceState(bench.instance.ops, VFIO_DEVICE_STATE_RUNNING);
      return;
    }
    this.pump();
    expect(taken(bench.vectors[1]!)).toBe(0);
    bench[Symbol.dispose]();
    const next = this.#newBench();
    this.bench = next;
    expect(resumeState(next.instance.ops, state)).toBe('ok');
    next.driver.setBusMaster(true);
    next.follow(bench);
  }

  /** Lets all requests end. */
  finish(): void {
    this.bench.driver.ring(0);
    for (let round = 0; round < 200 && this.#returned.size < this.#asked.length; round++) {
      this.pump();
      while (this.io.busy > 0) this.io.wait();
      this.bench.driver.ring(0);
      this.pump();
      this.interrupted();
    }
    expect(this.#returned.size).toBe(this.#asked.length);
    expect(this.bench.queue.usedIndex).toBe(this.#asked.length & 0xffff);
    expect(Buffer.compare(readFileSync(this.file), this.#expected)).toBe(0);
  }

  [Symbol.dispose](): void {
    this.bench[Symbol.dispose]();
    this.memory[Symbol.dispose]();
    this.#folder[Symbol.dispose]();
  }
}

const step = fc.oneof(
  fc.record({ kind: fc.constant('ask' as const), value: fc.constantFrom(READ, WRITE, FLUSH) }),
  fc.record({ kind: fc.constant('ring' as const), value: fc.constant(0) }),
  fc.record({ kind: fc.constant('done' as const), value: fc.nat(63) }),
  fc.record({ kind: fc.constant('interrupted' as const), value: fc.constant(0) }),
  fc.record({ kind: fc.constant('move' as const), value: fc.nat(2) }),
);

function moves(isRemote: boolean, numRuns: number): void {
  fc.assert(
    fc.property(fc.nat(65536), fc.array(step, { minLength: 5, maxLength: 60 }), (seed, steps) => {
      using disk = new MovedDisk(isRemote, seed);
      for (const { kind, value } of steps) {
        if (kind === 'ask') for (let i = 0; i < 3; i++) disk.ask(value);
        else if (kind === 'move') disk.move(value > 0);
        else if (kind === 'interrupted') disk.interrupted();
        else if (kind === 'done') {
          if (disk.io.busy > 0) disk.io.releaseAt(value % disk.io.busy);
        } else {
          disk.bench.driver.ring(0);
          disk.pump();
        }
      }
      disk.finish();
    }),
    { numRuns },
  );
}

test('stopped at any moment, and moved: each request is done, and returned once, with an interrupt', () => {
  moves(false, 60);
}, 120_000);

test('so it is with memory of another process', () => {
  moves(true, 20);
}, 120_000);

test('a stop waits for what has begun, and shows it; what waits is begun where the disk goes on', () => {
  using folder = testFolder();
  const io = new HeldIo();
  using bench = new DiskBench({ file: diskFile(folder.path, pattern(BYTES)) }, io);
  bench.start();
  const first = bench.offer(READ, 1);
  bench.driver.ring(0);
  bench.thread.pump();
  expect([io.busy, bench.statusAt(first.status)]).toEqual([1, NO_STATUS]);
  setDeviceState(bench.instance.ops, VFIO_DEVICE_STATE_STOP);
  expect([io.busy, bench.statusAt(first.status), bench.queue.usedIndex]).toEqual([0, 0, 1]);
  const second = bench.offer(READ, 2);
  bench.driver.ring(0);
  bench.thread.pump();
  expect([io.busy, bench.statusAt(second.status)]).toEqual([0, NO_STATUS]);
  setDeviceState(bench.instance.ops, VFIO_DEVICE_STATE_RUNNING);
  expect(io.busy).toBe(1);
});

test.each([
  ['another size', BYTES * 2, {}, /that of a disk of 65536 bytes/],
  ['no right to write', BYTES, { readonly: 'on' }, /features 0x[0-9a-f]+ were not offered/],
] as const)('a disk with %s does not take the state, and says why', (_what, bytes, options, says) => {
  using folder = testFolder();
  using from = new DiskBench({ file: diskFile(folder.path, pattern(BYTES), 'a') });
  using to = new DiskBench({ file: diskFile(folder.path, pattern(bytes), 'b'), ...options });
  from.start();
  const state = saveState(from.instance.ops);
  {
    using into = setDeviceState(to.instance.ops, VFIO_DEVICE_STATE_RESUMING);
    into?.write(state);
  }
  expect(() => setDeviceState(to.instance.ops, VFIO_DEVICE_STATE_STOP)).toThrowError(says);
  to.instance.ops.reset?.();
  to.start();
  expect(to.read(1, 512)).toEqual(pattern(bytes).slice(512, 1024));
});

test('10,000 wrong states are each refused, or do no harm, and a reset makes the disk work again', () => {
  using folder = testFolder();
  using memory = new GuestMemory();
  const file = (name: string) => diskFile(folder.path, pattern(BYTES), name);
  using from = new DiskBench({ file: file('a') }, undefined, memory);
  using to = new DiskBench({ file: file('b') }, undefined, memory);
  from.start();
  from.read(0, 512);
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
        to.driver.ring(0);
        to.thread.pump();
      }
      to.instance.ops.reset?.();
      expect(to.instance.ops.migration?.getState()).toBe(VFIO_DEVICE_STATE_RUNNING);
    }),
    { numRuns: 10_000 },
  );
  expect(loaded).toBeGreaterThan(300);
  expect(loaded).toBeLessThan(9700);
  to.start();
  expect(to.read(1, 512)).toEqual(pattern(BYTES).slice(512, 1024));
}, 120_000);
