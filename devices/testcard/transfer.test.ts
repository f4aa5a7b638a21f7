import { crc32 } from 'node:zlib';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { sleep } from '../../sys/child.js';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { maps } from '../virtio-net/testing/guest.js';
import { taken } from '../virtio-net/testing/workbench.js';
import {
  DMA_BUSY,
  DMA_CHECK,
  DMA_COPY,
  DMA_DONE,
  DMA_ERROR,
  DMA_FILL,
  DMA_IDLE,
  DMA_SCATTER,
  MOST_DMA_BYTES,
  REG_DMA_COMMAND,
  REG_DMA_CRC,
  REG_DMA_DELAY,
  REG_DMA_MOVED,
  REG_DMA_STATUS,
  REG_DMA_VECTOR,
  REG_FAULT,
  SCATTER_ENTRY_BYTES,
} from './spec.js';
import { CardBench } from './testing/card-bench.js';
import { PIECE_BYTES } from './transfer.js';

const BASE = maps.main.iova;
const FAR = 0x8000;

const bytesAt = ({ memory }: CardBench, iova: number, length: number): Uint8Array => {
  const at = memory.at(iova);
  return memory.bytes.subarray(at, at + length);
};
const fillPattern = (bench: CardBench, iova: number, length: number): Uint8Array => {
  const pattern = Uint8Array.from({ length }, (_, i) => (i * 7 + (i >> 8)) & 0xff);
  bytesAt(bench, iova, length).set(pattern);
  return pattern;
};

test('a copy moves the bytes, counts them, has their CRC-32, and interrupts by its vector', () => {
  using bench = new CardBench();
  const fds = bench.enable(4);
  const pattern = fillPattern(bench, BASE, 5000);
  bench.out(REG_DMA_VECTOR, 2);
  expect(bench.transfer(DMA_COPY, { source: BASE, target: BASE + FAR, length: 5000 })).toBe(DMA_DONE);
  expect(bytesAt(bench, BASE + FAR, 5000)).toEqual(pattern);
  expect(bench.in(REG_DMA_MOVED)).toBe(5000);
  expect(bench.in(REG_DMA_CRC)).toBe(crc32(pattern));
  expect(fds.map(taken)).toEqual([0, 0, 1, 0]);
});

test('fill writes the low byte of its value, and check only reads', () => {
  using bench = new CardBench();
  expect(bench.transfer(DMA_FILL, { target: BASE, length: 300, value: 0x1a5 })).toBe(DMA_DONE);
  expect(bytesAt(bench, BASE, 301)).toEqual(Uint8Array.of(...new Array(300).fill(0xa5), 0));
  expect(bench.transfer(DMA_CHECK, { source: BASE, length: 300 })).toBe(DMA_DONE);
  expect(bench.in(REG_DMA_CRC)).toBe(crc32(new Uint8Array(300).fill(0xa5)));
});

test('a list of copies is performed in order, and what it lists may overlap', () => {
  using bench = new CardBench();
  const pattern = fillPattern(bench, BASE, 64);
  const list = new DataView(new ArrayBuffer(2 * SCATTER_ENTRY_BYTES));
  for (const [i, [source, target, length]] of [
    [BASE, BASE + FAR, 64],
    [BASE + FAR, BASE + FAR + 32, 32],
  ].entries()) {
    list.setBigUint64(24 * i, BigInt(source as number), true);
    list.setBigUint64(24 * i + 8, BigInt(target as number), true);
    list.setUint32(24 * i + 16, length as number, true);
  }
  bytesAt(bench, BASE + 0x4000, list.byteLength).set(new Uint8Array(list.buffer));
  expect(bench.transfer(DMA_SCATTER, { source: BASE + 0x4000, length: 2 })).toBe(DMA_DONE);
  expect(bytesAt(bench, BASE + FAR, 64)).toEqual(
    Uint8Array.of(...pattern.subarray(0, 32), ...pattern.subarray(0, 32)),
  );
  expect(bench.in(REG_DMA_MOVED)).toBe(96);
});

test.each([
  ['a command that there is not', 9, { source: BASE, target: BASE, length: 1 }],
  ['no bytes', DMA_COPY, { source: BASE, target: BASE + FAR, length: 0 }],
  ['too many bytes', DMA_COPY, { source: BASE, target: BASE, length: MOST_DMA_BYTES + 1 }],
  ['a source that is not mapped', DMA_COPY, { source: 2 ** 40, target: BASE, length: 1 }],
  ['a source past every address', DMA_COPY, { source: 2 ** 63, target: BASE, length: 1 }],
  ['a target that is not mapped', DMA_FILL, { target: 2 ** 40, length: 1 }],
  ['a list of nothing', DMA_SCATTER, { source: BASE, length: 0 }],
  ['a list that is not mapped', DMA_SCATTER, { source: 2 ** 40, length: 1 }],
  ['a list of zeros', DMA_SCATTER, { source: BASE, length: 256 }],
])('%s is an error of the transfer, and moves nothing', (_what, command, parameters) => {
  using bench = new CardBench();
  expect(bench.transfer(command, parameters)).toBe(DMA_ERROR);
  expect(bench.in(REG_DMA_MOVED)).toBe(0);
});

