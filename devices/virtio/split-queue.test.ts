import fc from 'fast-check';
import { expect, test } from 'vitest';
import { signalEventfd } from '../../sys/eventfd.js';
import { type GuestMap, maps } from '../virtio-net/testing/guest.js';
import { Workbench } from '../virtio-net/testing/workbench.js';

const SIZE = 8;
const TABLES = maps.main.iova + 0x10000;
const TABLE_COUNT = 3;
const BUFFERS = maps.main.iova + 0x20000;

interface Descriptor {
  readonly address: number;
  readonly length: number;
  readonly flags: number;
  readonly next: number;
}

const goodAddress = fc.integer({ min: BUFFERS, max: BUFFERS + 0x8000 });
const tableAddress = fc.nat(TABLE_COUNT - 1).map((i) => TABLES + 0x1000 * i);
const borders = Object.values(maps).flatMap((map) => [map.iova, map.iova + map.bytes]);
/** Nowhere near the rings and tables, whose rewriting would change the rules in mid-game. */
const oddAddress = fc.oneof(
  fc
    .tuple(fc.constantFrom(...borders.slice(1)), fc.integer({ min: -5000, max: 5000 }))
    .map(([at, d]) => at + d),
  fc.constantFrom(0, 0xffff_f000, 2 ** 53 - 8, 2 ** 53, 2 ** 60, 2 ** 63),
);
const ringAddress = fc.integer({ min: maps.main.iova, max: maps.main.iova + 0x8000 });
const length = fc.oneof(
  fc.constantFrom(0, 1, 11, 12, 13, 16, 48, 128, 2048, 4096, 0x10000, 0x7fffffff, 0xffffffff),
  fc.nat(3000),
);

const descriptor = (address: fc.Arbitrary<number>): fc.Arbitrary<Descriptor> =>
  fc.record({
    address,
    length,
    flags: fc.oneof({ weight: 4, arbitrary: fc.constantFrom(0, 1, 2, 3) }, fc.nat(7)),
    next: fc.oneof({ weight: 8, arbitrary: fc.nat(SIZE - 1) }, fc.constantFrom(SIZE, 0xffff)),
  });

const indirect = fc.record({
  address: tableAddress,
  length: fc.nat(SIZE + 1).map((n) => 16 * n),
  flags: fc.constantFrom(4, 4, 6, 5),
  next: fc.nat(SIZE),
});

const queue = (address: fc.Arbitrary<number>) =>
  fc.record({
    table: fc.array(fc.oneof({ weight: 3, arbitrary: descriptor(address) }, indirect), {
      minLength: SIZE,
      maxLength: SIZE,
    }),
    heads: fc.array(fc.oneof({ weight: 9, arbitrary: fc.nat(SIZE - 1) }, fc.nat(0xffff)), {
      maxLength: SIZE,
    }),
    jump: fc.oneof({ weight: 9, arbitrary: fc.constant(0) }, fc.nat(0xffff)),
  });

const attack = (address: fc.Arbitrary<number>) =>
  fc.record({
    rx: queue(address),
    tx: queue(address),
    tables: fc.array(fc.array(descriptor(address), { minLength: SIZE + 1, maxLength: SIZE + 1 }), {
      minLength: TABLE_COUNT,
      maxLength: TABLE_COUNT,
    }),
    frames: fc.array(fc.integer({ min: 14, max: 1600 }), { maxLength: 6 }),
    rounds: fc.integer({ min: 1, max: 3 }),
  });

type Attack = typeof attack extends (address: fc.Arbitrary<number>) => fc.Arbitrary<infer T> ? T : never;

const isRemote = true;
/** Where the memory is (in this process, in another one that is asked by message, or in both), and how many games to play. */
const layouts: readonly (readonly [string, readonly GuestMap[], number])[] = [
  ['mapped', Object.values(maps), 300],
  ['private', Object.values(maps).map((map) => ({ ...map, isRemote })), 40],
  ['mapped and private', [maps.main, { ...maps.next, isRemote }, { ...maps.readOnly, isRemote }], 40],
];

const nap = new Int32Array(new SharedArrayBuffer(4));

