import fc from 'fast-check';
import { expect, test } from 'vitest';
import { COMMON, FEATURE, GuestQueue, maps, STATUS } from './testing/guest.js';
import { Workbench } from './testing/workbench.js';

test('the device offers what the driver of these tests knows, if it has several pairs and all offloads, and nothing else', () => {
  using bench = new Workbench({ net: `fake:${0x67}`, queues: '2' });
  const { driver } = bench;
  const all = Object.values(FEATURE).reduce((bits, bit) => bits | bit, 0n);
  expect(driver.offered).toBe(all);
  driver.commonWrite(COMMON.deviceFeatureSelect, 4, 2);
  expect(driver.common(COMMON.deviceFeature, 4)).toBe(0);
});

test('FEATURES_OK stays unset for a bit that was not offered, and for a driver without VERSION_1', () => {
  using bench = new Workbench();
  const { driver } = bench;
  for (const features of [driver.offered | (1n << 40n), driver.offered & ~FEATURE.version1, 0n]) {
    expect(() => driver.negotiate(features)).toThrowError('features refused');
    expect(driver.accepted).toBe(features & driver.offered);
  }
  driver.negotiate(FEATURE.version1);
  expect(driver.status).toBe(STATUS.acknowledge | STATUS.driver | STATUS.featuresOk);
});

test('features cannot change after FEATURES_OK', () => {
  using bench = new Workbench();
  const { driver } = bench;
  driver.negotiate(FEATURE.version1);
  driver.accept(driver.offered);
  expect(driver.accepted).toBe(FEATURE.version1);
});

test('DRIVER_OK before FEATURES_OK is not taken', () => {
  using bench = new Workbench();
  const { driver } = bench;
  driver.status = STATUS.acknowledge | STATUS.driver | STATUS.driverOk;
  expect(driver.status).toBe(STATUS.acknowledge | STATUS.driver);
});

test('status bits are only cleared by a reset, and NEEDS_RESET is not the driver’s to set', () => {
  using bench = new Workbench();
  const { driver } = bench;
  driver.status = STATUS.acknowledge | STATUS.driver | STATUS.needsReset | STATUS.failed;
  driver.status = STATUS.acknowledge;
  expect(driver.status).toBe(STATUS.acknowledge | STATUS.driver | STATUS.failed);
  driver.status = 0;
  expect(driver.status).toBe(0);
});

test('a queue that does not exist reads 0 in all its fields and takes nothing', () => {
  using bench = new Workbench();
  const { driver } = bench;
  expect(driver.common(COMMON.numQueues, 2)).toBe(2);
  for (const select of [2, 0xffff]) {
    driver.commonWrite(COMMON.queueSelect, 2, select);
    for (let at: number = COMMON.queueSize; at < 0x38; at += 2) driver.commonWrite(at, 2, 1);
    for (let at: number = COMMON.queueDesc; at < 0x38; at += 4) driver.commonWrite(at, 4, 16);
    for (let at: number = COMMON.queueSize; at < 0x38; at += 2) expect(driver.common(at, 2)).toBe(0);
  }
});

test('queue_size takes a power of two up to 256, and any other value leaves it', () => {
  using bench = new Workbench();
  const { driver } = bench;
  driver.commonWrite(COMMON.queueSelect, 2, 1);
  expect(driver.common(COMMON.queueSize, 2)).toBe(256);
  for (const [wanted, got] of [
    [64, 64],
    [0, 64],
    [65, 64],
    [512, 64],
    [32768, 64],
    [1, 1],
  ] as const) {
    driver.commonWrite(COMMON.queueSize, 2, wanted);
    expect(driver.common(COMMON.queueSize, 2)).toBe(got);
  }
});

