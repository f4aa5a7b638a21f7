/** A disk's queue in memory that a vfio-user client does not share: the device reaches it by messages only. */

import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { GuestMisuseEvent, VfioEvent } from '../../sys/trace.js';
import type { FileIo } from '../block/file-io.js';
import { HeldIo } from '../block/testing/held-io.js';
import { hearDevices } from '../virtio/testing/hear.js';
import { type GuestMap, maps } from '../virtio-net/testing/guest.js';
import { allRemote, remote, settleTurns, splitMain } from '../virtio-net/testing/remote-maps.js';
import { taken } from '../virtio-net/testing/workbench.js';
import { DATA, DiskBench, diskFile, NO_STATUS, pattern, testFolder } from './testing/workbench.js';

const BYTES = 256 << 10;
const [READ, WRITE, FLUSH, GET_ID, DISCARD] = [0, 1, 4, 8, 11] as const;
const [OK, IOERR] = [0, 1];
const NEEDS_RESET = 0x40;
const INDIRECT = 1n << 28n;
const EVENT_IDX = 1n << 29n;

/** Its first pages hold rings, headers and statuses, the rest data and indirect tables. */
const FRONT_BYTES = 0x10000;
const [front, back] = splitMain(FRONT_BYTES);

function disk(list: readonly GuestMap[] = allRemote, io?: FileIo, features?: bigint) {
  const folder = testFolder();
  const file = diskFile(folder.path, pattern(BYTES));
  const bench = new DiskBench({ file, serial: 'far' }, io);
  bench.memory.map(list);
  bench.start(features);
  return {
    bench,
    contents: () => new Uint8Array(readFileSync(file)),
    [Symbol.dispose]() {
      bench[Symbol.dispose]();
      folder[Symbol.dispose]();
    },
  };
}

/** Rings, and lets everything happen that will: turns follow each other after a pause. */
function settle({ driver, thread }: DiskBench): void {
  driver.ring(0);
  settleTurns(thread);
}

/** What the device tells its server's user, and what its guest does wrong, until the test's end. */
function told(): string[] {
  const list: string[] = [];
  const note = ({ text = '' }: VfioEvent | GuestMisuseEvent) =>
    void (/^virtio-blk|^queue/.test(text) && list.push(text));
  hearDevices(note, note);
  return list;
}

const MESSAGES = 'virtio-blk: its queue uses memory that is not shared, so it is served by message';

test.each(
  [
    ['all of its memory is private', allRemote],
    ['only rings, headers and statuses are private', [remote(front), back, maps.next]],
    ['only the data is private', [front, remote(back), maps.next]],
  ].flatMap(([where, list]) =>
    [0n, INDIRECT, EVENT_IDX].map((without) => ({ where, list: list as readonly GuestMap[], without })),
  ),
)(
  'a disk is read, written, discarded and flushed if $where, without feature $without',
  ({ list, without }) => {
    const texts = told();
    using d = disk(list);
    const { bench, contents } = d;
    bench.start(bench.driver.offered & ~without);
    expect(bench.read(3, 4096)).toEqual(pattern(BYTES).subarray(1536, 1536 + 4096));
    expect(bench.write(8, pattern(1024, 9))).toBe(OK);
    expect(contents().subarray(4096, 5120)).toEqual(pattern(1024, 9));
    expect(bench.request(FLUSH, 0, [])).toBe(OK);
    expect(bench.ranges(DISCARD, [[16, 8, 0]])).toBe(OK);
    expect(contents().subarray(8192, 12_288)).toEqual(new Uint8Array(4096));
    expect(bench.request(GET_ID, 0, [{ address: DATA, length: 20, isDeviceWritable: true }])).toBe(OK);
    const id = bench.memory.bytes.subarray(bench.memory.at(DATA), bench.memory.at(DATA) + 3);
    expect(Buffer.from(id).toString()).toBe('far');
    expect(bench.read(BYTES / 512, 512)).toBe(IOERR);
    expect(bench.queue.reap().map(({ length }) => length)).toEqual([4097, 1, 1, 1, 21, 513]);
    expect(bench.instance.counters()).toMatchObject({
      reads: 1,
      writes: 1,
      flushes: 1,
      discards: 1,
      errors: 1,
    });
    if (without === EVENT_IDX) expect(taken(bench.vectors[1]!)).toBe(6);
    expect(texts).toEqual([MESSAGES]);
  },
);

test('a queue meets private memory after mapped memory, and loses and repeats nothing', () => {
  using d = disk([maps.main, remote(maps.next), maps.readOnly]);
  const { bench } = d;
  const texts = told();
  const wanted = (address: number) => ({ address, length: 512, isDeviceWritable: true });
  const frames = [DATA, DATA + 512, maps.next.iova, DATA + 1024].map((address, i) => {
    const { header: first, status } = bench.frame(READ, 1);
    bench.queue.add([first, wanted(address), status], maps.main.iova + 0x40000 + 64 * i);
    return { address, status };
  });
  bench.ring();
  for (const { address, status } of frames) {
    expect(bench.statusAt(status)).toBe(OK);
    const at = bench.memory.at(address);
    expect(bench.memory.bytes.slice(at, at + 512)).toEqual(pattern(BYTES).slice(512, 1024));
  }
  expect(bench.queue.reap()).toHaveLength(4);
  expect(texts).toEqual([MESSAGES]);
  bench.start();
  expect(bench.read(0, 512)).toEqual(pattern(512));
  expect(texts).toEqual([MESSAGES]);
});

