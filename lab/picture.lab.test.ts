/** What Linux draws, captured on the host: vgpu in process, and the kernel's mediated displays. */
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { afterEach, beforeAll, expect, test } from 'vitest';
import {
  DISPI_AT,
  REGISTER_BAR,
  VBE_DISPI_ENABLED,
  VBE_DISPI_INDEX_BPP,
  VBE_DISPI_INDEX_ENABLE,
  VBE_DISPI_INDEX_VIRT_WIDTH,
  VBE_DISPI_INDEX_X_OFFSET,
  VBE_DISPI_INDEX_XRES,
  VBE_DISPI_INDEX_Y_OFFSET,
  VBE_DISPI_INDEX_YRES,
  VRAM_BAR,
} from '../devices/vgpu/spec.js';
import { Scope } from '../sys/scope.js';
import { hostProvider } from '../vfio/host/index.js';
import { VFIO_TYPE1v2_IOMMU } from '../vfio/uapi.js';
import { DeviceDisplay } from '../vmm/display/device-display.js';
import { parseL2Results } from './l2.js';
import { wrongBytes } from './l2-picture.js';
import { type RunningGuest, startGuest } from './running-guest.js';

const PNG_PATH = '/run/picture.png';

const running: RunningGuest[] = [];
afterEach(async () => {
  rmSync(PNG_PATH, { force: true });
  for (const { child, ended } of running.splice(0)) {
    child.kill('SIGKILL');
    await ended;
  }
});
beforeAll(() => execFileSync('vfio-load'));

const removeMdev = (uuid: string) => writeFileSync(`/sys/bus/mdev/devices/${uuid}/remove`, '1');

async function expectPicture(device: string): Promise<void> {
  const guest = startGuest(['--device', device, '--screenshot', PNG_PATH], { checks: ['picture', 'hold'] });
  running.push(guest);
  await guest.says('L2-WAITS');
  expect(Object.fromEntries(parseL2Results(guest.output()))).toEqual({ 'picture.fb0': true });
  let looks = 0;
  const take = async () => {
    guest.child.kill('SIGUSR2');
    await guest.says('picture saved in', ++looks);
    return readFileSync(PNG_PATH);
  };
  expect(await wrongBytes(guest.output(), take), 'wrong bytes in the picture').toBe(0);
  guest.child.kill('SIGTERM');
  expect(await guest.ended).toEqual([143, null]);
}

test.each(['vgpu-small', 'vgpu-small,interface=iommufd'])(
  'what Linux writes to the frame buffer of %s is in the PNG, pixel for pixel',
  (device) => expectPicture(device),
);

test.each(['mdpy-xga', 'mbochs-small'])('the same for %s, a mediated device of the kernel', async (type) => {
  const uuid = execFileSync('mdev-create', [type], { encoding: 'utf8' }).trim();
  try {
    await expectPicture(uuid);
  } finally {
    removeMdev(uuid);
  }
});

test('an mbochs shows any part of its video memory that its registers select, and nothing beyond it', () => {
  using scope = new Scope();
  execFileSync('modprobe', ['mbochs']);
  const provider = hostProvider();
  const device = scope.own(provider.resolve('mdev:mbochs-small', {}));
  const container = scope.own(provider.groups.openContainer());
  const group = scope.own(provider.groups.openGroup(device.group));
  group.setContainer(container);
  container.setIommu(VFIO_TYPE1v2_IOMMU);
  const file = scope.own(group.getDeviceFd(device.name));
  const display = scope.own(DeviceDisplay.find(3, 'mbochs', file) as DeviceDisplay);
  const { offset } = file.getRegionInfo(REGISTER_BAR);
  const set = (index: number, value: number) =>
    file.write(offset + DISPI_AT + 2 * index, new Uint8Array(Uint16Array.of(value).buffer));
  const vram = file.getRegionInfo(VRAM_BAR);
  expect(vram.size).toBe(4 << 20);
  const noise = randomBytes(vram.size);
  scope.own(file.mmap(vram.offset, vram.size)).view.slice(0, vram.size).set(noise);
  set(VBE_DISPI_INDEX_BPP, 32);
  for (const [width, height, across, x, y] of [
    [640, 480, 700, 13, 100], // first: no dma-buf of it is exported
    [640, 480, 640, 0, 0],
    [800, 600, 0, 0, 700],
    [1024, 768, 1024, 0, 256], // to the last byte
    [640, 480, 640, 1, 0],
  ] as const) {
    set(VBE_DISPI_INDEX_XRES, width);
    set(VBE_DISPI_INDEX_YRES, height);
    set(VBE_DISPI_INDEX_VIRT_WIDTH, across);
    set(VBE_DISPI_INDEX_X_OFFSET, x);
    set(VBE_DISPI_INDEX_Y_OFFSET, y);
    set(VBE_DISPI_INDEX_ENABLE, VBE_DISPI_ENABLED);
    const { plane, pixels = new Uint8Array(0) } = display.look();
    const stride = 4 * Math.max(width, across);
    const from = y * stride + 4 * x;
    expect(plane).toMatchObject({ width, height, stride, offset: from });
    const wanted = noise.subarray(from, from + (height - 1) * stride + 4 * width);
    expect(Buffer.compare(pixels, wanted), `${width} x ${height} at ${x}, ${y}`).toBe(0);
  }
  set(VBE_DISPI_INDEX_Y_OFFSET, 0xffff);
  expect(() => display.look()).toThrowError(/ENODATA/);
});