test('an enabled queue cannot be set up again until a reset', () => {
  using bench = new Workbench();
  const { driver, memory } = bench;
  driver.negotiate();
  driver.setUpQueue(0, new GuestQueue(memory, 16, maps.main.iova), 1);
  expect(driver.common(COMMON.queueEnable, 2)).toBe(1);
  driver.setUpQueue(0, new GuestQueue(memory, 32, maps.main.iova + 0x4000), 2);
  driver.commonWrite(COMMON.queueEnable, 2, 0);
  expect(driver.common(COMMON.queueEnable, 2)).toBe(1);
  expect(driver.common(COMMON.queueSize, 2)).toBe(16);
  expect(driver.common(COMMON.queueDesc, 4)).toBe(maps.main.iova);
  expect(driver.common(COMMON.queueVector, 2), 'a vector may move at any time').toBe(2);
  driver.status = 0;
  driver.commonWrite(COMMON.queueSelect, 2, 0);
  expect(driver.common(COMMON.queueEnable, 2)).toBe(0);
  expect(driver.common(COMMON.queueSize, 2)).toBe(256);
  expect(driver.common(COMMON.queueVector, 2)).toBe(0xffff);
});

test('a queue with a misaligned ring is not enabled', () => {
  using bench = new Workbench();
  const { driver, memory } = bench;
  driver.negotiate();
  for (const [at, value] of [
    [COMMON.queueDesc, 8],
    [COMMON.queueDriver, 1],
    [COMMON.queueDevice, 2],
  ] as const) {
    driver.setUpQueue(0, new GuestQueue(memory, 16, maps.main.iova));
    driver.status = 0;
    driver.negotiate();
    driver.commonWrite(at, 4, maps.main.iova + value);
    driver.commonWrite(COMMON.queueEnable, 2, 1);
    expect(driver.common(COMMON.queueEnable, 2)).toBe(0);
  }
});

test('a vector that is not in the table reads back as no vector', () => {
  using bench = new Workbench();
  const { driver } = bench;
  for (const [wanted, got] of [
    [0, 0],
    [2, 2],
    [3, 0xffff],
    [1, 1],
    [0xffff, 0xffff],
    [0x8000, 0xffff],
  ] as const) {
    driver.commonWrite(COMMON.configVector, 2, wanted);
    expect(driver.common(COMMON.configVector, 2)).toBe(got);
    driver.commonWrite(COMMON.queueVector, 2, wanted);
    expect(driver.common(COMMON.queueVector, 2)).toBe(got);
  }
});

test('device configuration holds MAC, link, one queue pair and MTU at any width', () => {
  using bench = new Workbench({ mac: '52:54:00:ab:cd:ef', mtu: '9000' });
  const { driver } = bench;
  expect(driver.deviceConfig(0, 4)).toBe(0xab005452);
  expect(driver.deviceConfig(4, 2)).toBe(0xefcd);
  expect(driver.deviceConfig(5, 1)).toBe(0xef);
  expect(driver.deviceConfig(6, 2)).toBe(1);
  expect(driver.deviceConfig(8, 2)).toBe(1);
  expect(driver.deviceConfig(10, 2)).toBe(9000);
  expect(driver.deviceConfig(12, 4)).toBe(0xffffffff);
});

test('no sequence of register accesses throws, or shows a status the rules forbid', () => {
  using bench = new Workbench();
  const { ops } = bench.instance;
  const access = fc.record({
    isWrite: fc.boolean(),
    offset: fc.oneof(fc.nat(0x3f), fc.nat(0x3fff)),
    data: fc.uint8Array({ minLength: 1, maxLength: 16 }),
  });
  fc.assert(
    fc.property(fc.array(access, { maxLength: 60 }), (accesses) => {
      for (const { isWrite, offset, data } of accesses) {
        if (isWrite) ops.write(4, offset, data);
        else ops.read(4, offset, data);
        const { status } = bench.driver;
        if (status & STATUS.driverOk) expect(status & STATUS.featuresOk).not.toBe(0);
      }
    }),
    { numRuns: 200 },
  );
});