test('what has begun in mapped memory is returned before the queue is handed over', () => {
  const io = new HeldIo();
  using d = disk([maps.main, remote(maps.next), maps.readOnly], io);
  const { bench } = d;
  const near = bench.offer(READ, 1);
  const { header, status } = bench.frame(READ, 2);
  bench.queue.add([header, { address: maps.next.iova, length: 512, isDeviceWritable: true }, status]);
  settle(bench);
  expect(bench.statusAt(near.status)).toBe(OK);
  expect(bench.queue.reap().map(({ length }) => length)).toEqual([513]);
  io.release('read');
  settle(bench);
  expect([bench.statusAt(status), bench.queue.usedIndex]).toEqual([OK, 2]);
});

test('no more than 64 requests are begun, and each is returned when it is done', () => {
  const io = new HeldIo();
  using d = disk(allRemote, io);
  const { bench } = d;
  bench.start(undefined, 128);
  const requests = Array.from({ length: 100 }, (_, i) => bench.offer(READ, i));
  settle(bench);
  expect([io.busy, bench.queue.usedIndex]).toEqual([64, 0]);
  for (let i = 0; i < 3; i++) io.release('read');
  settle(bench);
  expect([io.busy, bench.queue.usedIndex]).toEqual([64, 3]);
  while (io.busy > 0) {
    io.release('read');
    settle(bench);
  }
  expect(requests.map(({ status }) => bench.statusAt(status))).toEqual(requests.map(() => OK));
});

test('without bus mastering no memory is asked for, and with it everything that waited is done', () => {
  using d = disk();
  const { bench } = d;
  expect(bench.read(0, 512)).toEqual(pattern(512));
  bench.driver.setBusMaster(false);
  const { accesses } = bench.memory;
  const before = accesses.length;
  const { status } = bench.offer(READ, 1);
  settle(bench);
  expect([bench.statusAt(status), accesses.length]).toEqual([NO_STATUS, before]);
  bench.driver.setBusMaster(true);
  settle(bench);
  expect(bench.statusAt(status)).toBe(OK);
});

test('a reset waits for what has begun, returns none of it, and asks for no memory afterwards', () => {
  const io = new HeldIo();
  using d = disk(allRemote, io);
  const { bench } = d;
  const { status } = bench.offer(READ, 1);
  settle(bench);
  expect(io.busy).toBe(1);
  bench.driver.status = 0;
  const { accesses } = bench.memory;
  const before = accesses.length;
  settle(bench);
  expect([io.busy, bench.statusAt(status), accesses.length]).toEqual([0, NO_STATUS, before]);
});

test.each<[string, (bench: DiskBench) => void, RegExp]>([
  [
    'a header of 15 bytes',
    (bench) => {
      const { header, status } = bench.frame(READ, 0);
      bench.queue.add([{ ...header, length: 15 }, status]);
    },
    /a request with a header of 15 bytes/,
  ],
  ['no byte for the status', (bench) => bench.queue.add([bench.frame(READ, 0).header]), /without a byte/],
  [
    'more data than is copied',
    (bench) => {
      const { header, status } = bench.frame(WRITE, 0);
      const data = { address: DATA, length: 1 << 20 };
      bench.queue.add([header, ...new Array(17).fill(data), status]);
    },
    /a request of 17825809 bytes, where 16777216 are allowed/,
  ],
])('%s: the disk needs a reset, says why, and works again after it', (_what, add, text) => {
  const texts = told();
  using d = disk();
  const { bench, contents } = d;
  add(bench);
  bench.ring();
  expect(bench.driver.status & NEEDS_RESET).toBe(NEEDS_RESET);
  expect(texts.join('\n')).toMatch(text);
  expect(Buffer.compare(contents(), pattern(BYTES))).toBe(0);
  bench.start();
  expect(bench.read(0, 512)).toEqual(pattern(512));
});

test.each([true, false])(
  'an owner that refuses its memory (write: %s) stops the queue until a reset',
  (refused) => {
    const texts = told();
    using d = disk();
    const { bench } = d;
    bench.memory.onAccess = (at, _bytes, isWrite) => {
      if (isWrite === refused && at >= DATA && at < DATA + 4096)
        throw new SysError({ call: 'vfio_dma_rw', target: 'the data', errno: errno.EPERM });
    };
    const data = { address: DATA, length: 512, isDeviceWritable: refused };
    expect(bench.request(refused ? READ : WRITE, 0, [data])).toBe(NO_STATUS);
    expect(bench.driver.status & NEEDS_RESET).toBe(NEEDS_RESET);
    expect(texts.join('\n')).toMatch(/its queue has stopped until a reset: vfio_dma_rw on the data: EPERM/);
    bench.memory.onAccess = undefined;
    bench.start();
    expect(bench.read(0, 512)).toEqual(pattern(512));
  },
);
