import { expect, test } from 'vitest';
import type { EventTask } from '../../sys/event-task.js';
import type { Fd } from '../../sys/fd.js';
import { setDeviceState } from '../../vfio/core/migration.js';
import type { MdevType } from '../../vfio/driver.js';
import {
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_RUNNING_P2P,
  VFIO_DEVICE_STATE_STOP,
  VFIO_DEVICE_STATE_STOP_COPY,
} from '../../vfio/feature.js';
import { GuestMemory, maps } from '../virtio-net/testing/guest.js';
import { taken } from '../virtio-net/testing/workbench.js';
import { createTestCardDriver } from './driver.js';
import {
  DMA_BUSY,
  DMA_DONE,
  DMA_FILL,
  RAM_BAR,
  REG_DMA_DELAY,
  REG_DMA_STATUS,
  REG_DMA_VECTOR,
  REG_RAISE,
  REG_SCRATCH,
  REGISTER_BAR,
  SMALL_BAR,
} from './spec.js';
import { CardBench } from './testing/card-bench.js';

const SMALL = { ram: '4K' };

function save({ ops }: CardBench): Uint8Array {
  using out = setDeviceState(ops, VFIO_DEVICE_STATE_STOP_COPY);
  const data = new Uint8Array(1 << 20);
  let length = 0;
  for (let got = -1; got !== 0; length += got) got = out?.read(data.subarray(length)) ?? 0;
  return data.subarray(0, length);
}

function resume({ ops }: CardBench, data: Uint8Array): string {
  {
    using into = setDeviceState(ops, VFIO_DEVICE_STATE_RESUMING);
    into?.write(data);
  }
  try {
    setDeviceState(ops, VFIO_DEVICE_STATE_RUNNING);
    return 'ok';
  } catch (error) {
    return (error as { code?: string }).code ?? String(error);
  }
}

test('a card that was moved has its registers, its memory and its pending messages', () => {
  using from = new CardBench(SMALL);
  using to = new CardBench(SMALL);
  from.enable(4);
  const fds = to.enable(4);
  from.out(REG_SCRATCH, 0x1234_5678);
  for (const [bar, at] of [
    [RAM_BAR, 0xffc],
    [SMALL_BAR, 0xfc],
    [REGISTER_BAR, 0xfffc],
  ] as const)
    from.write(bar, at, 4, bar + 100);
  from.setConfig(4, 2, 2); // no bus mastering: messages wait
  from.out(REG_RAISE, 3);
  const data = save(from);
  expect(data).toHaveLength(Number(from.ops.migration?.getDataSize()));
  expect(resume(to, data)).toBe('ok');
  expect(to.in(REG_SCRATCH)).toBe(0x1234_5678);
  expect([to.read(RAM_BAR, 0xffc, 4), to.read(SMALL_BAR, 0xfc, 4), to.read(REGISTER_BAR, 0xfffc, 4)]).toEqual(
    [102, 104, 100],
  );
  expect(fds.map(taken)).toEqual([0, 0, 0, 1]);
});

test('a transfer that has not taken place when the card is stopped takes place where the card goes on', () => {
  using from = new CardBench(SMALL);
  using to = new CardBench(SMALL);
  const [fd] = to.enable(1) as [Fd];
  from.out(REG_DMA_DELAY, 60_000);
  from.out(REG_DMA_VECTOR, 0);
  from.begin(DMA_FILL, { target: maps.main.iova, length: 8, value: 7 });
  const data = save(from);
  expect(resume(to, data)).toBe('ok');
  to.thread.pump();
  expect(to.in(REG_DMA_STATUS)).toBe(DMA_DONE);
  expect(taken(fd)).toBe(1);
  const at = to.memory.at(maps.main.iova);
  expect([...to.memory.bytes.subarray(at, at + 8)]).toEqual(new Array(8).fill(7));
  from.thread.pump();
  expect(from.memory.bytes[at]).toBe(0);
});

test('a stopped card neither interrupts nor moves anything, and does both when it goes on', () => {
  using bench = new CardBench(SMALL);
  const [fd] = bench.enable(1) as [Fd];
  setDeviceState(bench.ops, VFIO_DEVICE_STATE_STOP);
  bench.out(REG_RAISE, 0);
  bench.begin(DMA_FILL, { target: maps.main.iova, length: 8, value: 7 });
  bench.thread.pump();
  expect([taken(fd), bench.in(REG_DMA_STATUS)]).toEqual([0, DMA_BUSY]);
  setDeviceState(bench.ops, VFIO_DEVICE_STATE_RUNNING);
  bench.thread.pump();
  expect([taken(fd), bench.in(REG_DMA_STATUS)]).toEqual([1, DMA_DONE]);
});

