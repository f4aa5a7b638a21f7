/** Packets that this process moves because the kernel cannot, or refuses to. */
import { expect, test } from 'vitest';
import { signalEventfd } from '../../sys/eventfd.js';
import { type GuestMap, maps, STATUS } from './testing/guest.js';
import { frameOf, hear, open, TX, unmap } from './testing/kernel-card.js';

const RX = 0x20_0000;
const OFF_LIMITS = { iova: 0x5000_0000, bytes: 0x1_0000, at: 0x3a_0000 };

test('rings that stay away need a reset, after which the kernel serves again', () => {
  const heard = hear();
  using device = open();
  const { bench, kernel, send } = device;
  bench.driver.start();
  unmap(bench, maps.main, [maps.next]);
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
    unmap(bench, maps.main, [maps.next]);
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
