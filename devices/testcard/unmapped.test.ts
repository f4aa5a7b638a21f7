import { crc32 } from 'node:zlib';
import { expect, test } from 'vitest';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { maps } from '../virtio-net/testing/guest.js';
import {
  DMA_BUSY,
  DMA_COPY,
  DMA_DONE,
  DMA_ERROR,
  DMA_FILL,
  DMA_IDLE,
  DMA_SCATTER,
  REG_DMA_CRC,
  REG_DMA_MOVED,
  REG_DMA_STATUS,
  SCATTER_ENTRY_BYTES,
} from './spec.js';
import { CardBench } from './testing/card-bench.js';
import { PIECE_BYTES } from './transfer.js';

const BASE = maps.main.iova;
/** Where no map is. */
const OUTSIDE = 2 ** 40;

interface Question {
  readonly at: number;
  readonly data: Uint8Array;
  readonly isWrite: boolean;
  readonly answer: (error?: SysError) => void;
}

/** A card whose accesses outside its maps are asked for. @param answer by itself, if there is one */
function askingCard(answer?: (question: Question) => void) {
  const bench = new CardBench();
  const questions: Question[] = [];
  bench.memory.unmapped = {
    access(at, data, isWrite, done) {
      const question = { at: Number(at), data, isWrite, answer: (error?: SysError) => done(error) };
      questions.push(question);
      answer?.(question);
    },
  };
  return { bench, questions };
}
const refused = new SysError({ call: 'access', target: 'outside', errno: errno.EFAULT });
const told = (questions: readonly Question[]) =>
  questions.map(({ at, data, isWrite }) => [isWrite, at, data.length]);

test('what no map covers is asked for, by what is written there, and an answer that comes at once ends it', () => {
  const asking = askingCard(({ answer }) => answer());
  using bench = asking.bench;
  const bytes = bench.memory.bytes.subarray(bench.memory.at(BASE), bench.memory.at(BASE) + 100);
  bytes.fill(7);
  expect(bench.transfer(DMA_COPY, { source: BASE, target: OUTSIDE, length: 100 })).toBe(DMA_DONE);
  expect(told(asking.questions)).toEqual([[true, OUTSIDE, 100]]);
  expect(asking.questions[0]?.data).toEqual(new Uint8Array(100).fill(7));
  expect(bench.in(REG_DMA_CRC)).toBe(crc32(new Uint8Array(100).fill(7)));
});

test('a transfer that waits for answers is busy, goes on piece by piece, and has what was answered', () => {
  const asking = askingCard();
  using bench = asking.bench;
  const length = PIECE_BYTES + 100;
  expect(bench.transfer(DMA_COPY, { source: OUTSIDE, target: BASE, length })).toBe(DMA_BUSY);
  const [first] = asking.questions;
  first?.data.fill(1);
  first?.answer();
  expect(bench.in(REG_DMA_STATUS)).toBe(DMA_BUSY);
  const second = asking.questions[1];
  second?.data.fill(2);
  second?.answer();
  expect(bench.in(REG_DMA_STATUS)).toBe(DMA_DONE);
  expect(told(asking.questions)).toEqual([
    [false, OUTSIDE, PIECE_BYTES],
    [false, OUTSIDE + PIECE_BYTES, 100],
  ]);
  const at = bench.memory.at(BASE);
  const expected = Buffer.concat([Buffer.alloc(PIECE_BYTES, 1), Buffer.alloc(100, 2)]);
  expect(Buffer.compare(bench.memory.bytes.subarray(at, at + length), expected)).toBe(0);
});

test('a list, what it reads and what it writes may all be outside', () => {
  const list = new DataView(new ArrayBuffer(SCATTER_ENTRY_BYTES));
  list.setBigUint64(0, BigInt(OUTSIDE), true);
  list.setBigUint64(8, BigInt(2 * OUTSIDE), true);
  list.setUint32(16, SCATTER_ENTRY_BYTES, true);
  const asking = askingCard(({ data, isWrite, answer }) => {
    if (!isWrite) data.set(new Uint8Array(list.buffer));
    answer();
  });
  using bench = asking.bench;
  expect(bench.transfer(DMA_SCATTER, { source: OUTSIDE, length: 1 })).toBe(DMA_DONE);
  expect(told(asking.questions)).toEqual([
    [false, OUTSIDE, SCATTER_ENTRY_BYTES],
    [true, 2 * OUTSIDE, SCATTER_ENTRY_BYTES],
  ]);
  expect(asking.questions[1]?.data).toEqual(new Uint8Array(list.buffer));
});

test('a refusal, at once or later, is an error of the transfer, and nothing else is asked for', () => {
  for (const isLater of [false, true]) {
    const asking = askingCard(({ answer }) => {
      if (!isLater) answer(refused);
    });
    using bench = asking.bench;
    bench.transfer(DMA_FILL, { target: OUTSIDE, length: 2 * PIECE_BYTES });
    if (isLater) asking.questions[0]?.answer(refused);
    expect(bench.in(REG_DMA_STATUS)).toBe(DMA_ERROR);
    expect(bench.in(REG_DMA_MOVED)).toBe(0);
    expect(asking.questions).toHaveLength(1);
  }
});

test('the fault dma-astray asks for addresses that no guest has', () => {
  const asking = askingCard(({ answer }) => answer(refused));
  using bench = asking.bench;
  bench.instance.inject?.('dma-astray');
  expect(bench.transfer(DMA_FILL, { target: BASE, length: 16 })).toBe(DMA_ERROR);
  expect(told(asking.questions)).toEqual([[true, BASE + 2 ** 46, 16]]);
});

test('an answer to a transfer that a reset has ended changes nothing', () => {
  const asking = askingCard();
  using bench = asking.bench;
  bench.transfer(DMA_FILL, { target: OUTSIDE, length: 2 * PIECE_BYTES });
  bench.ops.reset?.();
  asking.questions[0]?.answer();
  expect(bench.in(REG_DMA_STATUS)).toBe(DMA_IDLE);
  expect(asking.questions).toHaveLength(1);
});

test('what a map does not allow is not asked for', () => {
  const asking = askingCard(({ answer }) => answer());
  using bench = asking.bench;
  expect(bench.transfer(DMA_FILL, { target: maps.readOnly.iova, length: 16 })).toBe(DMA_ERROR);
  expect(asking.questions).toEqual([]);
});
