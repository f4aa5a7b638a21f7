/** Queues in memory that a vfio-user client does not share: the device reaches it by messages only. */

import { expect, onTestFinished, test } from 'vitest';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { isReadable, signalEventfd } from '../../sys/eventfd.js';
import type { Fd } from '../../sys/fd.js';
import type { GuestMisuseEvent, VfioEvent } from '../../sys/trace.js';
import { arp, decode, icmpEcho } from '../net/testing/frames.js';
import { hearDevices } from '../virtio/testing/hear.js';
import { FEATURE, type GuestMap, maps, STATUS } from './testing/guest.js';
import { allRemote, remote, settleTurns, splitMain } from './testing/remote-maps.js';
import { taken, Workbench } from './testing/workbench.js';

const RX_BUFFERS = 0x20_0000;
const TX_BUFFERS = 0x18_0000;
const TABLES = 0x14_0000;

/** The first pages hold the rings, the rest the buffers. */
const QUEUE_BYTES = 0x8000;
const [rings, buffers] = splitMain(QUEUE_BYTES);

const frameOf = (length: number, seed = 0): Uint8Array =>
  Uint8Array.from({ length }, (_, i) => (seed + 7 * i) & 0xff);

const settle = ({ thread }: Workbench): void => settleTurns(thread);

function ringAndSettle(bench: Workbench, queue: 0 | 1): void {
  bench.driver.ring(queue);
  settle(bench);
}

function deliver(bench: Workbench, ...frames: Uint8Array[]): void {
  bench.port.waiting.push(...frames);
  signalEventfd(bench.port.fd);
  settle(bench);
}

/** What the device tells its server's user, and what its guest does wrong, until the test's end. */
function told(): string[] {
  const list: string[] = [];
  const note = ({ text, device }: VfioEvent | GuestMisuseEvent) => void (device && text && list.push(text));
  hearDevices(note, note);
  return list;
}

const MESSAGES = 'virtio-net: its queues use memory that is not shared, so they are served by message';

const layouts: readonly (readonly [string, readonly GuestMap[]])[] = [
  ['all of its memory is private', allRemote],
  ['only its rings are private', [remote(rings), buffers, maps.next]],
  ['only its buffers are private', [rings, remote(buffers), maps.next]],
];
const features: readonly (readonly [string, bigint])[] = [
  ['no optional feature', 0n],
  ['INDIRECT_DESC', FEATURE.indirect],
  ['EVENT_IDX', FEATURE.eventIdx],
];

test.each(layouts.flatMap(([where, list]) => features.map(([name, bits]) => ({ where, list, name, bits }))))(
  'a guest resolves and pings the responder if $where, with $name',
  ({ list, bits }) => {
    using bench = new Workbench({ net: 'responder' });
    const texts = told();
    const { driver, memory } = bench;
    memory.map(list);
    const [, rx, tx] = bench.wire(2, 3) as [Fd, Fd, Fd];
    driver.start({ features: FEATURE.version1 | bits });
    const isIndirect = bits === FEATURE.indirect;
    for (let i = 0; i < 4; i++) {
      const buffer = { address: RX_BUFFERS + 2048 * i, length: 2048, isDeviceWritable: true };
      driver.rx.add([buffer], isIndirect ? TABLES + 64 * i : undefined);
    }
    settle(bench);
    const frames = [arp(), icmpEcho(frameOf(56)), icmpEcho(frameOf(1400), { sequence: 2 })];
    for (const [i, frame] of frames.entries()) {
      driver.send(frame, TX_BUFFERS + 2048 * i);
      for (const queue of [driver.tx, driver.rx]) queue.usedEvent = queue.usedIndex;
      ringAndSettle(bench, 1);
    }
    expect(driver.tx.reap().map(({ length }) => length)).toEqual([0, 0, 0]);
    const used = driver.rx.reap();
    const replies = used.map((one) => decode(driver.frame(RX_BUFFERS + 2048 * one.id, one)).body);
    expect(replies.map(({ kind }) => kind)).toEqual(['arp', 'icmp', 'icmp']);
    expect(replies[2]).toMatchObject({ type: 0, rest: expect.objectContaining({ length: 1404 }) });
    const interrupts = [rx, tx].map(taken);
    expect(interrupts).toEqual([3, 3]);
    const bytes = frames.reduce((sum, frame) => sum + frame.length, 0);
    expect(bench.instance.counters()).toEqual({
      txPackets: 3,
      txBytes: bytes,
      txDropped: 0,
      rxPackets: 3,
      rxBytes: bytes,
      rxDropped: 0,
      doorbells: 3,
      interrupts: 6,
      vhostQueues: 0,
    });
    expect(driver.status & STATUS.needsReset).toBe(0);
    expect(texts, 'once, not for each queue or frame').toEqual([MESSAGES]);
  },
);