test('without bus mastering a transfer is an error, and one that waits never takes place', () => {
  using bench = new CardBench();
  fillPattern(bench, BASE, 16);
  bench.out(REG_DMA_DELAY, 1);
  bench.begin(DMA_COPY, { source: BASE, target: BASE + FAR, length: 16 });
  expect(bench.in(REG_DMA_STATUS)).toBe(DMA_BUSY);
  bench.setConfig(4, 2, 2);
  expect(bench.in(REG_DMA_STATUS)).toBe(DMA_ERROR);
  sleep(3);
  bench.thread.pump();
  expect(bytesAt(bench, BASE + FAR, 16)).toEqual(new Uint8Array(16));
  expect(bench.transfer(DMA_COPY, { source: BASE, target: BASE + FAR, length: 16 })).toBe(DMA_ERROR);
});

test('a reset ends the transfer that waits', () => {
  using bench = new CardBench();
  fillPattern(bench, BASE, 16);
  bench.out(REG_DMA_DELAY, 1);
  bench.begin(DMA_COPY, { source: BASE, target: BASE + FAR, length: 16 });
  bench.ops.reset?.();
  sleep(3);
  bench.thread.pump();
  expect(bench.in(REG_DMA_STATUS)).toBe(DMA_IDLE);
  expect(bytesAt(bench, BASE + FAR, 16)).toEqual(new Uint8Array(16));
});

test('memory of another process is read and written by vfio_dma_rw, piece by piece', () => {
  using bench = new CardBench();
  const pattern = fillPattern(bench, BASE, PIECE_BYTES + 100);
  bench.memory.map([{ ...maps.main, isRemote: true }]);
  const [source, target, length] = [BASE, BASE + 2 * PIECE_BYTES, PIECE_BYTES + 100];
  expect(bench.transfer(DMA_COPY, { source, target, length })).toBe(DMA_DONE);
  expect(bytesAt(bench, target, length)).toEqual(pattern);
  expect(bench.in(REG_DMA_CRC)).toBe(crc32(pattern));
  expect(bench.memory.accesses.map(({ bytes, isWrite }) => [bytes, isWrite])).toEqual([
    [PIECE_BYTES, false],
    [PIECE_BYTES, true],
    [100, false],
    [100, true],
  ]);
});

test('an owner of memory that refuses an access makes the transfer an error', () => {
  using bench = new CardBench();
  bench.memory.map([{ ...maps.main, isRemote: true }]);
  fillPattern(bench, BASE, 16);
  bench.memory.onAccess = (_at, _bytes, isWrite) => {
    if (isWrite) throw new SysError({ call: 'vfio_dma_rw', target: 'guest', errno: errno.EPERM });
  };
  expect(bench.transfer(DMA_COPY, { source: BASE, target: BASE + FAR, length: 16 })).toBe(DMA_ERROR);
  expect(bytesAt(bench, BASE + FAR, 16)).toEqual(new Uint8Array(16));
  expect(bench.transfer(DMA_CHECK, { source: BASE, length: 16 })).toBe(DMA_DONE);
});

test('whatever a guest writes to the registers, the card answers, and the memory outside the target stays', () => {
  const writes = fc.array(fc.tuple(fc.nat(0x13), fc.oneof(fc.nat(255), fc.nat(), fc.constant(BASE))), {
    maxLength: 60,
  });
  fc.assert(
    fc.property(writes, (list) => {
      using bench = new CardBench({ ram: '4K', rom: '0' });
      bench.memory.map([{ ...maps.main, bytes: 0x1000 }]);
      for (const [index, value] of list) {
        const register = index * 4;
        // Not the one that takes time, nor the one that lets the card be pulled out.
        if (register !== REG_DMA_DELAY && register !== REG_FAULT) bench.out(register, value);
      }
      bench.out(REG_DMA_COMMAND, 0);
      bench.thread.pump();
      expect(bench.in(0)).toBe(0x64726163);
      expect(bytesAt(bench, BASE + 0x1000, 0x1000).every((byte) => byte === 0)).toBe(true);
    }),
    { numRuns: 60 },
  );
});
