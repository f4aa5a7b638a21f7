import { expect, test } from 'vitest';
import { VFIO_USER_DMA_READ as READ, VFIO_USER_DMA_WRITE as WRITE } from '../protocol.js';
import { bytes } from '../testing/peers/session.js';
import { serveDma } from './dma-request.js';

const MOST = 1 << 20;

/** The reply to a request, and what memory was asked for; a read finds 7s. */
function served(command: number, payload: Uint8Array) {
  const asked: unknown[] = [];
  const reply = serveDma(command, payload, (at, data, isWrite) => {
    asked.push([at, [...data], isWrite]);
    if (!isWrite) data.fill(7);
  });
  return { reply: [...reply], asked };
}

test('a read is answered with its range and the data, a write with its range', () => {
  expect(served(READ, bytes(0x1_0000_0000n, 3n))).toEqual({
    reply: [...bytes(0x1_0000_0000n, 3n, [7, 7, 7])],
    asked: [[0x1_0000_0000n, [0, 0, 0], false]],
  });
  expect(served(WRITE, bytes(8n, 2n, [5, 6]))).toEqual({
    reply: [...bytes(8n, 2n)],
    asked: [[8n, [5, 6], true]],
  });
});

test('a request has 1 MiB at most', () => {
  expect(served(READ, bytes(0n, BigInt(MOST))).reply).toHaveLength(16 + MOST);
  expect(() => served(READ, bytes(0n, BigInt(MOST + 1)))).toThrowError(/EINVAL\n.*1048577 bytes at once/);
});

test.each([
  ['another command', 13, bytes(0n, 0n)],
  ['less data than it says', WRITE, bytes(0n, 2n, [1])],
  ['half a range', READ, bytes(0n, 1)],
])('%s is EINVAL', (_what, command, payload) => {
  expect(() => served(command, payload)).toThrowError(/EINVAL/);
});
