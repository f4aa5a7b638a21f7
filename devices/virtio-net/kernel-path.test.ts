import { expect, onTestFinished, test } from 'vitest';
import { iova } from '../../sys/address.js';
import { drainEventfd, signalEventfd } from '../../sys/eventfd.js';
import type { Fd } from '../../sys/fd.js';
import { type GuestMisuseEvent, trace, type VfioEvent } from '../../sys/trace.js';
import { FakeVhostKernel } from '../net/testing/fake-vhost-kernel.js';
import { vhostOver } from '../net/vhost.js';
import { COMMON, FEATURE, type GuestMap, maps, STATUS } from './testing/guest.js';
import { taken, Workbench } from './testing/workbench.js';

const RX = 0x20_0000;
const TX = 0x18_0000;
const MSIX = 2;
const INTX = 0;
const TRIGGER_EVENTFD = (1 << 2) | (1 << 5);
const TRIGGER_NONE = (1 << 0) | (1 << 5);
const OFF_LIMITS = { iova: 0x5000_0000, bytes: 0x1_0000, at: 0x3a_0000 };

/** Without EVENT_IDX, each chain interrupts. */
const EACH = FEATURE.version1 | FEATURE.indirect;

const frameOf = (length: number, seed = 0): Uint8Array =>
  Uint8Array.from({ length }, (_, i) => (seed + 7 * i) & 0xff);

const withHeader = (frame: Uint8Array): Uint8Array => Uint8Array.from([...new Uint8Array(12), ...frame]);

/** What devices tell, and what guests do wrong, until the test's end. */
function hear(): { readonly told: string[]; readonly misuses: string[] } {
  const heard = { told: [] as string[], misuses: [] as string[] };
  const tell = ({ what, text }: VfioEvent) => {
    if (what === 'packet path' || what === 'remote memory' || what === 'link down')
      heard.told.push(text ?? '');
  };
  const note = ({ text }: GuestMisuseEvent) => heard.misuses.push(text);
  trace.vfio.subscribe(tell);
  trace.guestMisuse.subscribe(note);
  onTestFinished(() => {
    trace.vfio.unsubscribe(tell);
    trace.guestMisuse.unsubscribe(note);
  });
  return heard;
}

/** A device over vhost-net, in a fake kernel that a test may change before. */
function open(options: Record<string, string> = {}, prepare: (kernel: FakeVhostKernel) => void = () => {}) {
  const kernel = new FakeVhostKernel();
  prepare(kernel);
  const bench = new Workbench({ net: 'vhost:tap0', ...options }, [vhostOver(kernel)]);
  /** The thread of the kernel and this one, until both are at rest. */
  const turn = () => {
    for (let idle = 0; idle < 3; ) {
      bench.thread.pump();
      idle = kernel.work() > 0 ? 0 : idle + 1;
    }
    bench.thread.pump();
  };
  const send = (frame: Uint8Array, address = TX) => {
    bench.driver.send(frame, address);
    bench.driver.ring(1);
    turn();
  };
  return {
    ...{ kernel, bench, turn, send },
    [Symbol.dispose]: () => bench[Symbol.dispose](),
  };
}

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

test('adjacent maps are one region if they meet in memory, too, and a map of one direction is none', () => {
  using device = open();
  const { bench, kernel } = device;
  const halves = [
    { ...maps.main, bytes: 0x10_0000 },
    { ...maps.main, iova: maps.main.iova + 0x10_0000, bytes: 0x10_0000, at: maps.main.at + 0x10_0000 },
  ];
  bench.memory.map([...halves, maps.next, maps.readOnly]);
  bench.driver.start();
  expect(kernel.regions.map(({ iova: at, bytes }) => [at, bytes])).toEqual([
    [maps.main.iova, maps.main.bytes],
    [maps.next.iova, maps.next.bytes],
  ]);
});

/** Unmaps as the core does: the device is told, and then the table changes. */
function unmap({ bench }: ReturnType<typeof open>, gone: GuestMap, rest: readonly GuestMap[]): void {
  bench.instance.ops.dmaUnmap?.(iova(BigInt(gone.iova)), BigInt(gone.bytes));
  bench.memory.map(rest);
}

test('an unmap takes memory from the kernel before it returns, and a map is found when a chain needs it', () => {
  const heard = hear();
  using device = open();
  const { bench, kernel, send, turn } = device;
  bench.driver.start();
  unmap(device, maps.next, [maps.main, maps.readOnly]);
  expect(kernel.regions.map(({ iova: at }) => at)).toEqual([maps.main.iova]);
  expect(kernel.running).toEqual([0, 1]);
  send(frameOf(60));
  bench.memory.mapAll();
  const far = maps.next.iova + 0x1000;
  bench.driver.send(frameOf(61), far);
  bench.driver.ring(1);
  turn();
  expect(kernel.regions).toHaveLength(2);
  expect(kernel.sent.at(-1)).toEqual(withHeader(frameOf(61)));
  expect(kernel.moved.sent).toBe(0);
  expect(heard.told).toHaveLength(1);
});

