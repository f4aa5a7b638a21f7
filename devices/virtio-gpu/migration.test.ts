import { expect, test } from 'vitest';
import { randomOf } from '../../sys/testing/random.js';
import { resumeState, saveState } from '../mdev/testing/migrate.js';
import { taken } from '../virtio-net/testing/workbench.js';
import { COMMAND, CONTROLQ, GpuBench, PICTURES, pixels, RESPONSE } from './testing/workbench.js';

const OPTIONS = { heads: '2', memory: '2' };

/** A guest with pictures on both screens, a cursor, and more resources than it shows. */
function drawn(): GpuBench {
  const bench = new GpuBench(OPTIONS).start();
  bench.picture(1, 64, 48, 1);
  bench.transfer(1, 0, 0, 64, 48, 0);
  bench.picture(7, 100, 30, 2, PICTURES + 0x10000);
  bench.transfer(7, 0, 0, 100, 30, 0);
  bench.create(3, 64, 64, 1);
  bench.setScanout(0, 1, 0, 0, 64, 48);
  bench.setScanout(1, 7, 10, 5, 50, 20);
  bench.cursor(COMMAND.updateCursor, 1, 20, -1, 0, 3, 2, 1, 0);
  bench.ops.resize(1, { xres: 1280, yres: 800 });
  return bench;
}

/** The driver goes on behind another device. */
function follow(before: GpuBench): GpuBench {
  const after = new GpuBench(OPTIONS, before.memory);
  after.driver.setBusMaster(true);
  after.queues = before.queues;
  return after;
}

test('a driver goes on behind another card: pictures, screens, cursor, backings and what it is to be told', () => {
  using before = drawn();
  const shown = [0, 1].map((head) => before.shown(head));
  const cursor = before.ops.queryGfxPlane({ flags: 4, drmPlaneType: 2, head: 1 });
  const state = saveState(before.ops);
  using after = follow(before);
  const number = () => after.ops.queryGfxPlane({ flags: 4, drmPlaneType: 1 }).drawn;
  const empty = number();
  expect(resumeState(after.ops, state)).toBe('ok');
  expect(number()).not.toBe(empty);
  expect([0, 1].map((head) => after.shown(head))).toEqual(shown);
  expect(after.ops.queryGfxPlane({ flags: 4, drmPlaneType: 2, head: 1 })).toEqual(cursor);
  expect(after.driver.deviceConfig(0, 4)).toBe(1);
  const { data } = after.send(CONTROLQ, COMMAND.displayInfo);
  expect([0, 8, 12].map((at) => data.getUint32(24 + at, true))).toEqual([1024, 1280, 800]);
  after.draw(64, 48, 5);
  expect(after.transfer(1, 0, 0, 64, 48, 0)).toBe(RESPONSE.ok);
  expect(after.shown(0)).toEqual(pixels(64 * 48, 5));
  expect(after.create(3, 8, 8)).toBe(RESPONSE.resource);
  expect(after.transfer(3, 0, 0, 1, 1, 0)).toBe(RESPONSE.unspec);
});

test('a stopped card does nothing, and does it when it goes on', () => {
  using bench = drawn();
  saveState(bench.ops);
  bench.create(9, 8, 8);
  expect(bench.ops.resourceCount).toBe(3);
  expect(taken(bench.vectors[0]!)).toBe(1);
});

test('its estimate is what it saves, and the most is what the pool could have', () => {
  using bench = drawn();
  const { migration } = bench.ops;
  const estimate = Number(migration.getDataSize());
  expect(saveState(bench.ops)).toHaveLength(estimate);
  expect(migration.mostResumeBytes).toBeGreaterThan(2 << 20);
});

test.each([
  ['with another number of screens', { ...OPTIONS, heads: '3' }],
  ['with too little memory', { heads: '2', memory: '1' }],
])('a card %s refuses the state', (_, options) => {
  using before = new GpuBench(OPTIONS).start();
  before.create(1, 512, 520);
  const state = saveState(before.ops);
  using after = new GpuBench(options, before.memory);
  expect(resumeState(after.ops, state)).toBe('EINVAL');
});

const SEED = 20_261_127;
test(`of 500 states with wrong bytes (seed ${SEED}), each is refused or is one that a guest could have made`, () => {
  using before = drawn();
  const state = saveState(before.ops);
  const random = randomOf(SEED);
  let refused = 0;
  for (let i = 0; i < 500; i++) {
    const wrong = Uint8Array.from(state);
    // Most of a state is EDIDs and pixels, of which any is right.
    for (let left = Math.floor(random() * 100); left >= 0; left--)
      wrong[Math.floor(random() * wrong.length)] = Math.floor(random() * 256);
    using after = follow(before);
    if (resumeState(after.ops, wrong) !== 'ok') {
      refused++;
      continue;
    }
    for (const head of [0, 1]) {
      const plane = after.ops.queryGfxPlane({ flags: 4, drmPlaneType: 1, head });
      const end = plane.offset + Math.max(0, plane.height - 1) * plane.stride + 4 * plane.width;
      expect(end).toBeLessThanOrEqual(after.ops.getRegionInfo(plane.regionIndex).size);
    }
  }
  expect(refused).toBeGreaterThan(10);
  expect(refused).toBeLessThan(490);
});
