import { expect, onTestFinished, test, vi } from 'vitest';
import { drainEventfd, signalEventfd } from '../../sys/eventfd.js';
import type { Fd } from '../../sys/fd.js';
import { type GuestMisuseEvent, trace } from '../../sys/trace.js';
import { arp, decode, icmpEcho } from '../net/testing/frames.js';
import { type ChainBuffer, FEATURE, GuestQueue, maps, STATUS } from './testing/guest.js';
import { taken, Workbench } from './testing/workbench.js';

const RX_BUFFERS = 0x20_0000;
const TX_BUFFERS = 0x18_0000;
const TABLES = 0x14_0000;

const frameOf = (length: number, seed = 0): Uint8Array =>
  Uint8Array.from({ length }, (_, i) => (seed + 7 * i) & 0xff);

function ringAndPump(bench: Workbench, queue: 0 | 1): void {
  bench.driver.ring(queue);
  bench.thread.pump();
}

/** Frames for the guest, and the port's fd signalled. */
function deliver(bench: Workbench, ...frames: Uint8Array[]): void {
  bench.port.waiting.push(...frames);
  signalEventfd(bench.port.fd);
  bench.thread.pump();
}

/** What guests do wrong, as the trace tells it, until the test's end. */
function misuses(): string[] {
  const list: string[] = [];
  const note = ({ text }: GuestMisuseEvent) => list.push(text);
  trace.guestMisuse.subscribe(note);
  onTestFinished(() => void trace.guestMisuse.unsubscribe(note));
  return list;
}

const optional = FEATURE.indirect | FEATURE.eventIdx;

test.each([
  ['no optional feature', 0n],
  ['INDIRECT_DESC', FEATURE.indirect],
  ['EVENT_IDX', FEATURE.eventIdx],
  ['both', optional],
])('a guest resolves and pings the responder with %s', (_name, features) => {
  using bench = new Workbench({ net: 'responder' });
  const { driver } = bench;
  const [, rx, tx] = bench.wire(2, 3) as [Fd, Fd, Fd];
  driver.start({ features: FEATURE.version1 | features });
  for (let i = 0; i < 4; i++) driver.provide(RX_BUFFERS + 2048 * i);
  const frames = [arp(), icmpEcho(frameOf(56)), icmpEcho(frameOf(1400), { sequence: 2 })];
  for (const [i, frame] of frames.entries()) driver.send(frame, TX_BUFFERS + 2048 * i);
  ringAndPump(bench, 1);

  expect(driver.tx.reap().map(({ length }) => length)).toEqual([0, 0, 0]);
  const used = driver.rx.reap();
  const replies = used.map((one) => decode(driver.frame(RX_BUFFERS + 2048 * one.id, one)).body);
  expect(replies.map(({ kind }) => kind)).toEqual(['arp', 'icmp', 'icmp']);
  expect(replies[2]).toMatchObject({ type: 0, rest: expect.objectContaining({ length: 1404 }) });
  expect([rx, tx].map(taken)).toEqual([1, 1]);
  const bytes = frames.reduce((sum, frame) => sum + frame.length, 0);
  expect(bench.instance.counters()).toEqual({
    txPackets: 3,
    txBytes: bytes,
    txDropped: 0,
    rxPackets: 3,
    rxBytes: bytes,
    rxDropped: 0,
    doorbells: 1,
    interrupts: 2,
    vhostQueues: 0,
  });
});

test('each received frame has a header of zeroes with one buffer counted', () => {
  using bench = new Workbench();
  const { driver, memory } = bench;
  driver.start();
  memory.bytes.fill(0xee, memory.at(RX_BUFFERS), memory.at(RX_BUFFERS) + 2048);
  driver.provide(RX_BUFFERS);
  deliver(bench, frameOf(60));
  expect(driver.rx.reap()).toEqual([{ id: 0, length: 72 }]);
  const at = memory.at(RX_BUFFERS);
  expect([...memory.bytes.subarray(at, at + 12)]).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
  expect([...memory.bytes.subarray(at + 12, at + 73)]).toEqual([...frameOf(60), 0xee]);
});

/** Ways to cut 12 bytes of header and a frame of 100 into descriptors. */
const shapes: readonly (readonly number[])[] = [
  [112],
  [12, 100],
  [5, 7, 100],
  [20, 92],
  [1, 0, 110, 1],
  [13, 50, 49],
];

