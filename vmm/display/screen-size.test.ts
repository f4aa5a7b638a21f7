import { expect, test } from 'vitest';
import { GpuBench } from '../../devices/virtio-gpu/testing/workbench.js';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { DeviceFile, RegionInfo } from '../../vfio/uapi.js';
import { largestSize, setScreenSize } from './screen-size.js';

const REGION_BYTES = 2 ** 40;

/** What a file of the card's device does, of what is called here. */
function fileOf({ ops }: GpuBench): DeviceFile {
  const file: Pick<DeviceFile, 'getInfo' | 'getRegionInfo' | 'read' | 'write'> = {
    getInfo: () => ops.getInfo(),
    getRegionInfo: (index): RegionInfo => ({ ...ops.getRegionInfo(index), offset: index * REGION_BYTES }),
    read: (at, data) => ops.read(Math.floor(at / REGION_BYTES), at % REGION_BYTES, data),
    write: (at, data) => ops.write(Math.floor(at / REGION_BYTES), at % REGION_BYTES, data),
  };
  return file as DeviceFile;
}

test('a virtio-gpu’s guest is told of the size of the screen that is resized, and of no other', () => {
  using bench = new GpuBench({ heads: '2' }).start();
  setScreenSize(fileOf(bench), 1, { width: 1280, height: 720 }, 'card');
  expect(bench.driver.deviceConfig(0, 4)).toBe(1);
  const { data } = bench.send(0, 0x100);
  const of = (head: number) => [8, 12, 16].map((at) => data.getUint32(24 * head + at, true));
  expect([of(0), of(1)]).toEqual([
    [1024, 768, 1],
    [1280, 720, 1],
  ]);
});

test('a size that cannot be is EINVAL, and a screen without an EDID region ENOTSUP: nothing changes', () => {
  using bench = new GpuBench().start();
  const file = fileOf(bench);
  for (const [width, height] of [
    [0, 720],
    [1280, 4096],
    [0.5, 720],
  ] as const)
    expect(() => setScreenSize(file, 0, { width, height }, 'card')).toThrowError(/resize on card: EINVAL/);
  expect(() => setScreenSize(file, 1, { width: 1280, height: 720 }, 'card')).toThrowError(/ENOTSUP/);
  expect(bench.driver.deviceConfig(0, 4)).toBe(0);
});

test('the largest size of a screen is the device’s, within what an EDID can tell; nothing that a device answers makes a larger one', () => {
  using bench = new GpuBench({ heads: '2' }).start();
  const file = fileOf(bench);
  expect([0, 1, 2].map((head) => largestSize(file, head))).toEqual([
    { width: 4095, height: 4095 },
    { width: 4095, height: 4095 },
    undefined,
  ]);
  const claiming = (...limits: readonly number[]) => {
    const read: DeviceFile['read'] = (at, data) => {
      const which = [12, 16].indexOf(at % REGION_BYTES);
      if (which === -1) return file.read(at, data);
      new DataView(data.buffer).setUint32(0, limits[which] as number, true);
      return data.length;
    };
    return largestSize({ ...file, read }, 0);
  };
  expect(claiming(1024, 768)).toEqual({ width: 1024, height: 768 });
  expect(claiming(0xffff_ffff, 5000)).toEqual({ width: 4095, height: 4095 });
  expect(claiming(1024, 0), 'which no size is within').toBe(undefined);
  const getInfo = () => {
    throw new SysError({ call: 'VFIO_DEVICE_GET_INFO', target: 'card', errno: errno.ENODEV });
  };
  expect(largestSize({ ...file, getInfo }, 0), 'of a device that is gone').toBe(undefined);
});