test('what no card with these options has saved is EINVAL, and a reset makes the card work again', () => {
  using other = new CardBench({ ram: '8K' });
  using bench = new CardBench(SMALL);
  const state = save(bench);
  bench.ops.reset?.();
  const wrong = Uint8Array.from(state);
  wrong[0] = 0;
  const status = Uint8Array.from(state);
  status[8 + 0x50 + 8] = 9; // of the transfer
  for (const data of [new Uint8Array(0), state.subarray(1), wrong, status]) {
    expect(resume(bench, data)).toBe('EINVAL');
    expect(bench.ops.migration?.getState()).toBe(VFIO_DEVICE_STATE_RESUMING);
    bench.ops.reset?.();
    expect(bench.ops.migration?.getState()).toBe(VFIO_DEVICE_STATE_RUNNING);
    expect(bench.transfer(DMA_FILL, { target: maps.main.iova, length: 8, value: 7 })).toBe(DMA_DONE);
  }
  expect(() => resume(bench, save(other))).toThrowError(/ENOMEM/);
});

test('in RUNNING_P2P, a card interrupts, and begins no transfer until it is RUNNING', () => {
  using bench = new CardBench({ ...SMALL, migration: 'p2p' });
  const [fd] = bench.enable(1) as [Fd];
  bench.out(REG_DMA_DELAY, 60_000);
  bench.begin(DMA_FILL, { target: maps.main.iova, length: 8, value: 7 });
  setDeviceState(bench.ops, VFIO_DEVICE_STATE_RUNNING_P2P);
  bench.out(REG_RAISE, 0);
  bench.thread.pump();
  expect([taken(fd), bench.in(REG_DMA_STATUS)]).toEqual([1, DMA_BUSY]);
  setDeviceState(bench.ops, VFIO_DEVICE_STATE_STOP);
  bench.out(REG_RAISE, 0);
  expect(taken(fd)).toBe(0);
  setDeviceState(bench.ops, VFIO_DEVICE_STATE_RUNNING_P2P);
  bench.thread.pump();
  expect([taken(fd), bench.in(REG_DMA_STATUS)]).toEqual([1, DMA_BUSY]);
  setDeviceState(bench.ops, VFIO_DEVICE_STATE_RUNNING);
  bench.thread.pump();
  expect(bench.in(REG_DMA_STATUS)).toBe(DMA_DONE);
  setDeviceState(bench.ops, VFIO_DEVICE_STATE_RUNNING_P2P);
  bench.begin(DMA_FILL, { target: maps.main.iova, length: 8, value: 7 });
  bench.thread.pump();
  expect(bench.in(REG_DMA_STATUS)).toBe(DMA_BUSY);
  bench.ops.reset?.();
  expect(bench.transfer(DMA_FILL, { target: maps.main.iova, length: 8, value: 7 })).toBe(DMA_DONE);
});

test('the stream of a card whose task has ended, so that it cannot be closed, reads nothing once the card is gone', () => {
  const thread = { run: () => task };
  const task: EventTask = {
    receive: undefined,
    post: () => {},
    call: () => {
      if (hasEnded) throw new Error('event thread: it has ended');
      return undefined;
    },
    [Symbol.dispose]: () => {},
  };
  let hasEnded = false;
  const driver = createTestCardDriver();
  const [type] = driver.types as readonly [MdevType];
  const card = driver.create(type, 'a card', { ram: '64M' }, { eventThread: thread });
  using memory = new GuestMemory();
  card.ops.openDevice(memory.open);
  const stream = setDeviceState(card.ops, VFIO_DEVICE_STATE_STOP_COPY);
  expect(stream?.read(new Uint8Array(1 << 20))).toBe(1 << 20);
  hasEnded = true;
  expect(() => card.ops.closeDevice()).toThrowError('it has ended');
  card[Symbol.dispose]();
  expect(() => stream?.read(new Uint8Array(1 << 20))).toThrowError(/ENODEV/);
});