test.each(
  shapes.flatMap((shape) =>
    [false, true].map((isIndirect) => ({ shape: shape.join('+'), sizes: shape, isIndirect })),
  ),
)('a chain of $shape bytes, indirect: $isIndirect, is one frame either way', ({ sizes, isIndirect }) => {
  using bench = new Workbench();
  const { driver, memory } = bench;
  driver.start();
  const frame = frameOf(100, 3);
  const whole = new Uint8Array(112);
  whole.set(frame, 12);
  // Pieces apart from each other, so that a wrong one shows.
  const chain = (base: number, isDeviceWritable: boolean): ChainBuffer[] =>
    sizes.map((length, i) => ({ address: base + 0x200 * i, length, isDeviceWritable }));
  const tx = chain(TX_BUFFERS, false);
  let done = 0;
  for (const { address, length } of tx) {
    memory.bytes.set(whole.subarray(done, done + length), memory.at(address));
    done += length;
  }
  driver.tx.add(tx, isIndirect ? TABLES : undefined);
  ringAndPump(bench, 1);
  expect(bench.port.sent).toEqual([frame]);

  const rx = chain(RX_BUFFERS, true);
  driver.rx.add(rx, isIndirect ? TABLES + 0x1000 : undefined);
  deliver(bench, frame);
  expect(driver.rx.reap()).toEqual([{ id: 0, length: 112 }]);
  const got = rx.flatMap(({ address, length }) => [
    ...memory.bytes.subarray(memory.at(address), memory.at(address) + length),
  ]);
  expect(got.slice(12)).toEqual([...frame]);
});

test('a buffer may lie across two maps that meet', () => {
  using bench = new Workbench();
  const { driver, memory } = bench;
  const border = maps.next.iova;
  driver.start();
  const frame = frameOf(1500, 9);
  for (const [i, byte] of frame.entries()) memory.bytes[memory.at(border - 700 + 12 + i)] = byte;
  driver.tx.add([{ address: border - 700, length: 1512 }]);
  ringAndPump(bench, 1);
  expect(bench.port.sent).toEqual([frame]);
  memory.bytes.fill(0, memory.at(border), memory.at(border) + 4096);
  driver.provide(border - 100, 4096);
  deliver(bench, frame);
  const [used] = driver.rx.reap();
  expect(used).toEqual({ id: 0, length: 1512 });
  const got = Array.from(frame, (_, i) => memory.bytes[memory.at(border - 100 + 12 + i)]);
  expect(got).toEqual([...frame]);
});

test('frames up to the MTU with a VLAN tag go either way, longer ones are dropped and counted', () => {
  using bench = new Workbench({ mtu: '1000' });
  const { driver } = bench;
  driver.start();
  for (const length of [1018, 1019, 0, 5000]) driver.send(frameOf(length), TX_BUFFERS);
  driver.tx.add([{ address: TX_BUFFERS, length: 4 }]);
  ringAndPump(bench, 1);
  expect(bench.port.sent.map((frame) => frame.length)).toEqual([1018]);
  expect(driver.tx.reap()).toHaveLength(5);
  driver.provide(RX_BUFFERS, 8192);
  deliver(bench, frameOf(1019), frameOf(1018));
  expect(driver.rx.reap()).toEqual([{ id: 0, length: 1030 }]);
  expect(bench.instance.counters()).toMatchObject({ txPackets: 1, txDropped: 4, rxPackets: 1, rxDropped: 1 });
});

test('a full queue is served in bursts after one doorbell, without losing order', () => {
  using bench = new Workbench();
  const { driver } = bench;
  driver.start();
  for (let round = 0; round < 3; round++) {
    bench.port.sent.length = 0;
    for (let i = 0; i < 256; i++) driver.send(frameOf(64, i), TX_BUFFERS + 128 * i);
    ringAndPump(bench, 1);
    expect(bench.port.sent).toEqual(Array.from({ length: 256 }, (_, i) => frameOf(64, i)));
    expect(driver.tx.reap().map(({ id }) => id)).toEqual(Array.from({ length: 256 }, (_, i) => i));
  }
  expect(bench.instance.counters().doorbells).toBe(3);
  const [, doorbell] = bench.instance.ops.getRegionIoFds?.(4) ?? [];
  expect(drainEventfd(doorbell?.fd as number), "only the driver's: another process may have it full").toBe(
    3n,
  );
});

