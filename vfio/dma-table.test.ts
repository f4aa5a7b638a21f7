import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { createSharedMemory, PROT_READ, PROT_WRITE } from '../sys/mapping.js';
import { createDmaTable, type DmaTableEntry, DmaTableReader, DmaTableWriter } from './dma-table.js';

const BYTES = 0x10000;
const IOVA = 0x4000;
const BOTH = PROT_READ | PROT_WRITE;

test('a range is the same view until the table changes, and then the memory that the table has', () => {
  using memory = createSharedMemory('dma', BYTES);
  const { address } = memory.mapping.view;
  const bytes = memory.mapping.view.slice(0, BYTES);
  bytes.set([1, 2], 0);
  bytes.set([3, 4], 0x8000);
  const writer = new DmaTableWriter(createDmaTable(4));
  const reader = new DmaTableReader(writer.buffer);
  const map = (at: number, prot: number): DmaTableEntry => ({
    iova: IOVA,
    bytes: 0x4000,
    address: address + at,
    prot,
  });
  const look = (prot = PROT_READ): Uint8Array | undefined => {
    reader.enter();
    const view = reader.slice(IOVA, 2, prot);
    reader.leave();
    return view;
  };
  writer.replace([map(0, BOTH)]);
  const first = look();
  expect([...(first ?? [])]).toEqual([1, 2]);
  expect(look(), 'no garbage').toBe(first);
  expect(look(PROT_WRITE)).toBe(first);
  writer.replace([map(0x8000, PROT_READ)]);
  expect([...(look() ?? [])]).toEqual([3, 4]);
  expect(look(PROT_WRITE)).toBeUndefined();
  writer.replace([]);
  expect(look()).toBeUndefined();
});

test('whatever ranges are asked for, in whatever order, each is its own', () => {
  using memory = createSharedMemory('dma', BYTES);
  const writer = new DmaTableWriter(createDmaTable(4));
  const reader = new DmaTableReader(writer.buffer);
  const half = BYTES / 2;
  const { address } = memory.mapping.view;
  writer.replace([
    { iova: IOVA, bytes: half, address, prot: BOTH },
    { iova: IOVA + half, bytes: half, address: address + half, prot: PROT_READ },
  ]);
  reader.enter();
  const range = fc.record({
    at: fc.integer({ min: -64, max: BYTES + 64 }),
    bytes: fc.oneof(fc.nat(80), fc.constantFrom(256, 512, 4096, half, half + 1)),
    prot: fc.constantFrom(PROT_READ, PROT_WRITE),
  });
  fc.assert(
    fc.property(fc.array(range, { maxLength: 50 }), (ranges) => {
      for (const { at, bytes, prot } of ranges) {
        const view = reader.slice(IOVA + at, bytes, prot);
        const isInFirst = at >= 0 && at < half && at + bytes <= half;
        const isInSecond = at >= half && at < BYTES && at + bytes <= BYTES && prot === PROT_READ;
        expect(view === undefined).toBe(!isInFirst && !isInSecond);
        if (view === undefined) continue;
        expect([view.byteOffset, view.length]).toEqual([isInFirst ? at : at - half, bytes]);
      }
    }),
  );
  reader.leave();
});

/** Of the table's words, how many readers are between enter and leave. */
const READERS = 1;

/** Two readers of the table that are between enter and leave, and leave one after the other; each counts itself first. */
const LEAVING = `
const { workerData: { words, left }, parentPort } = require('node:worker_threads');
const nap = () => Atomics.wait(left, 1, 0, 20);
Atomics.add(words, ${READERS}, 2);
parentPort.postMessage('in');
for (let i = 0; i < 2; i++) {
  nap();
  Atomics.add(left, 0, 1);
  Atomics.sub(words, ${READERS}, 1);
  Atomics.notify(words, ${READERS});
}
`;

test('an unmap returns when no reader of any thread is in its burst', async () => {
  const writer = new DmaTableWriter(createDmaTable(4));
  const words = new Int32Array(writer.buffer, 0, 4);
  const left = new Int32Array(new SharedArrayBuffer(8));
  const worker = new Worker(LEAVING, { eval: true, workerData: { words, left } });
  await once(worker, 'message');
  writer.replace([]);
  expect(left[0]).toBe(2);
  await once(worker, 'exit');
});

test('a reader that leaves does not take another one out of its burst', () => {
  const writer = new DmaTableWriter(createDmaTable(4));
  const words = new Int32Array(writer.buffer, 0, 4);
  const [one, two] = [new DmaTableReader(writer.buffer), new DmaTableReader(writer.buffer)];
  one.enter();
  two.enter();
  one.leave();
  expect(words[READERS]).toBe(1);
  two.leave();
  expect(words[READERS]).toBe(0);
});