test('a frame of several buffers, and one across the edge of a private and a mapped range, pass whole', () => {
  using bench = new Workbench();
  const { driver, memory } = bench;
  memory.map([maps.main, remote(maps.next)]);
  driver.start();
  const frame = frameOf(1500, 9);
  const border = maps.next.iova;
  for (const [i, byte] of frame.entries()) memory.bytes[memory.at(border - 700 + 12 + i)] = byte;
  driver.tx.add([{ address: border - 700, length: 1512 }]);
  driver.tx.add([
    { address: border - 700, length: 100 },
    { address: border - 600, length: 0 },
    { address: border - 600, length: 1412 },
  ]);
  ringAndSettle(bench, 1);
  expect(bench.port.sent).toEqual([frame, frame]);
  memory.bytes.fill(0, memory.at(border), memory.at(border) + 4096);
  driver.rx.add([
    { address: border - 100, length: 5, isDeviceWritable: true },
    { address: border - 95, length: 4091, isDeviceWritable: true },
  ]);
  deliver(bench, frame);
  expect(driver.rx.reap()).toEqual([{ id: 0, length: 1512 }]);
  const got = Array.from({ length: 1512 }, (_, i) => memory.bytes[memory.at(border - 100 + i)]);
  expect(got).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, ...frame]);
});

test('a queue meets private memory after mapped memory, and loses and repeats nothing', () => {
  using bench = new Workbench();
  const { driver, memory } = bench;
  memory.map([rings, buffers, remote(maps.next)]);
  driver.start({ queueSize: 16 });
  for (let round = 0; round < 20; round++) {
    for (let i = 0; i < 10; i++) {
      const isPrivate = round > 2 && i % 3 === 0;
      driver.send(frameOf(64, 10 * round + i), (isPrivate ? maps.next.iova : TX_BUFFERS) + 128 * i);
    }
    ringAndSettle(bench, 1);
    expect(driver.tx.reap()).toHaveLength(10);
  }
  expect(bench.port.sent).toEqual(Array.from({ length: 200 }, (_, i) => frameOf(64, i)));
});

test('indexes of a private queue run past 65535', () => {
  using bench = new Workbench();
  const { driver, memory } = bench;
  memory.map([remote(rings), buffers]);
  driver.start({ queueSize: 256 });
  let returned = 0;
  for (let i = 0; i < 66_000; i += 250) {
    for (let j = 0; j < 250; j++) driver.tx.add([{ address: TX_BUFFERS, length: 13 }]);
    driver.ring(1);
    while (driver.tx.usedIndex !== driver.tx.availIndex) settle(bench);
    returned += driver.tx.reap().length;
    memory.accesses.length = 0;
  }
  expect(returned).toBe(66_000);
  expect(driver.status & STATUS.needsReset).toBe(0);
}, 60_000);

test('a driver sees chains only with their index, and is interrupted only after that', () => {
  using bench = new Workbench();
  const { driver, memory } = bench;
  memory.map(allRemote);
  const [, , tx] = bench.wire(2, 3) as [Fd, Fd, Fd];
  driver.start();
  driver.send(frameOf(60));
  driver.send(frameOf(61), TX_BUFFERS);
  memory.onAccess = () => {
    if (driver.tx.usedIndex === 0) expect(isReadable(tx.number)).toBe(false);
  };
  memory.accesses.length = 0;
  ringAndSettle(bench, 1);
  memory.onAccess = undefined;
  expect(taken(tx)).toBe(1);
  const { used, avail, desc } = driver.tx;
  const order = memory.accesses.map(({ at, isWrite }) => {
    if (isWrite) return at === used + 2 ? 'used idx' : at >= used + 4 + 8 * 256 ? 'avail event' : 'used ring';
    return at === avail ? 'avail idx' : at === desc ? 'descriptors' : at < TABLES ? 'avail' : 'buffer';
  });
  expect(order.slice(0, 3)).toEqual(['avail idx', expect.stringMatching('avail'), 'descriptors']);
  const writes = order.filter((what) => what === 'used ring' || what === 'used idx');
  expect(writes.join(), 'one turn or two').toMatch(/^used ring,used idx(,used ring,used idx)?$/);
  expect(order.indexOf('buffer')).toBeLessThan(order.indexOf('used ring'));
});

