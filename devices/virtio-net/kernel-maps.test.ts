/** Memory that comes and goes while the kernel moves the packets. */
import { expect, test } from 'vitest';
import { maps } from './testing/guest.js';
import { frameOf, hear, open, TX, unmap, withHeader } from './testing/kernel-card.js';

const RX = 0x20_0000;

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

test('an unmap takes memory from the kernel before it returns, and a map is found when a chain needs it', () => {
  const heard = hear();
  using device = open();
  const { bench, kernel, send, turn } = device;
  bench.driver.start();
  unmap(bench, maps.next, [maps.main, maps.readOnly]);
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
  unmap(bench, maps.main, [maps.next]);
  expect(kernel.running).toEqual([]);
  bench.memory.mapAll();
  bench.thread.pump();
  expect(kernel.running).toEqual([]);
  send(frameOf(61), TX + 0x2000);
  turn();
  expect(kernel.running).toEqual([0, 1]);
  expect(kernel.sent.map((frame) => frame.length - 12)).toEqual([60, 61]);
  // A frame wakes them, too.
  unmap(bench, maps.main, [maps.next]);
  bench.memory.mapAll();
  bench.driver.provide(RX);
  kernel.deliver(frameOf(62));
  turn();
  expect(bench.driver.rx.reap()).toHaveLength(1);
  expect(kernel.moved).toEqual({ sent: 0, received: 0 });
  expect(heard.told).toHaveLength(1);
});