test('indexes run past 65535', () => {
  using bench = new Workbench();
  const { driver } = bench;
  driver.start({ queueSize: 4 });
  const buffer = [{ address: TX_BUFFERS, length: 72 }];
  let returned = 0;
  for (let i = 0; i < 70_000; i += 4) {
    for (let j = 0; j < 4; j++) driver.tx.add(buffer);
    signalEventfd(bench.instance.ops.getRegionIoFds?.(4)[1]?.fd as number);
    bench.port.sent.length = 0;
    bench.thread.pump();
    returned += driver.tx.reap().length;
  }
  expect(returned).toBe(70_000);
  expect(driver.status & STATUS.needsReset).toBe(0);
});

test('doorbells may be signalled through the eventfds of the notify structure', () => {
  using bench = new Workbench();
  const { driver } = bench;
  const fds = bench.instance.ops.getRegionIoFds?.(4) ?? [];
  expect(fds.map(({ offset, size, datamatch }) => [offset, size, datamatch])).toEqual([
    [0x3000, 4, undefined],
    [0x3004, 4, undefined],
  ]);
  expect(bench.instance.ops.getRegionIoFds?.(1)).toEqual([]);
  driver.start();
  driver.send(frameOf(60));
  signalEventfd(fds[1]?.fd as number);
  bench.thread.pump();
  expect(bench.port.sent).toHaveLength(1);
});

test('without EVENT_IDX the avail flag holds interrupts back, and the used flag asks for doorbells when idle', () => {
  using bench = new Workbench();
  const [, , tx] = bench.wire(2, 3) as [Fd, Fd, Fd];
  const { driver } = bench;
  driver.start({ features: FEATURE.version1 });
  driver.tx.availFlags = 1;
  driver.send(frameOf(60));
  ringAndPump(bench, 1);
  expect(taken(tx)).toBe(0);
  expect(driver.tx.usedFlags).toBe(0);
  driver.tx.availFlags = 0;
  driver.send(frameOf(60));
  ringAndPump(bench, 1);
  expect(taken(tx)).toBe(1);
  // A receive queue with buffers needs no doorbell, one without does.
  expect(driver.rx.usedFlags).toBe(0);
  driver.provide(RX_BUFFERS);
  deliver(bench, frameOf(60));
  expect(driver.rx.usedFlags).toBe(1);
  deliver(bench, frameOf(60));
  expect(driver.rx.usedFlags).toBe(0);
  driver.provide(RX_BUFFERS);
  ringAndPump(bench, 0);
  expect(driver.rx.usedFlags).toBe(1);
});

test('with EVENT_IDX an interrupt comes when used_event is passed, and avail_event asks for the next chain', () => {
  using bench = new Workbench();
  const [, , tx] = bench.wire(2, 3) as [Fd, Fd, Fd];
  const { driver } = bench;
  driver.start();
  driver.tx.usedEvent = 2;
  for (const expected of [0, 0, 1, 0]) {
    driver.send(frameOf(60));
    ringAndPump(bench, 1);
    expect(taken(tx)).toBe(expected);
    expect(driver.tx.availEvent).toBe(driver.tx.availIndex);
    expect(driver.tx.usedFlags).toBe(0);
  }
});

/** Sends 64 frames one by one, with an interrupt wanted for every so many; returns how many came. */
function interruptsOf(features: bigint, every: number): number {
  using bench = new Workbench();
  const [, , tx] = bench.wire(2, 3) as [Fd, Fd, Fd];
  const { driver } = bench;
  driver.start({ features: FEATURE.version1 | features });
  for (let i = 0; i < 64; i++) {
    if (i % every === 0) driver.tx.usedEvent = i + every - 1;
    driver.send(frameOf(60, i));
    ringAndPump(bench, 1);
  }
  expect(driver.tx.reap()).toHaveLength(64);
  return taken(tx);
}

test('a driver with EVENT_IDX gets an interrupt for as many chains as it wants, one without gets it for each', () => {
  expect(interruptsOf(0n, 32)).toBe(64);
  expect(interruptsOf(FEATURE.eventIdx, 32)).toBe(2);
  expect(interruptsOf(FEATURE.eventIdx, 1)).toBe(64);
});

