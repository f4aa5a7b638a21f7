import { expect, test } from 'vitest';
import { drainEventfd } from '../../sys/eventfd.js';
import type { Fd } from '../../sys/fd.js';
import type { FakeVhostKernel } from '../net/testing/fake-vhost-kernel.js';
import { COMMON, FEATURE } from './testing/guest.js';
import { frameOf, hear, open, TX, withHeader } from './testing/kernel-card.js';
import { taken } from './testing/workbench.js';

const RX = 0x20_0000;
const MSIX = 2;
const INTX = 0;
const TRIGGER_EVENTFD = (1 << 2) | (1 << 5);
const TRIGGER_NONE = (1 << 0) | (1 << 5);

/** Without EVENT_IDX, each chain interrupts. */
const EACH = FEATURE.version1 | FEATURE.indirect;

const started = (kernel: FakeVhostKernel): string[] => kernel.calls.splice(0);

test('the kernel is told of features, memory and both queues in the order that it requires, and moves frames both ways', () => {
  const heard = hear();
  using device = open();
  const { kernel, bench, turn, send } = device;
  const { driver } = bench;
  const [, rx, tx] = bench.wire(MSIX, 3) as [Fd, Fd, Fd];
  driver.start();
  expect(started(kernel)).toEqual([
    'SET_OWNER',
    'SET_FEATURES 0x130008000',
    'SET_MEM_TABLE 2',
    ...[0, 1].flatMap((queue) => [
      `SET_VRING_NUM ${queue} 256`,
      `SET_VRING_BASE ${queue} 0`,
      `SET_VRING_ADDR ${queue}`,
      `SET_VRING_ERR ${queue}`,
      `SET_VRING_CALL ${queue}`,
      `SET_VRING_KICK ${queue}`,
      expect.stringMatching(new RegExp(`^NET_SET_BACKEND ${queue} \\d+$`)),
    ]),
  ]);
  send(frameOf(100));
  send(frameOf(1500, 3), TX + 0x2000);
  driver.provide(RX);
  kernel.deliver(frameOf(60, 5));
  turn();
  expect(kernel.sent).toEqual([withHeader(frameOf(100)), withHeader(frameOf(1500, 3))]);
  expect(driver.tx.reap()).toHaveLength(2);
  const [used] = driver.rx.reap();
  expect(driver.frame(RX, used!)).toEqual(frameOf(60, 5));
  expect([rx, tx].map(taken)).toEqual([1, 1]);
  // This process has moved, heard and signalled nothing.
  expect(kernel.moved).toEqual({ sent: 0, received: 0 });
  const zero = { txPackets: 0, rxPackets: 0, txBytes: 0, rxBytes: 0, txDropped: 0, rxDropped: 0 };
  expect(bench.instance.counters()).toEqual({ ...zero, doorbells: 0, interrupts: 0, vhostQueues: 2 });
  expect(heard.told).toEqual(['virtio-net, net=vhost:tap0: the kernel moves its packets (vhost-net)']);
});

test.each([
  ['ENOENT', /: open on \/dev\/vhost-net for tap tap0: ENOENT; load its module: modprobe vhost_net$/],
  ['EACCES', /: open on \/dev\/vhost-net for tap tap0: EACCES; give this user read and write access/],
] as const)('without vhost-net (%s) this process moves the packets, and says why', (code, says) => {
  const heard = hear();
  using device = open({}, (kernel) => {
    kernel.openError = code;
  });
  const { kernel, bench, send } = device;
  bench.driver.start();
  send(frameOf(80));
  expect(kernel.sent).toEqual([withHeader(frameOf(80))]);
  expect(bench.instance.counters()).toMatchObject({ txPackets: 1, vhostQueues: 0 });
  expect(kernel.calls).toEqual([]);
  expect(heard.told).toEqual([
    expect.stringMatching(/^virtio-net, net=vhost:tap0: this process moves its packets, as vhost-net cannot/),
  ]);
  expect(heard.told[0]).toMatch(says);
});

test('a kernel without virtio 1.0, or that cannot make its thread, is left, and its file closed', () => {
  const heard = hear();
  for (const prepare of [
    (kernel: FakeVhostKernel) => {
      kernel.features &= ~FEATURE.version1;
    },
    (kernel: FakeVhostKernel) => {
      kernel.refused.set('SET_OWNER', 'EAGAIN');
    },
  ]) {
    using device = open({}, prepare);
    expect(device.kernel.files).toEqual(['tap']);
  }
  expect(heard.told[0]).toMatch(/lacks features 0x100000000 that this device needs$/);
  expect(heard.told[1]).toMatch(/VHOST_SET_OWNER on .*: EAGAIN; the kernel could not start its thread/);
});

test('features that the kernel lacks are not offered, and those of addresses are not passed to it', () => {
  using device = open({}, (kernel) => {
    kernel.features &= ~FEATURE.eventIdx & ~FEATURE.mergeable;
  });
  const { bench, kernel } = device;
  const { offered } = bench.driver;
  expect(offered & (FEATURE.eventIdx | FEATURE.mergeable)).toBe(0n);
  expect(offered & FEATURE.accessPlatform).toBe(FEATURE.accessPlatform);
  bench.driver.start();
  // ACCESS_PLATFORM would have it ask for each address.
  expect(kernel.accepted).toBe(FEATURE.version1 | FEATURE.indirect);
});

