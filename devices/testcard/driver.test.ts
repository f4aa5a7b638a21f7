import { readdirSync } from 'node:fs';
import { expect, test } from 'vitest';
import { Scope } from '../../sys/scope.js';
import type { VfioDeviceOps } from '../../vfio/driver.js';
import { VFIO_PCI_CONFIG_REGION_INDEX } from '../../vfio/uapi.js';
import { createTestCardDriver } from './driver.js';
import { CardBench } from './testing/card-bench.js';

const driver = createTestCardDriver();
const [type] = driver.types;
/** PCI_DEVICE_ID of an open or closed card. */
function idOf(ops: VfioDeviceOps): number {
  const data = new Uint8Array(2);
  ops.read(VFIO_PCI_CONFIG_REGION_INDEX, 2, data);
  return new DataView(data.buffer).getUint16(0, true);
}
const problem = (options: Readonly<Record<string, string>>) => type && driver.checkOptions?.(type, options);

test.each([
  [{ vectors: '2049' }, 'vectors: "2049" is not a number up to 2048'],
  [{ msi: '3' }, 'msi: "3" is not one of 0, 1, 2, 4, 8, 16, 32'],
  [{ intx: 'yes' }, 'intx: "yes" is neither on nor off'],
  [{ ram: '3M' }, 'ram: "3M" is not a power of two from 4K to 1G'],
  [{ rom: '100' }, 'rom: "100" is not 0, or a multiple of 512 up to 1M'],
  [{ reset: 'bus' }, 'reset: "bus" is none of flr, pm, af, none'],
  [
    { reset: 'flr', express: 'off' },
    'reset: flr is a reset of PCI Express: give express=on, or another reset',
  ],
  [{ board: 'a b' }, 'board: "a b" is not a name of up to 32 letters, digits, dots and dashes'],
  [{ vfs: '8' }, 'vfs: "8" is not a number up to 7'],
  [{ vfs: '1', express: 'off' }, 'vfs: SR-IOV is of PCI Express: give express=on'],
  [{ fault: 'sloow' }, /fault: "sloow" is none of reset-fails/],
  [{ fault: 'slow:-1' }, /"slow:-1": a fault's argument is a number/],
  [{ fail: 'reset:EFOO' }, 'fail: "EFOO" is no errno: EIO, for example'],
  [{ fail: 'rest:EIO' }, /"rest" is none of openDevice.* reset/],
  [{ fail: 'reset:EIO:x' }, /"reset:EIO:x": the call that fails is a number/],
  [{ vector: '1' }, /unknown option vector.*vectors/],
] as const)('the options %j are refused with a sentence', (options, text) => {
  const said = problem(options);
  if (typeof text === 'string') expect(said).toBe(text);
  else expect(said).toMatch(text);
});

test('options of each kind are accepted, and make cards that lack what they say', () => {
  expect(problem({})).toBeUndefined();
  using bare = new CardBench({ intx: 'off', msi: '0', vectors: '0', express: 'off', rom: '0', ram: '4K' });
  expect([0, 1, 2].map((index) => bare.ops.getIrqInfo(index).count)).toEqual([0, 0, 0]);
  expect(bare.ops.getRegionInfo(7).size).toBe(256);
  expect(bare.config(0x3d, 1)).toBe(0);
  expect(bare.ops.getInfo().flags & 1, 'it resets by power management').toBe(1);
  using full = new CardBench({ msi: '32', vectors: '2048', ram: '8M' });
  expect([1, 2].map((index) => full.ops.getIrqInfo(index).count)).toEqual([32, 2048]);
});

test('cards that are made, used and disposed leave no descriptor open', () => {
  const count = () => readdirSync('/proc/self/fd').length;
  const use = () => {
    using scope = new Scope();
    const bench = scope.own(new CardBench());
    bench.enable(8);
    bench.ops.reset?.();
  };
  use();
  const before = count();
  for (let i = 0; i < 5; i++) use();
  expect(count()).toBe(before);
});

test('a card whose open is to fail says which call, and why', () => {
  expect(() => new CardBench({ fail: 'openDevice:ENODEV' })).toThrowError(
    /VFIO_GROUP_GET_DEVICE_FD on testcard: ENODEV.*the test makes call 1 fail/s,
  );
});

test('a virtual function is a card without ports, pin, MSI and ROM, and has what its card says of it', () => {
  using card = new CardBench({ vfs: '2', vectors: '3', ram: '64K' });
  const { sriov } = card.instance;
  using vf = sriov?.create(1);
  if (sriov === undefined || vf === undefined) throw new Error('no VFs');
  const { ops } = vf;
  expect([sriov.totalVfs, idOf(ops)]).toEqual([2, sriov.deviceId]);
  const sizes = [0, 1, 2, 3, 4, 5, 6].map((index) => BigInt(ops.getRegionInfo(index).size));
  expect(sizes).toEqual(
    [0, 1, 2, 3, 4, 5, 6].map((i) => sriov.bars.find(({ index }) => index === i)?.size ?? 0n),
  );
  expect([0, 1, 2].map((index) => ops.getIrqInfo(index).count)).toEqual([0, 0, 3]);
  expect(vf.sriov, 'it has none itself').toBeUndefined();
  using plain = new CardBench();
  expect(plain.instance.sriov).toBeUndefined();
});