test.each([
  ['without EVENT_IDX', 0n],
  ['with EVENT_IDX', FEATURE.eventIdx],
])('a busy device is not rung for, %s', (_name, features) => {
  using bench = new Workbench();
  const { driver, port } = bench;
  driver.start({ features: FEATURE.version1 | features });
  port.isFull = true;
  for (let i = 0; i < 100; i++) {
    const from = driver.tx.availIndex;
    driver.send(frameOf(60, i), TX_BUFFERS + 128 * i);
    if (driver.tx.needsDoorbell(from, features !== 0n)) driver.ring(1);
    bench.thread.pump();
  }
  port.isFull = false;
  bench.thread.pump();
  expect(port.sent).toHaveLength(100);
  expect(bench.instance.counters().doorbells).toBe(1);
});

test('a port whose frames nobody has a buffer for is left alone until there is one', () => {
  using bench = new Workbench();
  const { driver } = bench;
  bench.port.isBlind = true;
  driver.start();
  deliver(bench, frameOf(60), frameOf(61));
  // It came to rest although the port's fd is readable.
  expect(bench.port.waiting).toHaveLength(2);
  driver.provide(RX_BUFFERS);
  ringAndPump(bench, 0);
  expect(driver.rx.reap()).toEqual([{ id: 0, length: 72 }]);
  expect(bench.port.waiting).toHaveLength(1);
  driver.provide(RX_BUFFERS);
  driver.provide(RX_BUFFERS);
  ringAndPump(bench, 0);
  expect(driver.rx.reap()).toEqual([{ id: 1, length: 73 }]);
  deliver(bench, frameOf(62));
  expect(driver.rx.reap()).toEqual([{ id: 2, length: 74 }]);
});

test('a port that cannot say what it has is asked when it is readable, and seldom at a doorbell', () => {
  using bench = new Workbench();
  const { driver, port } = bench;
  port.isBlind = true;
  driver.start();
  for (let i = 0; i < 8; i++) driver.provide(RX_BUFFERS);
  ringAndPump(bench, 0);
  const receive = vi.spyOn(port, 'receive');
  for (let i = 0; i < 64; i++) {
    driver.send(frameOf(60), TX_BUFFERS);
    ringAndPump(bench, 1);
    driver.tx.reap();
  }
  expect(port.sent).toHaveLength(64);
  expect(receive.mock.calls.length).toBeLessThan(10);
  // All of a burst is delivered, whatever came before it.
  for (const burst of [1, 5, 1]) {
    deliver(bench, ...Array.from({ length: burst }, () => frameOf(60)));
    expect(driver.rx.reap()).toHaveLength(burst);
  }
  expect(port.waiting).toHaveLength(0);
});

test('frames that came before the driver was there are lost', () => {
  using bench = new Workbench();
  const { driver } = bench;
  deliver(bench, frameOf(60), frameOf(61));
  driver.start();
  driver.provide(RX_BUFFERS);
  deliver(bench, frameOf(62));
  expect(driver.rx.reap()).toEqual([{ id: 0, length: 74 }]);
});

test('a port that fails takes the link down, with a configuration interrupt and a new generation', () => {
  using bench = new Workbench();
  const [config] = bench.wire(2, 3) as [Fd];
  const { driver } = bench;
  driver.start();
  const generation = driver.common(0x15, 1);
  driver.provide(RX_BUFFERS);
  bench.port.failure = new Error('gone');
  deliver(bench, frameOf(60));
  expect(taken(config)).toBe(1);
  expect(driver.isr).toBe(2);
  expect(driver.deviceConfig(6, 2)).toBe(0);
  expect(driver.common(0x15, 1)).not.toBe(generation);
  driver.send(frameOf(60));
  ringAndPump(bench, 1);
  expect(driver.tx.reap()).toHaveLength(1);
  expect(bench.instance.counters()).toMatchObject({ txDropped: 1, txPackets: 0 });
  expect(driver.status & STATUS.needsReset).toBe(0);
});

