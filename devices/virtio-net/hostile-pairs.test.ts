/** A guest that does with the queues of several pairs what it should not. fast-check prints the seed of a failure. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { COMMON, FEATURE, GuestQueue, maps } from './testing/guest.js';
import { CTRL_MQ, PairedDriver } from './testing/paired-driver.js';
import { Workbench } from './testing/workbench.js';

const PAIRS = 3;
const QUEUES = 2 * PAIRS + 1;
const OK = 0;
const ERR = 1;
const RX = 0x1e_0000;
/** What the driver's queues, requests and buffers are in. */
const MAIN_BYTES = maps.main.bytes;

interface Attack {
  readonly bench: Workbench;
  readonly guest: PairedDriver;
}
type Act = (attack: Attack) => void;

const word = fc.nat(0xffff);
const queue = fc.nat(QUEUES + 1);
const pair = fc.nat(PAIRS - 1);
const address = fc.oneof(
  fc.nat(MAIN_BYTES - 1).map((at) => maps.main.iova + at),
  fc.constantFrom(0, maps.readOnly.iova, maps.next.iova, 0x5000_0000, 2 ** 47),
);
const body = fc.oneof(
  fc.tuple(fc.constant(CTRL_MQ), fc.nat(1), fc.nat(5), fc.nat(1)),
  fc.array(fc.nat(255), { maxLength: 12 }),
);

/** Chains of the control queue that are no request. */
const chain = fc.array(
  fc.record({ address, length: fc.oneof(fc.nat(64), fc.nat(0xffff_ffff)), isDeviceWritable: fc.boolean() }),
  { minLength: 1, maxLength: 6 },
);

const acts: fc.Arbitrary<Act> = fc.oneof(
  {
    weight: 4,
    arbitrary: body.map(
      (bytes): Act =>
        ({ guest }) =>
          void guest.request(bytes),
    ),
  },
  {
    weight: 3,
    arbitrary: fc.nat(PAIRS + 1).map(
      (n): Act =>
        ({ guest }) =>
          void guest.setPairs(n),
    ),
  },
  {
    weight: 3,
    arbitrary: queue.map(
      (index): Act =>
        ({ bench }) =>
          bench.driver.ring(index),
    ),
  },
  {
    weight: 3,
    arbitrary: pair.map(
      (n): Act =>
        ({ guest }) =>
          guest.send(n, new Uint8Array(60).fill(n)),
    ),
  },
  {
    weight: 2,
    arbitrary: pair.map(
      (n): Act =>
        ({ guest }) =>
          guest.provide(n, RX + 2048 * n),
    ),
  },
  {
    weight: 3,
    arbitrary: pair.map(
      (n): Act =>
        ({ bench }) => {
          bench.ports[n]?.waiting.push(new Uint8Array(80));
          bench.ports[n]?.signal();
        },
    ),
  },
  {
    weight: 2,
    arbitrary: fc.tuple(chain, fc.boolean()).map(
      ([buffers, isIndirect]): Act =>
        ({ guest }) => {
          guest.control?.add(buffers, isIndirect ? maps.main.iova + 0xc000 : undefined);
        },
    ),
  },
  {
    // Any 16 bits of any ring.
    weight: 2,
    arbitrary: fc.tuple(queue, fc.nat(0x2fff), word).map(
      ([index, at, value]): Act =>
        ({ bench }) => {
          const place = bench.memory.at(maps.main.iova + 0x2_0000 + 0x4000 * index + (at & ~1));
          bench.memory.words.setUint16(place, value, true);
        },
    ),
  },
  {
    // A queue where another one is, or where one is already.
    weight: 1,
    arbitrary: fc.tuple(queue, queue).map(
      ([index, other]): Act =>
        ({ bench }) => {
          const rings = new GuestQueue(bench.memory, 16, maps.main.iova + 0x2_0000 + 0x4000 * other);
          bench.driver.setUpQueue(index, rings, index);
        },
    ),
  },
  {
    weight: 1,
    arbitrary: fc.boolean().map(
      (isOn): Act =>
        ({ bench }) =>
          bench.driver.setBusMaster(isOn),
    ),
  },
  {
    weight: 1,
    arbitrary: fc
      .subarray([maps.main, maps.next, maps.readOnly])
      .chain((kept) => fc.boolean().map((isRemote) => kept.map((map) => ({ ...map, isRemote }))))
      .map(
        (list): Act =>
          ({ bench }) =>
            bench.memory.map(list),
      ),
  },
  {
    weight: 1,
    arbitrary: fc
      .record({
        features: fc.constantFrom(
          ~0n,
          ~FEATURE.eventIdx,
          ~FEATURE.indirect,
          ~FEATURE.mq,
          ~FEATURE.mq & ~FEATURE.ctrlVq,
        ),
        pairs: fc.integer({ min: 1, max: PAIRS }),
        queueSize: fc.constantFrom(1, 4, 256),
      })
      .map(
        ({ features, ...more }): Act =>
          ({ bench, guest }) =>
            guest.start({ features: bench.driver.offered & features, ...more }),
      ),
  },
  {
    weight: 1,
    arbitrary: fc.constant<Act>(({ bench }) => {
      bench.driver.status = 0;
    }),
  },
);