test('queues whose rings are unmapped stop at once, and go on once they are mapped', () => {
  const heard = hear();
  using device = open();
  const { bench, kernel, send, turn } = device;
  bench.driver.start();
  send(frameOf(60));
  unmap(device, maps.main, [maps.next]);
  expect(kernel.running).toEqual([]);
  bench.memory.mapAll();
  bench.thread.pump();
  expect(kernel.running).toEqual([]);
  send(frameOf(61), TX + 0x2000);
  turn();
  expect(kernel.running).toEqual([0, 1]);
  expect(kernel.sent.map((frame) => frame.length - 12)).toEqual([60, 61]);
  // A frame wakes them, too.
  unmap(device, maps.main, [maps.next]);
  bench.memory.mapAll();
  bench.driver.provide(RX);
  kernel.deliver(frameOf(62));
  turn();
  expect(bench.driver.rx.reap()).toHaveLength(1);
  expect(kernel.moved).toEqual({ sent: 0, received: 0 });
  expect(heard.told).toHaveLength(1);
});

test('rings that stay away need a reset, after which the kernel serves again', () => {
  const heard = hear();
  using device = open();
  const { bench, kernel, send } = device;
  bench.driver.start();
  unmap(device, maps.main, [maps.next]);
  bench.driver.ring(1);
  device.turn();
  expect(bench.driver.status & STATUS.needsReset).toBe(STATUS.needsReset);
  expect(heard.misuses.at(-1)).toMatch(/a ring is not in memory/);
  expect(heard.told.at(-1)).toBe(
    'virtio-net: until it is reset, this process moves its packets in place of vhost-net: ' +
      'a ring is in memory that it cannot access',
  );
  bench.memory.mapAll();
  bench.driver.start();
  send(frameOf(60));
  expect(kernel.running).toEqual([0, 1]);
  expect(kernel.moved.sent).toBe(0);
});

const remote: GuestMap = { ...OFF_LIMITS, isWritable: true, isRemote: true };

test('memory that is not shared has this process take over at the chain that needs it, and both queues go on', () => {
  const heard = hear();
  using device = open();
  const { bench, kernel, send, turn } = device;
  bench.memory.map([maps.main, maps.next, remote]);
  bench.driver.start();
  expect(kernel.regions).toHaveLength(2);
  send(frameOf(60));
  bench.driver.tx.add([{ address: remote.iova, length: 72 }]);
  bench.driver.send(frameOf(61), TX + 0x2000);
  bench.driver.ring(1);
  for (let i = 0; i < 5; i++) turn();
  expect(kernel.running).toEqual([]);
  expect(kernel.sent.map((frame) => frame.length - 12)).toEqual([60, 60, 61]);
  expect(bench.driver.tx.reap()).toHaveLength(3);
  bench.driver.provide(RX);
  bench.driver.ring(0);
  kernel.deliver(frameOf(62));
  for (let i = 0; i < 5; i++) turn();
  expect(bench.driver.rx.reap()).toHaveLength(1);
  expect(bench.driver.status & STATUS.needsReset).toBe(0);
  expect(heard.told.slice(1)).toEqual([
    expect.stringMatching(/it has met memory that it cannot access, or a chain that it does not take$/),
    expect.stringMatching(/served by message$/),
  ]);
});

test.each([
  [
    'a buffer nowhere',
    [{ address: 0x7000_0000, length: 72 }],
    /queue 1: a buffer at 0x70000000 that is not in memory/,
  ],
  [
    'a buffer for the device to write',
    [{ address: TX, length: 72, isDeviceWritable: true }],
    /queue 1: a descriptor of the wrong direction/,
  ],
])('a chain that violates the specification is named, and needs a reset: %s', (_what, chain, says) => {
  const heard = hear();
  using device = open();
  const { bench, kernel, send } = device;
  bench.driver.start();
  send(frameOf(60));
  bench.driver.tx.add(chain);
  bench.driver.ring(1);
  device.turn();
  expect(heard.misuses.at(-1)).toMatch(says);
  expect(bench.driver.status & STATUS.needsReset).toBe(STATUS.needsReset);
  expect(bench.driver.tx.reap()).toHaveLength(1);
  expect(kernel.running).toEqual([]);
  bench.driver.start();
  send(frameOf(61));
  expect(kernel.running).toEqual([0, 1]);
});

test('a guest that provokes errors without end has one take-over a reset', () => {
  const heard = hear();
  using device = open();
  const { bench } = device;
  for (let round = 0; round < 3; round++) {
    bench.driver.start();
    bench.driver.tx.add([{ address: 0x7000_0000, length: 72 }]);
    for (let i = 0; i < 10; i++) {
      bench.driver.ring(1);
      device.turn();
    }
  }
  expect(heard.told).toHaveLength(1 + 3);
});