test('while the port is full frames wait in the queue, receiving goes on, and room sends them without a doorbell', () => {
  using bench = new Workbench();
  const { driver, port } = bench;
  driver.start();
  port.isFull = true;
  for (let i = 0; i < 100; i++) driver.send(frameOf(60, i), TX_BUFFERS + 2048 * i);
  driver.provide(RX_BUFFERS);
  ringAndPump(bench, 1);
  deliver(bench, frameOf(80));
  expect([port.sent.length, driver.tx.reap().length, driver.rx.reap().length]).toEqual([0, 0, 1]);
  port.isFull = false;
  bench.thread.pump();
  expect(port.sent).toEqual(Array.from({ length: 100 }, (_, i) => frameOf(60, i)));
  expect(bench.instance.counters()).toMatchObject({ txPackets: 100, txDropped: 0 });
});

test('a reset while the port is full leaves no frame of before, and a new start waits for room again', () => {
  using bench = new Workbench();
  const { driver, port } = bench;
  driver.start();
  port.isFull = true;
  driver.send(frameOf(60, 1));
  ringAndPump(bench, 1);
  bench.instance.ops.reset?.();
  port.isFull = false;
  bench.thread.pump();
  expect(port.sent).toEqual([]);
  port.isFull = true;
  driver.start();
  driver.send(frameOf(60, 2));
  ringAndPump(bench, 1);
  expect(port.sent).toEqual([]);
  port.isFull = false;
  bench.thread.pump();
  expect(port.sent).toEqual([frameOf(60, 2)]);
});

test('a reset with work in both queues leaves memory and interrupts alone', () => {
  using bench = new Workbench();
  const fds = bench.wire(2, 3);
  const { driver, memory } = bench;
  driver.start();
  for (let i = 0; i < 8; i++) driver.provide(RX_BUFFERS + 2048 * i);
  for (let i = 0; i < 100; i++) driver.send(frameOf(60), TX_BUFFERS);
  bench.port.waiting.push(frameOf(60));
  signalEventfd(bench.port.fd);
  driver.ring(1);
  const before = memory.bytes.slice();
  driver.status = 0;
  expect(driver.status).toBe(0);
  driver.ring(0);
  driver.ring(1);
  bench.thread.pump();
  expect(Buffer.compare(memory.bytes, before)).toBe(0);
  expect(fds.map(taken)).toEqual([0, 0, 0]);
  expect(bench.port.sent).toEqual([]);
  driver.start();
  driver.send(frameOf(60));
  ringAndPump(bench, 1);
  expect(bench.port.sent).toHaveLength(1);
});

test('VFIO_DEVICE_RESET stops the queues, and closing does too and forgets the configuration', () => {
  using bench = new Workbench();
  const { driver, memory } = bench;
  const { ops } = bench.instance;
  driver.start();
  driver.send(frameOf(60));
  driver.ring(1);
  ops.reset?.();
  bench.thread.pump();
  expect(driver.status).toBe(0);
  expect(driver.config(4, 2), 'as it was').toBe(6);
  driver.start();
  driver.send(frameOf(60));
  driver.ring(1);
  const before = memory.bytes.slice();
  ops.closeDevice();
  bench.thread.pump();
  expect(Buffer.compare(memory.bytes, before)).toBe(0);
  expect(bench.port.sent).toEqual([]);
  ops.openDevice(memory.open);
  expect(driver.config(4, 2)).toBe(2);
  driver.start();
  driver.send(frameOf(60));
  ringAndPump(bench, 1);
  expect(bench.port.sent).toHaveLength(1);
});

test('without bus mastering nothing moves, and with it everything that waited does', () => {
  using bench = new Workbench();
  const { driver } = bench;
  driver.start();
  driver.setBusMaster(false);
  driver.provide(RX_BUFFERS);
  driver.send(frameOf(60));
  driver.ring(1);
  deliver(bench, frameOf(61));
  expect(bench.port.sent).toEqual([]);
  expect(driver.rx.usedIndex).toBe(0);
  driver.setBusMaster(true);
  bench.thread.pump();
  expect(bench.port.sent).toEqual([frameOf(60)]);
  expect(driver.rx.reap()).toEqual([{ id: 0, length: 73 }]);
});

test('a queue enabled after DRIVER_OK is served from then on', () => {
  using bench = new Workbench();
  const { driver, memory } = bench;
  driver.negotiate();
  driver.status |= STATUS.driverOk;
  driver.tx = new GuestQueue(memory, 16, maps.main.iova);
  driver.send(frameOf(60));
  driver.setUpQueue(1, driver.tx);
  bench.thread.pump();
  expect(bench.port.sent).toHaveLength(1);
});

