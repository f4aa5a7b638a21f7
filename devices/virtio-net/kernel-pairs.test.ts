/** Several queue pairs whose packets the kernel moves: each has a file of vhost-net and a queue of the tap. */
import { expect, test } from 'vitest';
import { iova } from '../../sys/address.js';
import type { Fd } from '../../sys/fd.js';
import { FakeVhostKernel } from '../net/testing/fake-vhost-kernel.js';
import { maps, STATUS } from './testing/guest.js';
import { frameOf, hear, settle, vhostOf } from './testing/kernel-card.js';
import { PairedDriver } from './testing/paired-driver.js';
import { taken, Workbench } from './testing/workbench.js';

const OK = 0;
const RX = 0x18_0000;
const MSIX = 2;

/** A device of two pairs, each with a kernel of its own. */
function open(prepare: (kernels: readonly FakeVhostKernel[]) => void = () => {}) {
  const kernels = [new FakeVhostKernel(), new FakeVhostKernel()] as const;
  prepare(kernels);
  const bench = new Workbench({ net: 'vhost:tap0', queues: '2' }, [vhostOf(kernels)]);
  const guest = new PairedDriver(bench.driver);
  const turn = () => settle(bench, kernels);
  const setPairs = (pairs: number) => {
    const read = guest.setPairs(pairs);
    turn();
    return read();
  };
  return { kernels, bench, guest, turn, setPairs, [Symbol.dispose]: () => bench[Symbol.dispose]() };
}

test('each pair runs in a file of its own, as queues 0 and 1, while the driver uses it', () => {
  const { told } = hear();
  using device = open();
  const { kernels, bench, guest, turn, setPairs } = device;
  const vectors = bench.wire(MSIX, 6) as Fd[];
  guest.start();
  expect(kernels.map(({ running, isAttached }) => [running, isAttached])).toEqual([
    [[0, 1], true],
    [[], false],
  ]);
  expect(setPairs(2)).toBe(OK);
  expect(kernels.map(({ running, isAttached }) => [running, isAttached])).toEqual([
    [[0, 1], true],
    [[0, 1], true],
  ]);
  vectors.forEach(taken);
  guest.send(1, frameOf(60));
  guest.provide(1, RX);
  kernels[1].deliver(frameOf(80));
  turn();
  expect(kernels.map(({ sent }) => sent.length)).toEqual([0, 1]);
  expect(guest.rx[1]?.reap()).toHaveLength(1);
  expect(vectors.flatMap((fd, i) => (taken(fd) > 0 ? [i] : []))).toEqual([3, 4]);
  expect(bench.instance.counters()).toMatchObject({ txPackets: 0, rxPackets: 0, vhostQueues: 4 });
  expect(setPairs(1)).toBe(OK);
  expect(kernels.map(({ running, isAttached }) => [running, isAttached])).toEqual([
    [[0, 1], true],
    [[], false],
  ]);
  expect(told).toEqual(['virtio-net, net=vhost:tap0: the kernel moves its packets (vhost-net)']);
});

test('a pair that is used again goes on where it was, and a reset ends it and the first', () => {
  using device = open();
  const { kernels, guest, turn, setPairs, bench } = device;
  guest.start();
  setPairs(2);
  guest.send(1, frameOf(60));
  turn();
  setPairs(1);
  guest.send(1, frameOf(61));
  turn();
  expect(kernels[1].sent).toHaveLength(1);
  setPairs(2);
  turn();
  expect(kernels[1].sent.map(({ length }) => length - 12)).toEqual([60, 61]);
  bench.driver.status = 0;
  expect(kernels.map(({ running, regions, isAttached }) => [running, regions, isAttached])).toEqual([
    [[], [], true],
    [[], [], false],
  ]);
});

test('an unmap takes memory from both files, and what one cannot serve passes to this process for that pair only', () => {
  const { told } = hear();
  using device = open();
  const { kernels, guest, turn, setPairs, bench } = device;
  guest.start();
  setPairs(2);
  bench.instance.ops.dmaUnmap?.(iova(BigInt(maps.next.iova)), BigInt(maps.next.bytes));
  expect(kernels.map(({ regions }) => regions.map((region) => region.iova))).toEqual([
    [maps.main.iova],
    [maps.main.iova],
  ]);
  guest.tx[1]?.add([{ address: 0x7000_0000, length: 80 }]);
  bench.driver.ring(3);
  turn();
  expect(told.at(-1)).toMatch(/this process moves the packets of queue pair 1 in place of vhost-net/);
  expect(bench.driver.status & STATUS.needsReset).toBe(STATUS.needsReset);
  expect(kernels.map(({ running }) => running)).toEqual([[0, 1], []]);
});

test('a pair that vhost-net refuses is served by this process, and says so', () => {
  const { told } = hear();
  using device = open((kernels) => {
    (kernels[1] as FakeVhostKernel).openError = 'EACCES';
  });
  const { kernels, guest, turn, setPairs, bench } = device;
  expect(told[0]).toMatch(/this process moves its packets, as vhost-net cannot: open on .*: EACCES/);
  guest.start();
  expect(setPairs(2)).toBe(OK);
  for (const pair of [0, 1]) guest.send(pair, frameOf(60));
  turn();
  expect(kernels.map(({ sent, moved }) => [sent.length, moved.sent])).toEqual([
    [1, 0],
    [1, 1],
  ]);
  expect(bench.instance.counters()).toMatchObject({ txPackets: 1, vhostQueues: 2 });
});

test('all files are closed with the device, while both pairs run', () => {
  const device = open();
  device.guest.start();
  device.setPairs(2);
  expect(device.kernels.map(({ files }) => files)).toEqual(Array(2).fill(['tap', 'vhost-net']));
  device[Symbol.dispose]();
  expect(device.kernels.map(({ files }) => files)).toEqual([[], []]);
});