/** Lets everything happen that will: turns of private memory follow each other after a pause. */
function settle({ thread }: Workbench, list: readonly GuestMap[]): void {
  const turns = list.some((map) => map.isRemote) ? 3 : 0;
  thread.pump();
  for (let i = 0; i < turns; i++) {
    Atomics.wait(nap, 0, 0, 2);
    thread.pump();
  }
}

/** Plays it; returns memory before, and whether each byte may have been written. */
function play(
  bench: Workbench,
  list: readonly GuestMap[],
  { rx, tx, tables, frames, rounds }: Attack,
): { before: Uint8Array; expected: Uint8Array } {
  const { driver, memory } = bench;
  memory.bytes.fill(0x5a);
  memory.map(list);
  driver.start({ queueSize: SIZE });
  for (const [i, table] of tables.entries()) {
    for (const [j, d] of table.entries()) {
      driver.rx.writeDescriptor(TABLES + 0x1000 * i + 16 * j, d.address, d.length, d.flags, d.next);
    }
  }
  for (const [ring, { table }] of [
    [driver.rx, rx],
    [driver.tx, tx],
  ] as const) {
    for (const [i, d] of table.entries()) {
      ring.writeDescriptor(ring.desc + 16 * i, d.address, d.length, d.flags, d.next);
    }
  }
  const before = memory.bytes.slice();
  const availRings: [number, number][] = [];
  for (let round = 0; round < rounds; round++) {
    for (const [ring, { heads, jump }] of [
      [driver.rx, rx],
      [driver.tx, tx],
    ] as const) {
      for (const head of heads) ring.offer(head);
      ring.availIndex += jump;
      availRings.push([ring.avail, 4 + 2 * SIZE]);
    }
    bench.port.waiting.push(...frames.map((bytes) => new Uint8Array(bytes).fill(0xaa)));
    signalEventfd(bench.port.fd);
    driver.ring(0);
    driver.ring(1);
    settle(bench, list);
  }
  const expected = before.slice();
  const allow = (address: number, bytes: number) => {
    for (let at = address, end = address + bytes; at < end; ) {
      const map = Object.values(maps).find((m) => at >= m.iova && at < m.iova + m.bytes);
      if (map === undefined) return;
      const stop = Math.min(end, map.iova + map.bytes);
      const from = map.at + at - map.iova;
      if (map.isWritable) expected.set(memory.bytes.subarray(from, from + stop - at), from);
      at = stop;
    }
  };
  for (const ring of [driver.rx, driver.tx]) allow(ring.used, 6 + 8 * SIZE);
  for (const [at, bytes] of availRings) allow(at, bytes);
  for (const d of [...rx.table, ...tables.flat()]) {
    if ((d.flags & 2) !== 0) allow(d.address, d.length);
  }
  return { before, expected };
}

test.each(layouts)(
  'whatever is in the rings, in %s memory, the device writes only to buffers given to it and to used rings, and comes to rest',
  (_where, list, numRuns) => {
    using bench = new Workbench();
    const good = fc.oneof({ weight: 3, arbitrary: goodAddress }, oddAddress);
    fc.assert(
      fc.property(attack(good), (game) => {
        const { expected } = play(bench, list, game);
        expect(Buffer.compare(bench.memory.bytes, expected)).toBe(0);
      }),
      { numRuns },
    );
  },
  60_000,
);

test.each(layouts)(
  'rings that lie in their own buffers break nothing outside the writable maps, in %s memory',
  (_where, list, numRuns) => {
    using bench = new Workbench();
    const address = fc.oneof(ringAddress, goodAddress, tableAddress, oddAddress);
    const outside = [
      [0, maps.main.at],
      [maps.main.at + maps.main.bytes, maps.next.at],
      [maps.next.at + maps.next.bytes, bench.memory.bytes.length],
    ] as const;
    fc.assert(
      fc.property(attack(address), (game) => {
        const { before } = play(bench, list, game);
        for (const [from, to] of outside) {
          expect(Buffer.compare(bench.memory.bytes.subarray(from, to), before.subarray(from, to))).toBe(0);
        }
      }),
      { numRuns },
    );
  },
  60_000,
);
