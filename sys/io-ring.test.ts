import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, describe, expect, test } from 'vitest';
import { errno } from './errno.js';
import {
  IORING_FSYNC_DATASYNC,
  IORING_OP_FALLOCATE,
  IORING_OP_FSYNC,
  IORING_OP_READV,
  IORING_OP_WRITEV,
  type IoOperation,
  IoRing,
} from './io-ring.js';

const folder = mkdtempSync(join(tmpdir(), 'tsvisor-ring-'));
afterAll(() => rmSync(folder, { recursive: true }));
const file = join(folder, 'file');
const PUNCH_KEEP_SIZE = 3;

const hasRing = (() => {
  using ring = IoRing.open(2);
  return ring !== undefined;
})();
const open = (entries: number): IoRing => IoRing.open(entries) as IoRing;

/** Does an operation, and waits for its result. */
function result(ring: IoRing, operation: Omit<IoOperation, 'done'>): number {
  let got: number | undefined;
  ring.begin({
    ...operation,
    done: (value) => {
      got = value;
    },
  });
  while (got === undefined) ring.wait();
  return got;
}

test('a ring that the host refuses is none', () => {
  expect(IoRing.open(0)).toBeUndefined();
});

describe.skipIf(!hasRing)(`a ring${hasRing ? '' : ' (skipped: needs io_uring)'}`, () => {
  let fd = -1;
  const bytes = Uint8Array.from({ length: 65536 }, (_, i) => (i * 7 + (i >> 9)) & 0xff);
  beforeEach(() => {
    writeFileSync(file, bytes);
    fd = openSync(file, 'r+');
    return () => closeSync(fd);
  });

  test('reads and writes one part and many, at an offset, and returns the count', () => {
    using ring = open(8);
    const one = new Uint8Array(4096);
    expect(result(ring, { opcode: IORING_OP_READV, fd, offset: 512, parts: [one] })).toBe(4096);
    expect(Buffer.compare(one, bytes.subarray(512, 4608))).toBe(0);
    const many = Array.from({ length: 1024 }, () => new Uint8Array(3));
    expect(result(ring, { opcode: IORING_OP_READV, fd, offset: 1, parts: many })).toBe(3072);
    expect(Buffer.compare(Buffer.concat(many), bytes.subarray(1, 3073))).toBe(0);
    const parts = [Uint8Array.of(1, 2, 3), new Uint8Array(0), Uint8Array.of(4)];
    expect(result(ring, { opcode: IORING_OP_WRITEV, fd, offset: 65535, parts })).toBe(4);
    expect([...readFileSync(file).subarray(65535)]).toEqual([1, 2, 3, 4]);
  });

  test('returns the negative errno of what fails', () => {
    using ring = open(8);
    const parts = [new Uint8Array(16)];
    expect(result(ring, { opcode: IORING_OP_READV, fd: 1_000_000, offset: 0, parts })).toBe(-errno.EBADF);
    const readable = openSync(file, 'r');
    expect(result(ring, { opcode: IORING_OP_WRITEV, fd: readable, offset: 0, parts })).toBe(-errno.EBADF);
    closeSync(readable);
    expect(result(ring, { opcode: IORING_OP_READV, fd, offset: 1 << 20, parts })).toBe(0);
  });

  test('syncs, and frees ranges', () => {
    using ring = open(8);
    const before = statSync(file).blocks;
    const range = { offset: 0, address: 32768, length: PUNCH_KEEP_SIZE };
    expect(result(ring, { opcode: IORING_OP_FALLOCATE, fd, ...range })).toBe(0);
    const sync = { opcode: IORING_OP_FSYNC, fd, offset: 0, flags: IORING_FSYNC_DATASYNC };
    expect(result(ring, sync)).toBe(0);
    expect(
      readFileSync(file)
        .subarray(0, 32768)
        .every((byte) => byte === 0),
    ).toBe(true);
    expect(statSync(file).blocks).toBeLessThanOrEqual(before - 64);
  });

  test('takes more operations than it has entries, also from its callbacks', () => {
    using ring = open(4);
    const parts = Array.from({ length: 300 }, () => [new Uint8Array(100), new Uint8Array(112)]);
    let done = 0;
    const read = (i: number): void =>
      ring.begin({
        ...{ opcode: IORING_OP_READV, fd, offset: 212 * i, parts: parts[i] as Uint8Array[] },
        done: (count) => {
          expect(count).toBe(212);
          done++;
          if (i < 150) read(i + 150);
        },
      });
    for (let i = 0; i < 150; i++) read(i);
    expect(ring.busy).toBe(150);
    while (ring.busy > 0) ring.wait();
    expect(done).toBe(300);
    expect(Buffer.compare(Buffer.concat(parts.flat()), bytes.subarray(0, 63600))).toBe(0);
  });

  test('waits, when disposed, for what it has begun', () => {
    const ring = open(4);
    const results: number[] = [];
    for (let i = 0; i < 9; i++) {
      const done = (value: number): void => void results.push(value);
      ring.begin({ opcode: IORING_OP_WRITEV, fd, offset: i, parts: [Uint8Array.of(i)], done });
    }
    ring[Symbol.dispose]();
    expect(results).toEqual(new Array(9).fill(1));
  });
});