test('a tap without headers has the kernel make them', () => {
  using device = open({}, (kernel) => {
    kernel.tunFeatures = 0x1002;
  });
  device.bench.driver.start();
  expect(device.kernel.accepted & (1n << 27n)).toBe(1n << 27n);
  expect(device.bench.driver.offered & FEATURE.csum).toBe(0n);
});

test('offloads are set at the tap as the driver accepts them, and a reset stops both queues', () => {
  using device = open();
  const { bench, kernel, send } = device;
  bench.driver.start();
  expect(kernel.offloads).toBe(0x67);
  send(frameOf(60));
  bench.driver.status = 0;
  expect(kernel.running).toEqual([]);
  expect(kernel.regions).toEqual([]);
  expect(kernel.rings.map(({ kick, call, err }) => [kick, call, err])).toEqual([
    [-1, -1, -1],
    [-1, -1, -1],
  ]);
  bench.driver.start({ features: FEATURE.version1 });
  expect(kernel.offloads).toBe(0);
  expect(kernel.accepted).toBe(FEATURE.version1);
  send(frameOf(70));
  expect(kernel.sent).toHaveLength(2);
  expect(bench.instance.counters().vhostQueues).toBe(4);
});

test('files are closed in reverse order, with queues running or not', () => {
  const device = open();
  device.bench.driver.start();
  expect(device.kernel.files).toEqual(['tap', 'vhost-net']);
  device[Symbol.dispose]();
  expect(device.kernel.files).toEqual([]);
});

test('without bus mastering no queue runs; with it again, they go on where they were', () => {
  using device = open();
  const { bench, kernel, send, turn } = device;
  bench.driver.start();
  send(frameOf(60));
  bench.driver.setBusMaster(false);
  expect(kernel.running).toEqual([]);
  send(frameOf(61), TX + 0x2000);
  expect(kernel.sent).toHaveLength(1);
  kernel.calls.length = 0;
  bench.driver.setBusMaster(true);
  expect(kernel.calls).toContain('SET_VRING_BASE 1 1');
  turn();
  expect(kernel.sent.at(-1)).toEqual(withHeader(frameOf(61)));
});

test('INTx is raised by this process, with its status bit', () => {
  using device = open();
  const { bench, send } = device;
  const [pin] = bench.wire(INTX, 1) as [Fd];
  bench.driver.start();
  send(frameOf(60));
  expect(taken(pin)).toBe(1);
  expect(bench.driver.isr).toBe(1);
  expect(bench.instance.counters().interrupts).toBe(1);
});

test('interrupts go where they are wanted at the time: by the pin, by the vector, by none until it has an eventfd', () => {
  using device = open();
  const { bench, send, kernel } = device;
  const { ops } = bench.instance;
  const [pin] = bench.wire(INTX, 1) as [Fd];
  bench.driver.start({ features: EACH });
  ops.setIrqs({ index: INTX, flags: TRIGGER_NONE, start: 0, count: 0 });
  const [, , tx] = bench.wire(MSIX, 3) as [Fd, Fd, Fd];
  send(frameOf(60));
  expect([pin, tx].map(taken)).toEqual([0, 1]);
  // Masked: the vector has no eventfd, and gets it back.
  ops.setIrqs({ index: MSIX, flags: TRIGGER_EVENTFD, start: 2, count: 1, data: [-1] });
  send(frameOf(60), TX + 0x2000);
  expect(taken(tx)).toBe(0);
  ops.setIrqs({ index: MSIX, flags: TRIGGER_EVENTFD, start: 2, count: 1, data: [tx.number] });
  expect(taken(tx)).toBe(1);
  send(frameOf(60), TX + 0x4000);
  expect(taken(tx)).toBe(1);
  // MSI-X off: the pin again, and the old eventfd is let go.
  ops.setIrqs({ index: MSIX, flags: TRIGGER_NONE, start: 0, count: 0 });
  const [again] = bench.wire(INTX, 1) as [Fd];
  send(frameOf(60), TX + 0x6000);
  expect([again, tx].map(taken)).toEqual([1, 0]);
  expect(kernel.running).toEqual([0, 1]);
});

test('a queue follows to another vector while it runs', () => {
  using device = open();
  const { bench, send } = device;
  const [config, rx, tx] = bench.wire(MSIX, 3) as [Fd, Fd, Fd];
  bench.driver.start({ features: EACH });
  bench.driver.commonWrite(COMMON.queueSelect, 2, 1);
  bench.driver.commonWrite(COMMON.queueVector, 2, 0);
  send(frameOf(60));
  expect([config, rx, tx].map(taken)).toEqual([1, 0, 0]);
  bench.driver.commonWrite(COMMON.queueSelect, 2, 1);
  bench.driver.commonWrite(COMMON.queueVector, 2, 0xffff);
  send(frameOf(60), TX + 0x2000);
  expect([config, rx, tx].map(taken)).toEqual([0, 0, 0]);
});

test('a doorbell before the start is not lost, and one after a stop wakes nobody', () => {
  using device = open();
  const { bench, kernel, turn } = device;
  bench.driver.setBusMaster(true);
  bench.driver.negotiate();
  bench.driver.start();
  bench.driver.send(frameOf(60), TX);
  bench.driver.ring(1);
  turn();
  bench.driver.status = 0;
  bench.driver.ring(1);
  turn();
  expect(kernel.sent).toHaveLength(1);
  expect(bench.instance.counters().doorbells).toBe(0);
  drainEventfd(bench.instance.ops.getRegionIoFds?.(4)[1]?.fd as number);
});
