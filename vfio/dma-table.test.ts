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