test('no interrupt is raised that the driver does not ask for', () => {
  using bench = new Workbench();
  const { driver, memory } = bench;
  memory.map(allRemote);
  const [, , tx] = bench.wire(2, 3) as [Fd, Fd, Fd];
  driver.start({ features: FEATURE.version1 });
  driver.tx.availFlags = 1;
  driver.send(frameOf(60));
  ringAndSettle(bench, 1);
  expect(driver.tx.reap()).toHaveLength(1);
  expect(taken(tx)).toBe(0);
  driver.tx.availFlags = 0;
  driver.send(frameOf(60));
  ringAndSettle(bench, 1);
  expect(taken(tx)).toBe(1);
});

test('frames wait for buffers and buffers for frames, and a frame longer than its buffer is dropped and counted', () => {
  using bench = new Workbench();
  const { driver, memory } = bench;
  memory.map(allRemote);
  driver.start();
  settle(bench);
  deliver(bench, frameOf(60), frameOf(400), frameOf(61));
  expect(driver.rx.usedIndex).toBe(0);
  memory.accesses.length = 0;
  settle(bench);
  expect(memory.accesses, 'nothing is read while nothing happens').toEqual([]);
  driver.provide(RX_BUFFERS, 100);
  driver.provide(RX_BUFFERS + 2048, 100);
  ringAndSettle(bench, 0);
  expect(driver.rx.reap()).toEqual([
    { id: 0, length: 72 },
    { id: 1, length: 73 },
  ]);
  expect(bench.instance.counters()).toMatchObject({ rxPackets: 2, rxDropped: 1 });
  driver.provide(RX_BUFFERS);
  ringAndSettle(bench, 0);
  deliver(bench, frameOf(62));
  expect(driver.rx.reap()).toEqual([{ id: 2, length: 74 }]);
});

test('a port that cannot say what it has (a tap) is asked only when it is readable', () => {
  using bench = new Workbench();
  const { driver, memory } = bench;
  memory.map(allRemote);
  driver.start();
  bench.port.isBlind = true;
  for (let i = 0; i < 4; i++) driver.provide(RX_BUFFERS + 2048 * i);
  ringAndSettle(bench, 0);
  deliver(bench, frameOf(60), frameOf(61));
  deliver(bench, frameOf(62));
  expect(driver.rx.reap().map(({ length }) => length)).toEqual([72, 73, 74]);
});

test('while the port is full, frames wait in the guest, and keep their order', () => {
  using bench = new Workbench();
  const { driver, memory } = bench;
  memory.map(allRemote);
  driver.start();
  bench.port.isFull = true;
  for (let i = 0; i < 20; i++) driver.send(frameOf(64, i), TX_BUFFERS + 128 * i);
  ringAndSettle(bench, 1);
  expect(driver.tx.usedIndex).toBe(0);
  bench.port.isFull = false;
  settle(bench);
  expect(bench.port.sent).toEqual(Array.from({ length: 20 }, (_, i) => frameOf(64, i)));
  expect(driver.tx.reap().map(({ id }) => id)).toEqual(Array.from({ length: 20 }, (_, i) => i));
});

test('without bus mastering no memory is asked for, and with it everything that waited moves', () => {
  using bench = new Workbench();
  const { driver, memory } = bench;
  memory.map(allRemote);
  driver.start();
  settle(bench);
  driver.setBusMaster(false);
  memory.accesses.length = 0;
  driver.send(frameOf(60));
  ringAndSettle(bench, 1);
  expect(memory.accesses).toEqual([]);
  driver.setBusMaster(true);
  settle(bench);
  expect(bench.port.sent).toEqual([frameOf(60)]);
});

test('once a reset has returned, no memory is asked for, and the queues start anew', () => {
  using bench = new Workbench();
  const { driver, memory } = bench;
  memory.map(allRemote);
  for (let round = 0; round < 3; round++) {
    driver.start();
    if (round > 0) settle(bench);
    driver.send(frameOf(60), TX_BUFFERS);
    driver.ring(1);
    driver.status = 0;
    memory.accesses.length = 0;
    settle(bench);
    expect(memory.accesses).toEqual([]);
  }
  expect(bench.port.sent).toEqual([]);
  driver.start();
  driver.send(frameOf(60), TX_BUFFERS);
  ringAndSettle(bench, 1);
  expect(bench.port.sent).toEqual([frameOf(60)]);
});

