import { expect, test } from 'vitest';
import type { Fd } from '../../sys/fd.js';
import type { GuestMisuseEvent, VfioEvent } from '../../sys/trace.js';
import { decode, icmpEcho } from '../net/testing/frames.js';
import { hearDevices } from '../virtio/testing/hear.js';
import { COMMON, FEATURE, maps, STATUS } from './testing/guest.js';
import { CTRL_MQ, PairedDriver, UNANSWERED } from './testing/paired-driver.js';
import { taken, Workbench } from './testing/workbench.js';

const OK = 0;
const ERR = 1;
const RX = [0x18_0000, 0x1a_0000, 0x1c_0000] as const;
const MSIX = 2;
const INTX = 0;
const frameOf = (length: number, seed = 0): Uint8Array =>
  Uint8Array.from({ length }, (_, i) => (seed + 7 * i) & 0xff);

/** A device with pairs, and its driver, which has started unless it shall not. */
function open(options: Record<string, string> = { queues: '2' }) {
  const bench = new Workbench(options);
  const guest = new PairedDriver(bench.driver);
  const pump = () => bench.thread.pump();
  /** A request's answer, once the device has come to rest. */
  const answer = (read: () => number): number => {
    pump();
    return read();
  };
  return {
    ...{ bench, guest, pump, answer, driver: bench.driver, ports: bench.ports },
    /** A frame arrives at a pair's port. */
    arrive: (pair: number, frame: Uint8Array) => {
      bench.ports[pair]?.waiting.push(frame);
      bench.ports[pair]?.signal();
      pump();
    },
    [Symbol.dispose]: () => bench[Symbol.dispose](),
  };
}

/** What devices tell, and what guests do wrong, until the test's end. */
function hear(): { readonly told: string[]; readonly misuses: string[] } {
  const heard = { told: [] as string[], misuses: [] as string[] };
  const tell = ({ text }: VfioEvent) => heard.told.push(text ?? '');
  const note = ({ text }: GuestMisuseEvent) => heard.misuses.push(text);
  hearDevices(tell, note);
  return heard;
}

test('a device of one pair has no control queue, and offers neither that nor several pairs', () => {
  using device = open({});
  expect(device.driver.offered & (FEATURE.mq | FEATURE.ctrlVq)).toBe(0n);
  expect(device.driver.common(COMMON.numQueues, 2)).toBe(2);
  expect(device.driver.deviceConfig(8, 2)).toBe(1);
  expect(device.bench.instance.vectorCounts()).toHaveLength(3);
});

test('with queues=3 it has three pairs, a control queue behind them, and a vector for each of these', () => {
  using device = open({ queues: '3' });
  const both = FEATURE.mq | FEATURE.ctrlVq;
  expect(device.driver.offered & both).toBe(both);
  expect(device.driver.common(COMMON.numQueues, 2)).toBe(7);
  expect(device.guest.mostPairs).toBe(3);
  expect(device.bench.instance.ops.getIrqInfo(MSIX).count).toBe(8);
  expect(device.bench.instance.ops.getRegionIoFds?.(4)).toHaveLength(7);
});

test('several pairs without the control queue are refused', () => {
  using device = open();
  const { driver } = device;
  expect(() => driver.negotiate(driver.offered & ~FEATURE.ctrlVq)).toThrowError('features refused');
});

test('frames of each pair pass its own port both ways, and interrupt by the vectors of its queues', () => {
  using device = open({ queues: '3' });
  const { guest, pump, ports, answer, bench } = device;
  const vectors = bench.wire(MSIX, 8) as Fd[];
  guest.start();
  expect(answer(guest.setPairs(3))).toBe(OK);
  expect(ports.map(({ isActive }) => isActive)).toEqual([false, true, true]); // the first is not told
  vectors.forEach(taken);
  for (const pair of [2, 0, 1]) {
    guest.send(pair, frameOf(60 + pair, pair));
    guest.provide(pair, RX[pair] as number);
    pump();
    device.arrive(pair, frameOf(100 + pair, pair));
    expect(ports[pair]?.sent).toEqual([frameOf(60 + pair, pair)]);
    const [used] = guest.rx[pair]?.reap() ?? [];
    expect(bench.driver.frame(RX[pair] as number, used!)).toEqual(frameOf(100 + pair, pair));
    const signalled = vectors.flatMap((fd, i) => (taken(fd) > 0 ? [i] : []));
    expect(signalled).toEqual([1 + 2 * pair, 2 + 2 * pair]);
  }
  expect(bench.instance.counters()).toMatchObject({ txPackets: 3, rxPackets: 3, txDropped: 0, rxDropped: 0 });
  expect(bench.instance.vectorCounts()).toEqual([0, 1, 1, 1, 1, 1, 1, expect.any(Number)]);
});