test('a stray error without a cause in the maps hands over once, at the chain that is next', () => {
  using device = open();
  const { bench, kernel, send } = device;
  bench.driver.start();
  send(frameOf(60));
  signalEventfd(kernel.rings[0]?.err as number);
  device.turn();
  send(frameOf(61), TX + 0x2000);
  expect(kernel.sent.map((frame) => frame.length - 12)).toEqual([60, 61]);
  expect(kernel.moved.sent).toBe(1);
  expect(bench.driver.status & STATUS.needsReset).toBe(0);
});

test('frames that wait when a driver starts are dropped, and those that wait at a take-over are not', () => {
  using device = open();
  const { bench, kernel, turn } = device;
  kernel.deliver(frameOf(60));
  bench.driver.start();
  expect(kernel.toGuest).toEqual([]);
  signalEventfd(kernel.rings[1]?.err as number);
  kernel.deliver(frameOf(61));
  bench.driver.provide(RX);
  bench.thread.pump();
  turn();
  const [used] = bench.driver.rx.reap();
  expect(bench.driver.frame(RX, used!)).toEqual(frameOf(61));
  expect(kernel.running).toEqual([]);
});

test('the end of its interface takes the link down', async () => {
  const heard = hear();
  using device = open();
  const { bench, kernel, turn } = device;
  bench.driver.start();
  expect(bench.driver.deviceConfig(6, 2)).toBe(1);
  kernel.isTapGone = true;
  bench.driver.provide(RX);
  while (kernel.running.length > 0) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    turn();
  }
  expect(bench.driver.deviceConfig(6, 2)).toBe(0);
  expect(heard.told.at(-1)).toMatch(/its link is down/);
});

test('more pieces of memory than the module takes are this process’s, with a sentence', () => {
  const heard = hear();
  using device = open({}, (kernel) => {
    kernel.mostRegions = '1\n';
  });
  const { bench, kernel, send } = device;
  bench.driver.start();
  send(frameOf(60));
  expect(kernel.running).toEqual([]);
  expect(kernel.moved.sent).toBe(1);
  expect(heard.told.at(-1)).toMatch(
    /its memory is in 2 pieces, and it takes 1 \(max_mem_regions of the module vhost\)$/,
  );
  // Fewer at the next start.
  bench.memory.map([maps.main]);
  bench.driver.start();
  expect(kernel.running).toEqual([0, 1]);
});

test.each([
  'SET_FEATURES',
  'SET_MEM_TABLE',
  'SET_VRING_NUM',
  'SET_VRING_BASE',
  'SET_VRING_ADDR',
  'SET_VRING_ERR',
  'SET_VRING_CALL',
  'SET_VRING_KICK',
  'NET_SET_BACKEND',
])('a kernel that refuses %s is closed, and this process moves the packets', (call) => {
  const heard = hear();
  using device = open({}, (kernel) => void kernel.refused.set(call, 'ENOMEM'));
  const { bench, kernel, send } = device;
  bench.driver.start();
  send(frameOf(60));
  bench.driver.status = 0;
  bench.driver.start();
  send(frameOf(61));
  expect(kernel.files).toEqual(['tap']);
  expect(kernel.moved.sent).toBe(2);
  expect(heard.told).toHaveLength(2);
  expect(heard.told.at(-1)).toMatch(/in place of vhost-net: VHOST_.*: ENOMEM$/);
});

test.each(['NET_SET_BACKEND', 'GET_VRING_BASE', 'SET_MEM_TABLE', 'SET_VRING_KICK'])(
  'an unmap takes memory from a kernel that refuses %s by closing it, and no chain is lost or sent twice',
  (call) => {
    using device = open();
    const { bench, kernel, send } = device;
    bench.driver.start();
    send(frameOf(60));
    kernel.refused.set(call, 'ENOMEM');
    unmap(device, maps.main, [maps.next]);
    expect(kernel.files).toEqual(['tap']);
    expect(kernel.regions).toEqual([]);
    bench.memory.mapAll();
    bench.driver.status = 0;
    bench.driver.start();
    send(frameOf(61));
    expect(kernel.sent.map((frame) => frame.length - 12)).toEqual([60, 61]);
  },
);

test('a reset of a kernel that refuses to stop closes it, and touches no memory any more', () => {
  using device = open();
  const { bench, kernel } = device;
  bench.driver.start();
  kernel.refused.set('NET_SET_BACKEND', 'EFAULT');
  bench.driver.status = 0;
  expect(kernel.files).toEqual(['tap']);
  bench.driver.start();
  device.send(frameOf(60));
  expect(kernel.moved.sent).toBe(1);
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