test('a broken queue stops, tells the guest and the trace, and leaves the other one at work', () => {
  using bench = new Workbench();
  const seen = misuses();
  const [config, rx] = bench.wire(2, 3) as [Fd, Fd];
  const { driver } = bench;
  driver.start();
  driver.tx.offer(256);
  ringAndPump(bench, 1);
  expect(driver.status & STATUS.needsReset).toBe(STATUS.needsReset);
  expect(driver.isr).toBe(2);
  expect(taken(config)).toBe(1);
  expect(seen).toEqual(['queue 1: descriptor 256 of 256']);
  driver.send(frameOf(60));
  ringAndPump(bench, 1);
  expect(bench.port.sent).toEqual([]);
  expect(seen).toHaveLength(1);
  driver.provide(RX_BUFFERS);
  deliver(bench, frameOf(60));
  expect(driver.rx.reap()).toHaveLength(1);
  expect(taken(rx)).toBe(1);
  driver.start();
  expect(driver.status & STATUS.needsReset).toBe(0);
  driver.send(frameOf(60));
  ringAndPump(bench, 1);
  expect(bench.port.sent).toHaveLength(1);
});

const READABLE = { address: TX_BUFFERS, length: 72 };

/** Each gives the transmit queue something that no driver may, and says what the trace shall say. */
const crimes: Record<string, [(bench: Workbench) => void, RegExp]> = {
  'a loop': [
    ({ driver }) => {
      for (const i of [0, 1]) driver.tx.writeDescriptor(driver.tx.desc + 16 * i, TX_BUFFERS, 8, 1, 1 - i);
      driver.tx.offer(0);
    },
    /more than 256 descriptors/,
  ],
  'a next descriptor outside the table': [
    ({ driver }) => {
      driver.tx.writeDescriptor(driver.tx.desc, TX_BUFFERS, 8, 1, 0xffff);
      driver.tx.offer(0);
    },
    /descriptor 65535 of 256/,
  ],
  'a device-writable buffer': [
    ({ driver }) => driver.tx.add([READABLE, { ...READABLE, isDeviceWritable: true }]),
    /wrong direction/,
  ],
  'a buffer that is not mapped': [
    ({ driver }) => driver.tx.add([{ address: 0xdead_0000, length: 72 }]),
    /not in memory/,
  ],
  'a buffer that runs out of its map': [
    ({ driver }) => driver.tx.add([{ address: maps.next.iova + maps.next.bytes - 71, length: 72 }]),
    /not in memory/,
  ],
  'a buffer past 2^53': [({ driver }) => driver.tx.add([{ address: 2 ** 60, length: 72 }]), /not in memory/],
  'an index too far ahead': [
    ({ driver }) => {
      driver.tx.availIndex = 257;
    },
    /257 chains in a queue of 256/,
  ],
  'an index that goes back': [
    ({ driver }) => {
      driver.tx.availIndex = 0xffff;
    },
    /65535 chains/,
  ],
  'an empty indirect table': [({ driver }) => driver.tx.add([], TABLES), /indirect table of 0 bytes/],
  'an indirect table longer than the queue': [
    ({ driver }) => {
      driver.tx.writeDescriptor(driver.tx.desc, TABLES, 16 * 257, 4, 0);
      driver.tx.offer(0);
    },
    /indirect table of 4112 bytes/,
  ],
  'an indirect table in an indirect table': [
    ({ driver }) => {
      driver.tx.add([READABLE], TABLES);
      driver.tx.writeDescriptor(TABLES, TABLES, 16, 4, 0);
    },
    /in an indirect table/,
  ],
  'a loop in an indirect table': [
    ({ driver }) => {
      driver.tx.add([READABLE, READABLE], TABLES);
      driver.tx.writeDescriptor(TABLES + 16, TX_BUFFERS, 8, 1, 0);
    },
    /more than 256 descriptors/,
  ],
  'a next descriptor outside an indirect table': [
    ({ driver }) => {
      driver.tx.add([READABLE, READABLE], TABLES);
      driver.tx.writeDescriptor(TABLES, TX_BUFFERS, 8, 1, 2);
    },
    /descriptor 2 of 2/,
  ],
  'an indirect table of half a descriptor': [
    ({ driver }) => {
      driver.tx.writeDescriptor(driver.tx.desc, TABLES, 24, 4, 0);
      driver.tx.offer(0);
    },
    /indirect table of 24 bytes/,
  ],
  'an indirect table that runs out of its map': [
    ({ driver }) => {
      driver.tx.writeDescriptor(driver.tx.desc, maps.next.iova + maps.next.bytes - 16, 32, 4, 0);
      driver.tx.offer(0);
    },
    /indirect table at 0x3ffff0 that is not in memory/,
  ],
  'an indirect descriptor with a next one': [
    ({ driver }) => {
      driver.tx.writeDescriptor(driver.tx.desc, TABLES, 16, 5, 1);
      driver.tx.offer(0);
    },
    /with a next one/,
  ],
  'an indirect table that is not mapped': [
    ({ driver }) =>
      driver.tx.writeDescriptor(driver.tx.desc, 0xdead_0000, 16, 4, driver.tx.offer(0) as never),
    /not in memory/,
  ],
  'a ring that is no longer mapped': [({ memory }) => memory.map([maps.next]), /a ring is not in memory/],
};