test('the responder answers by the pair that has asked', () => {
  using device = open({ net: 'responder', queues: '2' });
  const { guest, pump, answer, driver } = device;
  guest.start();
  answer(guest.setPairs(2));
  for (const pair of [1, 0]) {
    for (const each of [0, 1]) guest.provide(each, RX[each] as number);
    guest.send(pair, icmpEcho(new Uint8Array(56).fill(pair)));
    pump();
    const [used] = guest.rx[pair]?.reap() ?? [];
    expect(decode(driver.frame(RX[pair] as number, used!)).body).toMatchObject({ kind: 'icmp', type: 0 });
    expect(guest.rx[1 - pair]?.reap()).toEqual([]);
  }
});

test('a pair that is not used receives nothing, and what it sends is returned and dropped', () => {
  using device = open();
  const { guest, pump, ports, answer, bench } = device;
  guest.start();
  for (const before of [
    () => {},
    () => expect([answer(guest.setPairs(2)), answer(guest.setPairs(1))]).toEqual([OK, OK]),
  ]) {
    before();
    const dropped = bench.instance.counters().txDropped;
    guest.provide(1, RX[1]);
    device.arrive(1, frameOf(70));
    guest.send(1, frameOf(60));
    pump();
    expect(guest.rx[1]?.reap()).toEqual([]);
    expect(guest.tx[1]?.reap()).toHaveLength(1);
    expect(ports[1]?.sent).toEqual([]);
    expect(bench.instance.counters().txDropped).toBe(dropped + 1);
  }
  // What had come for it before is not for its next use.
  expect(answer(guest.setPairs(2))).toBe(OK);
  device.arrive(1, frameOf(90));
  const [used, ...more] = guest.rx[1]?.reap() ?? [];
  expect([used?.length, more]).toEqual([12 + 90, []]);
});

test('what a pair has sent before it ends is sent, more than a turn takes, too', () => {
  using device = open();
  const { guest, pump, ports, answer, driver } = device;
  guest.start();
  answer(guest.setPairs(2));
  driver.setBusMaster(false);
  for (let i = 0; i < 200; i++) guest.send(1, frameOf(60));
  const read = guest.setPairs(1);
  pump();
  expect(ports[1]?.sent).toHaveLength(0);
  driver.setBusMaster(true);
  expect(answer(read)).toBe(OK);
  expect(ports[1]?.sent).toHaveLength(200);
  expect(ports[1]?.isActive).toBe(false);
});

test.each([
  ['no pair', [CTRL_MQ, 0, 0, 0]],
  ['more pairs than there are', [CTRL_MQ, 0, 3, 0]],
  ['0x8000 pairs', [CTRL_MQ, 0, 0, 0x80]],
  ['0x102 pairs, of which the low byte would do', [CTRL_MQ, 0, 2, 1]],
  ['a number of one byte', [CTRL_MQ, 0, 2]],
  ['more behind the number', [CTRL_MQ, 0, 2, 0, 0]],
  ['another command of the class', [CTRL_MQ, 1, 2, 0]],
  ['receive modes', [0, 0, 1]],
  ['a MAC address', [1, 1, 2, 0, 0, 0, 0, 1]],
  ['no command', [CTRL_MQ]],
  ['no header', []],
] as const)('a request with %s is answered with VIRTIO_NET_ERR, and changes nothing', (_what, bytes) => {
  using device = open();
  const { guest, answer, ports, driver } = device;
  guest.start();
  expect(answer(guest.request(bytes))).toBe(ERR);
  expect(ports[1]?.isActive).toBe(false);
  expect(driver.status & STATUS.needsReset).toBe(0);
  expect(answer(guest.setPairs(2))).toBe(OK);
});

