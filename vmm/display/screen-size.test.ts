import { expect, test } from 'vitest';
import { GpuBench } from '../../devices/virtio-gpu/testing/workbench.js';
import type { DeviceFile, RegionInfo } from '../../vfio/uapi.js';
import { setScreenSize } from './screen-size.js';

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