const refusals: Record<string, [(bench: Workbench) => void, RegExp]> = {
  'a client that does not reply': [
    ({ memory }) => {
      memory.onAccess = () => {
        throw new SysError({ call: 'VFIO_USER_DMA_READ', target: 'client', errno: errno.ETIMEDOUT });
      };
    },
    /queue 1 has stopped until a reset: .*VFIO_USER_DMA_READ.*ETIMEDOUT/,
  ],
  'a client that refuses only the write of the index': [
    ({ memory, driver }) => {
      memory.onAccess = (at) => {
        if (at === driver.tx.used + 2)
          throw new SysError({ call: 'VFIO_USER_DMA_WRITE', target: 'client', errno: errno.EPERM });
      };
    },
    /queue 1 has stopped until a reset: .*VFIO_USER_DMA_WRITE.*EPERM/,
  ],
  'a client that has unmapped the rings': [({ memory }) => memory.map([maps.next]), /0x105000.*EFAULT/],
  'a client that unmaps the buffers while they are read': [
    ({ memory, driver }) => {
      memory.onAccess = (at) => void (at === driver.tx.desc && memory.map([remote(rings)]));
    },
    /EFAULT/,
  ],
  'a descriptor outside the table': [({ driver }) => driver.tx.offer(256), /descriptor 256 of 256/],
  'a loop': [
    ({ driver }) => {
      for (const i of [0, 1]) driver.tx.writeDescriptor(driver.tx.desc + 16 * i, TX_BUFFERS, 8, 1, 1 - i);
      driver.tx.offer(0);
    },
    /more than 256 descriptors/,
  ],
  'an index too far ahead': [
    ({ driver }) => {
      driver.tx.availIndex = 257;
    },
    /257 chains in a queue of 256/,
  ],
  'a buffer past 2^53': [({ driver }) => driver.tx.add([{ address: 2 ** 60, length: 72 }]), /not in memory/],
  'a buffer that nobody has': [
    ({ driver }) => driver.tx.add([{ address: 0xdead_0000, length: 72 }]),
    /EFAULT/,
  ],
};

test.each(Object.entries(refusals))(
  '%s stops the queue, with a sentence, until a reset',
  (_name, [commit, text]) => {
    using bench = new Workbench();
    const texts = told();
    const { driver, memory } = bench;
    const [config] = bench.wire(2, 3) as [Fd];
    memory.map(allRemote);
    driver.start();
    settle(bench);
    texts.length = 0;
    commit(bench);
    if (driver.tx.availIndex === 0) driver.send(frameOf(60), TX_BUFFERS);
    ringAndSettle(bench, 1);
    expect(texts).toEqual([expect.stringMatching(text)]);
    expect(driver.status & STATUS.needsReset).toBe(STATUS.needsReset);
    expect(taken(config)).toBe(1);
    memory.onAccess = () => {
      throw new RangeError('the queue has stopped');
    };
    ringAndSettle(bench, 1);
    memory.onAccess = undefined;
    memory.map(allRemote);
    bench.port.sent.length = 0;
    driver.start();
    driver.send(frameOf(62), TX_BUFFERS);
    ringAndSettle(bench, 1);
    expect(bench.port.sent).toEqual([frameOf(62)]);
  },
);

test('a receive buffer in private memory that the device must not write stops the queue', () => {
  using bench = new Workbench();
  const texts = told();
  bench.memory.map(allRemote);
  bench.driver.start();
  settle(bench);
  bench.driver.provide(maps.readOnly.iova);
  deliver(bench, frameOf(60));
  expect(texts.at(-1)).toMatch(/queue 0 has stopped.*EPERM/);
  expect(bench.driver.status & STATUS.needsReset).toBe(STATUS.needsReset);
});

test('a client that answers each access slowly is not waited for without end', () => {
  using bench = new Workbench();
  const texts = told();
  const { driver, memory } = bench;
  memory.map(allRemote);
  driver.start({ queueSize: 256 });
  settle(bench);
  const tiny = Array.from({ length: 250 }, (_, i) => ({ address: TX_BUFFERS + i, length: 1 }));
  driver.tx.add(tiny);
  let slept = 0;
  const now = performance.now.bind(performance);
  performance.now = () => now() + slept;
  onTestFinished(() => {
    performance.now = now;
  });
  memory.accesses.length = 0;
  memory.onAccess = () => {
    slept += 1000;
  };
  ringAndSettle(bench, 1);
  expect(memory.accesses.length).toBeLessThan(12);
  expect(texts.at(-1)).toMatch(/queue 1 has stopped until a reset: .*ETIMEDOUT/);
});

test('a doorbell that never rests leaves the thread of the registers time for other work', () => {
  using bench = new Workbench();
  const { driver, memory } = bench;
  memory.map(allRemote);
  driver.start();
  settle(bench);
  const [, doorbell] = bench.instance.ops.getRegionIoFds?.(4) ?? [];
  memory.accesses.length = 0;
  // Rings again during each turn; one pump of the thread must end all the same, with one turn.
  memory.onAccess = () => signalEventfd(doorbell?.fd as number);
  driver.ring(1);
  bench.thread.pump();
  expect(memory.accesses.length).toBeLessThan(4);
});