test('without VIRTIO_NET_F_MQ the control queue is the third one, has one pair, and the other queues are of no use', () => {
  using device = open();
  const { misuses } = hear();
  const { guest, answer, ports, driver, pump } = device;
  guest.start({ features: driver.offered & ~FEATURE.mq, pairs: 1 });
  expect(guest.controlIndex).toBe(2);
  expect(answer(guest.setPairs(1))).toBe(ERR);
  expect(answer(guest.setPairs(2))).toBe(ERR);
  expect(misuses.at(-1)).toBe('a request for 2 queue pairs of 1');
  driver.setUpQueue(3, guest.tx[0]!, 4);
  driver.setUpQueue(4, guest.tx[0]!, 5);
  for (let queue = 0; queue < 6; queue++) driver.ring(queue);
  pump();
  guest.send(0, frameOf(60));
  pump();
  expect(ports.map(({ sent }) => sent.length)).toEqual([1, 0]);
});

test('without the control queue it is a device of one pair', () => {
  using device = open();
  const { guest, ports, driver, pump } = device;
  guest.start({ features: driver.offered & ~FEATURE.mq & ~FEATURE.ctrlVq, pairs: 1 });
  guest.send(0, frameOf(60));
  pump();
  expect(ports.map(({ sent }) => sent.length)).toEqual([1, 0]);
});

test('a pair that is not set up, or in part only, cannot be used until it is', () => {
  using device = open();
  const { misuses } = hear();
  const { guest, answer, driver, ports } = device;
  guest.start({ pairs: 1 });
  expect(answer(guest.setPairs(2))).toBe(ERR);
  driver.setUpQueue(2, guest.rx[0]!, 3);
  expect(answer(guest.setPairs(2))).toBe(ERR);
  expect(misuses).toEqual(Array(2).fill('a request for 2 queue pairs, of which pair 1 is not set up'));
  driver.setUpQueue(3, guest.tx[0]!, 4);
  expect(answer(guest.setPairs(2))).toBe(OK);
  expect(ports[1]?.isActive).toBe(true);
});

test('pairs that the host refuses are an error to the guest, and those before it end again', () => {
  const { told } = hear();
  using device = open({ queues: '3' });
  const { guest, answer, ports } = device;
  guest.start();
  ports[2]!.isRefused = true;
  expect(answer(guest.setPairs(3))).toBe(ERR);
  expect(ports.map(({ isActive }) => isActive)).toEqual([false, false, false]);
  expect(told.at(-1)).toBe('virtio-net: the host refuses more queue pairs than 1: is the interface gone?');
  expect(answer(guest.setPairs(2))).toBe(OK);
});

test('a request without room for its answer stops the control queue only, and the device needs a reset', () => {
  using device = open();
  const { misuses } = hear();
  const { guest, pump, ports, driver, answer, bench } = device;
  const [config] = bench.wire(MSIX, 6) as [Fd];
  guest.start();
  guest.control.add([{ address: maps.main.iova + 0x1_8000, length: 4 }]);
  driver.ring(guest.controlIndex);
  pump();
  expect(driver.status & STATUS.needsReset).toBe(STATUS.needsReset);
  expect(taken(config)).toBe(1);
  expect(misuses).toEqual(['queue 4: a control request without room for its answer']);
  expect(answer(guest.setPairs(2))).toBe(UNANSWERED);
  guest.send(0, frameOf(60));
  pump();
  expect(ports[0]?.sent).toHaveLength(1);
  guest.start();
  expect(driver.status & STATUS.needsReset).toBe(0);
  expect(answer(guest.setPairs(2))).toBe(OK);
});

test('a request of more than 4 KiB stops the control queue', () => {
  using device = open();
  const { misuses } = hear();
  const { guest, pump, driver } = device;
  guest.start();
  const at = maps.main.iova + 0x10_0000;
  guest.control.add([
    { address: at, length: 0x8_0000 },
    { address: at, length: 1, isDeviceWritable: true },
  ]);
  driver.ring(guest.controlIndex);
  pump();
  expect(misuses).toEqual(['queue 4: a control request of 524289 bytes, where 4096 are allowed']);
});

