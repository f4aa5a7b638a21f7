import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { hasLspci, lspci } from '../pci/testing/lspci.js';
import { COMMON, STATUS } from './testing/guest.js';
import { Workbench } from './testing/workbench.js';

test.skipIf(!hasLspci)(
  `lspci decodes the function as the golden file says${hasLspci ? '' : ' (skipped: needs pciutils)'}`,
  () => {
    using bench = new Workbench();
    const { driver } = bench;
    driver.configWrite(0x14, 4, 0xfebd1000);
    driver.configWrite(0x20, 4, 0xfe000000);
    driver.setBusMaster(true);
    bench.wire(2, 3);
    const space = new Uint8Array(256);
    bench.instance.ops.read(7, 0, space);
    // Not every lspci has a name for the capability of type 5.
    const text = lspci(space).replace(
      /(Capabilities: \[90\].*VirtIO: ).*/,
      '$1access by configuration space',
    );
    expect(text).toBe(readFileSync(new URL('./testing/lspci.golden', import.meta.url), 'utf8'));
  },
);

test('BARs answer the sizing protocol with 4 KiB, 32 bits, and 16 KiB, 64 bits prefetchable', () => {
  using bench = new Workbench();
  const { driver } = bench;
  const masks = [0x10, 0x14, 0x18, 0x1c, 0x20, 0x24, 0x30].map((at) => {
    driver.configWrite(at, 4, 0xffffffff);
    return driver.config(at, 4);
  });
  expect(masks).toEqual([0, 0xfffff000, 0, 0, 0xffffc00c, 0xffffffff, 0]);
});

test('of the header a driver changes only command, cache line size, BARs and interrupt line', () => {
  using bench = new Workbench();
  const { ops } = bench.instance;
  const before = new Uint8Array(64);
  ops.read(7, 0, before);
  const after = new Uint8Array(64);
  ops.write(7, 0, after.slice().fill(0xff));
  ops.read(7, 0, after);
  const changed = [...after.keys()].filter((i) => before[i] !== after[i]);
  expect(changed).toEqual([
    0x04, 0x05, 0x0c, 0x15, 0x16, 0x17, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x3c,
  ]);
});

test('after the open memory decoding is on and bus mastering off, as vfio-pci leaves a device', () => {
  using bench = new Workbench();
  expect(bench.driver.config(4, 2)).toBe(2);
});

test('the registers can be reached through configuration space alone', () => {
  using bench = new Workbench();
  const { driver } = bench;
  let at = driver.config(0x34, 1);
  while (driver.config(at, 1) !== 9 || driver.config(at + 3, 1) !== 5) at = driver.config(at + 1, 1);
  const aim = (bar: number, offset: number, length: number) => {
    driver.configWrite(at + 4, 1, bar);
    driver.configWrite(at + 8, 4, offset);
    driver.configWrite(at + 12, 4, length);
  };
  aim(4, COMMON.status, 1);
  driver.configWrite(at + 16, 1, STATUS.acknowledge);
  expect(driver.status).toBe(STATUS.acknowledge);
  expect(driver.config(at + 16, 1)).toBe(STATUS.acknowledge);
  aim(4, COMMON.numQueues, 2);
  expect(driver.config(at + 16, 2)).toBe(2);
  for (const [bar, offset, length] of [
    [1, 0, 4],
    [4, 0x4000, 4],
    [4, 2, 4],
    [4, COMMON.status, 3],
  ] as const) {
    aim(bar, offset, length);
    driver.configWrite(at + 16, 4, 0);
    expect(driver.config(at + 16, 4)).toBe(0);
  }
  expect(driver.status).toBe(STATUS.acknowledge);
});

test('while memory decoding is off, BARs read all-ones and take nothing', () => {
  using bench = new Workbench();
  const { driver } = bench;
  driver.status = STATUS.acknowledge;
  driver.configWrite(4, 2, 0);
  expect(driver.common(COMMON.status, 1)).toBe(0xff);
  driver.status = STATUS.acknowledge | STATUS.driver;
  driver.configWrite(4, 2, 2);
  expect(driver.status).toBe(STATUS.acknowledge);
});

test('the MSI-X table reads all-ones and its pending bits 0', () => {
  using bench = new Workbench();
  const page = new Uint8Array(0x1000);
  bench.instance.ops.write(1, 0, page.slice().fill(0x55));
  bench.instance.ops.read(1, 0, page);
  expect(page.subarray(0, 48).every((byte) => byte === 0xff)).toBe(true);
  expect(page.subarray(48).every((byte) => byte === 0)).toBe(true);
});