test.each(Object.entries(crimes))('%s stops the queue and harms nobody', (_name, [commit, complaint]) => {
  using bench = new Workbench();
  const seen = misuses();
  bench.driver.start();
  commit(bench);
  ringAndPump(bench, 1);
  expect(seen[0]).toMatch(complaint);
  expect(bench.driver.status & STATUS.needsReset).toBe(STATUS.needsReset);
  expect(bench.port.sent).toEqual([]);
});

test.each([
  ['a readable buffer', { address: RX_BUFFERS, length: 2048 }],
  [
    'a buffer in memory the device must not write',
    { address: maps.readOnly.iova, length: 2048, isDeviceWritable: true },
  ],
  ['a buffer shorter than a header', { address: RX_BUFFERS, length: 11, isDeviceWritable: true }],
])('%s stops the receive queue', (_name, buffer) => {
  using bench = new Workbench();
  bench.driver.start();
  const before = bench.memory.bytes.slice(maps.readOnly.at, maps.readOnly.at + 4096);
  bench.driver.rx.add([buffer]);
  deliver(bench, frameOf(60));
  expect(bench.driver.status & STATUS.needsReset).toBe(STATUS.needsReset);
  expect(bench.driver.rx.usedIndex).toBe(0);
  expect(bench.memory.bytes.slice(maps.readOnly.at, maps.readOnly.at + 4096)).toEqual(before);
});

test('an indirect descriptor without the feature is a fault', () => {
  using bench = new Workbench();
  const seen = misuses();
  bench.driver.start({ features: FEATURE.version1 });
  bench.driver.tx.add([READABLE], TABLES);
  ringAndPump(bench, 1);
  expect(seen).toEqual(['queue 1: an indirect descriptor was not negotiated']);
});

test('packets in buffers that the guest uses again cost no view, as a view is garbage', () => {
  using bench = new Workbench({ net: 'responder' });
  const { driver } = bench;
  const [, rx] = bench.wire(2, 3) as [Fd, Fd];
  driver.start();
  const most = 256;
  const exchange = (frame: Uint8Array): number => {
    for (let i = 0; i < most; i++) {
      driver.provide(RX_BUFFERS + 2048 * i);
      driver.send(frame, TX_BUFFERS + 2048 * i);
    }
    signalEventfd(bench.instance.ops.getRegionIoFds?.(4)[1]?.fd as number);
    const made = vi.spyOn(Uint8Array.prototype, 'subarray');
    bench.thread.pump();
    const views = made.mock.calls.length;
    made.mockRestore();
    expect(driver.rx.reap()).toHaveLength(most);
    driver.tx.reap();
    drainEventfd(rx.number);
    return views;
  };
  driver.send(arp());
  driver.provide(RX_BUFFERS);
  ringAndPump(bench, 1);
  driver.rx.reap();
  driver.tx.reap();
  const frame = icmpEcho(frameOf(40));
  expect(exchange(frame)).toBeGreaterThan(most);
  exchange(frame);
  // The few whose places others take turns with.
  expect(exchange(frame)).toBeLessThan(most / 4);
});
