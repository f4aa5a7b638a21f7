/** Several requests to a disk at a time. */
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { describe, expect, test, vi } from 'vitest';
import { HeldIo } from '../block/testing/held-io.js';
import { taken } from '../virtio-net/testing/workbench.js';
import { DiskBench, diskFile, NO_STATUS, pattern, testFolder } from './testing/workbench.js';

const BYTES = 64 << 10;
const [READ, WRITE, FLUSH] = [0, 1, 4];
const OK = 0;

function disk() {
  const folder = testFolder();
  const io = new HeldIo();
  const file = diskFile(folder.path, pattern(BYTES));
  const bench = new DiskBench({ file }, io);
  bench.start();
  const at = (address: number) => bench.memory.at(address);
  return {
    ...{ bench, io, file },
    /** Rings, and lets the device begin. */
    begin() {
      bench.driver.ring(0);
      bench.thread.pump();
    },
    /** What a completion of the host's does: the queue has its turn. */
    turn() {
      bench.driver.ring(0);
      bench.thread.pump();
    },
    data: (address: number) => bench.memory.bytes.slice(at(address), at(address) + 512),
    [Symbol.dispose]() {
      bench[Symbol.dispose]();
      folder[Symbol.dispose]();
    },
  };
}

test('a flush that takes its time holds up neither reads nor writes, and each is returned when it is done', () => {
  using d = disk();
  const { bench, io } = d;
  const flush = bench.offer(FLUSH, 0);
  const read = bench.offer(READ, 3);
  const write = bench.offer(WRITE, 5);
  d.begin();
  expect(io.held).toEqual(['sync', 'read', 'write']);
  io.release('write');
  io.release('read');
  d.turn();
  expect([flush, read, write].map(({ status }) => bench.statusAt(status))).toEqual([NO_STATUS, OK, OK]);
  expect(d.data(read.data)).toEqual(pattern(BYTES).slice(1536, 2048));
  expect(bench.queue.reap().map(({ length }) => length)).toEqual([1, 513]);
  io.release('sync');
  d.turn();
  expect(bench.statusAt(flush.status)).toBe(OK);
  expect(bench.queue.reap()).toEqual([{ id: 0, length: 1 }]);
  expect(bench.instance.counters()).toMatchObject({ reads: 1, writes: 1, flushes: 1, errors: 0 });
});

test('a write of a driver that does not flush is returned once it is on the disk', () => {
  using d = disk();
  const { bench, io } = d;
  bench.start(bench.driver.offered & ~(1n << 9n));
  const { status } = bench.offer(WRITE, 0);
  d.begin();
  io.release('write');
  d.turn();
  expect([io.held, bench.statusAt(status)]).toEqual([['sync'], NO_STATUS]);
  io.release('sync');
  d.turn();
  expect(bench.statusAt(status)).toBe(OK);
});

test('no more than 64 are begun, and the next ones as room appears', () => {
  using d = disk();
  const { bench, io } = d;
  bench.start(undefined, 128);
  for (let i = 0; i < 100; i++) bench.offer(READ, i);
  d.begin();
  expect(io.busy).toBe(64);
  for (let i = 0; i < 3; i++) io.release('read');
  d.turn();
  expect([io.busy, bench.queue.reap().length]).toEqual([64, 3]);
  while (io.busy > 0) {
    io.release('read');
    d.turn();
  }
  expect(bench.queue.usedIndex).toBe(100);
});

describe('a reset while requests are not done', () => {
  test('waits for them, returns none, and touches neither rings nor statuses', () => {
    using d = disk();
    const { bench, io, file } = d;
    const requests = [bench.offer(READ, 1), bench.offer(WRITE, 2), bench.offer(FLUSH, 0)];
    d.begin();
    expect(io.busy).toBe(3);
    taken(bench.vectors[1]!);
    bench.driver.status = 0;
    expect(io.busy).toBe(0);
    const memory = bench.memory.bytes.slice();
    bench.thread.pump();
    expect(requests.map(({ status }) => bench.statusAt(status))).toEqual([NO_STATUS, NO_STATUS, NO_STATUS]);
    expect(bench.queue.usedIndex).toBe(0);
    expect(taken(bench.vectors[1]!)).toBe(0);
    expect(Buffer.compare(memory, bench.memory.bytes)).toBe(0);
    // The write was on its way: it is done, as on hardware.
    expect(readFileSync(file).length).toBe(BYTES);
    bench.start();
    const again = bench.offer(READ, 1);
    d.begin();
    io.release('read');
    d.turn();
    expect(bench.statusAt(again.status)).toBe(OK);
  });

  test('of a disk that is closed has all of them done, and nothing held', () => {
    const d = disk();
    d.bench.offer(WRITE, 2);
    d.bench.offer(FLUSH, 0);
    d.begin();
    d[Symbol.dispose]();
    expect(d.io.busy).toBe(0);
  });
});

test('what comes of requests after a violation is dropped', () => {
  using d = disk();
  const { bench, io } = d;
  const { status } = bench.offer(READ, 1);
  d.begin();
  bench.queue.add([bench.frame(READ, 0).header]);
  d.begin();
  expect(bench.driver.status & 0x40).toBe(0x40);
  io.release('read');
  d.turn();
  expect(bench.statusAt(status)).toBe(NO_STATUS);
  expect(bench.queue.usedIndex).toBe(0);
});

test('an error of the host is that of its own request', () => {
  using d = disk();
  const { bench, io } = d;
  const bad = bench.offer(READ, 1);
  const good = bench.offer(READ, 2);
  d.begin();
  io.fail('read', -5);
  io.release('read');
  d.turn();
  expect([bad, good].map(({ status }) => bench.statusAt(status))).toEqual([1, OK]);
  expect(bench.instance.counters()).toMatchObject({ reads: 1, errors: 1 });
});

/** Changes the table of maps as DmaTableWriter does: waits until nobody uses the old maps. */
const WRITER = `
  const { parentPort, workerData } = require('node:worker_threads');
  const words = new Int32Array(workerData, 0, 4);
  Atomics.add(words, 0, 1);
  for (let left = Atomics.load(words, 1); left > 0; left = Atomics.load(words, 1)) Atomics.wait(words, 1, left, 100);
  Atomics.add(words, 0, 1);
  Atomics.notify(words, 0);
  parentPort.postMessage('changed');`;

test('a change of the maps waits for what has begun, and what has not waits for the change', async () => {
  using d = disk();
  const { bench, io } = d;
  const words = new Int32Array(bench.memory.table, 0, 4);
  const before = Atomics.load(words, 0);
  const first = [bench.offer(READ, 1), bench.offer(READ, 2)];
  d.begin();
  const writer = new Worker(WRITER, { eval: true, workerData: bench.memory.table });
  const [changed, ended] = [once(writer, 'message'), once(writer, 'exit')];
  await vi.waitFor(() => expect(Atomics.load(words, 0)).toBe(before + 1), 10_000);
  const late = bench.offer(READ, 3);
  d.begin();
  expect(io.held).toEqual(['read', 'read']);
  io.release('read');
  d.turn();
  expect([io.held, Atomics.load(words, 0)]).toEqual([['read'], before + 1]);
  io.release('read');
  d.turn();
  await changed;
  expect([io.held, Atomics.load(words, 0)]).toEqual([['read'], before + 2]);
  io.release('read');
  d.turn();
  expect([...first, late].map(({ status }) => bench.statusAt(status))).toEqual([OK, OK, OK]);
  await ended;
});