test('many requests at once are all answered, in order', () => {
  using device = open();
  const { guest, pump, driver, ports } = device;
  guest.start();
  driver.setBusMaster(false);
  const answers = Array.from({ length: 100 }, (_, i) => {
    const at = maps.main.iova + 0x10_0000 + 0x1000 * i;
    return guest.request([CTRL_MQ, 0, i % 4, 0], at);
  });
  driver.setBusMaster(true);
  // More than a turn takes, if this machine is slow.
  for (let i = 0; i < 1000 && answers.at(-1)?.() === UNANSWERED; i++) {
    pump();
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
  }
  expect(answers.map((read) => read())).toEqual(
    Array.from({ length: 100 }, (_, i) => (i % 4 === 1 || i % 4 === 2 ? OK : ERR)),
  );
  expect(ports[1]?.isActive).toBe(true);
});

test('INTx of any pair raises the one pin, as often as it is unmasked', () => {
  using device = open();
  const { guest, pump, answer, driver, bench } = device;
  const [pin] = bench.wire(INTX, 1) as [Fd];
  guest.start({ features: driver.offered & ~FEATURE.eventIdx });
  answer(guest.setPairs(2));
  expect([taken(pin), driver.isr]).toEqual([1, 1]);
  for (const pair of [1, 0, 1]) {
    guest.send(pair, frameOf(60));
    pump();
    expect(taken(pin)).toBe(0); // masked by the interrupt before
    bench.instance.ops.setIrqs({ index: INTX, flags: (1 << 4) | 1, start: 0, count: 1 });
    expect(taken(pin)).toBe(1);
    expect(driver.isr).toBe(1);
  }
});

test('queues in memory of another process are served by message, the control queue, too', () => {
  using device = open();
  const { guest, pump, answer, ports, bench, driver } = device;
  // A turn takes as long as this machine makes it, and the next one comes later.
  const awaitTurns = (isDone: () => boolean) => {
    for (let i = 0; i < 1000 && !isDone(); i++) {
      pump();
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
    }
  };
  bench.memory.map([{ ...maps.main, isRemote: true }, maps.next]);
  guest.start();
  expect(answer(guest.setPairs(2))).toBe(OK);
  for (const pair of [0, 1]) {
    guest.send(pair, frameOf(60, pair));
    guest.provide(pair, RX[pair] as number);
    awaitTurns(() => ports[pair]?.sent.length === 1);
    device.arrive(pair, frameOf(80, pair));
    awaitTurns(() => guest.rx[pair]?.usedIndex === 1);
    expect(ports[pair]?.sent).toEqual([frameOf(60, pair)]);
    const [used] = guest.rx[pair]?.reap() ?? [];
    expect(driver.frame(RX[pair] as number, used!)).toEqual(frameOf(80, pair));
  }
  expect(answer(guest.setPairs(1))).toBe(OK);
  guest.provide(1, RX[1]);
  device.arrive(1, frameOf(90));
  guest.provide(0, RX[0]);
  device.arrive(0, frameOf(91));
  awaitTurns(() => guest.rx[0]?.usedIndex === 2);
  expect(guest.rx.map((queue) => queue.reap().length)).toEqual([1, 0]);
});

test('a reset ends all pairs but the first, and the next driver begins with that', () => {
  using device = open();
  const { guest, pump, answer, ports, driver } = device;
  guest.start();
  answer(guest.setPairs(2));
  driver.status = 0;
  expect(ports[1]?.isActive).toBe(false);
  guest.send(1, frameOf(60));
  pump();
  expect(ports[1]?.sent).toEqual([]);
  guest.start();
  guest.send(1, frameOf(60));
  guest.send(0, frameOf(61));
  pump();
  expect(ports.map(({ sent }) => sent.length)).toEqual([1, 0]);
});

test('a link that fails at each pair is told once', () => {
  const { told } = hear();
  using device = open();
  const { guest, answer, ports, driver } = device;
  guest.start();
  answer(guest.setPairs(2));
  for (const pair of [0, 1]) {
    guest.provide(pair, RX[pair] as number);
    ports[pair]!.failure = new Error('gone');
    device.arrive(pair, frameOf(60));
  }
  expect(told.filter((text) => text.includes('link is down'))).toHaveLength(1);
  expect(driver.deviceConfig(6, 2)).toBe(0);
});