/** Whatever has been: after a reset, all pairs serve a driver that behaves. */
function behaves({ bench, guest }: Attack): void {
  bench.driver.status = 0;
  bench.memory.mapAll();
  for (const port of bench.ports) {
    port.waiting.length = 0;
    port.sent.length = 0;
  }
  guest.start();
  const answer = guest.setPairs(PAIRS);
  bench.thread.pump();
  expect(answer()).toBe(OK);
  for (let n = 0; n < PAIRS; n++) {
    guest.provide(n, RX + 2048 * n);
    guest.send(n, new Uint8Array(60).fill(n));
    bench.ports[n]?.waiting.push(new Uint8Array(80 + n));
    bench.ports[n]?.signal();
    bench.thread.pump();
    expect(bench.ports[n]?.sent).toEqual([new Uint8Array(60).fill(n)]);
    expect(guest.rx[n]?.reap().map(({ length }) => length)).toEqual([12 + 80 + n]);
  }
}

test('whatever a guest asks, offers, overwrites and rings, no call throws, pairs are used from the first on, and a reset heals', () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(acts, fc.boolean()), { maxLength: 60 }), (steps) => {
      using bench = new Workbench({ queues: String(PAIRS) });
      const attack = { bench, guest: new PairedDriver(bench.driver) };
      attack.guest.start();
      for (const [act, isSettled] of steps) {
        act(attack);
        if (isSettled) bench.thread.pump();
        const [, second, third] = bench.ports;
        expect(third?.isActive && !second?.isActive).toBe(false);
      }
      for (let i = 0; i < 5; i++) bench.thread.pump();
      behaves(attack);
    }),
    { numRuns: 150 },
  );
}, 60_000);

test('whatever a request has, its answer is one of the two, and it is obeyed if it is one for pairs that there are', () => {
  using bench = new Workbench({ queues: String(PAIRS) });
  const guest = new PairedDriver(bench.driver);
  guest.start();
  fc.assert(
    fc.property(body, (bytes) => {
      const read = guest.request(bytes);
      bench.thread.pump();
      const [kind, command, low = 0, high = 0] = bytes;
      const pairs = low + 256 * high;
      const isGood = bytes.length === 4 && kind === CTRL_MQ && command === 0 && pairs >= 1 && pairs <= PAIRS;
      expect(read()).toBe(isGood ? OK : ERR);
      if (isGood) expect(1 + bench.ports.filter(({ isActive }) => isActive).length).toBe(pairs);
    }),
    { numRuns: 300 },
  );
  expect(bench.driver.common(COMMON.status, 1) & 0x40).toBe(0);
});
