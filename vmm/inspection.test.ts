import { expect, test } from 'vitest';
import { createVgpuDriver } from '../devices/vgpu/driver.js';
import { VfioCore } from '../vfio/core/core.js';
import { devicesSchema } from './api/schemas.js';
import { devicesText } from './api/text.js';
import type { SlottedDevice } from './assigned-devices.js';
import { deviceState } from './inspection.js';

const eventThread = {
  run: () => {
    throw new RangeError('a display has no task');
  },
};

test('a device that is a part of a card has the card’s account: what is left, and what each part has', () => {
  using core = new VfioCore();
  using _driver = core.registerVendorDriver(createVgpuDriver(), { eventThread });
  using half = core.provider.resolve('vgpu-half', {});
  using small = core.provider.resolve('vgpu-small', {});
  const slotted = { slot: 3, function: 0, name: '00:03.0 vgpu-half' };
  const assigned = { device: half, provider: 'core', interface: 'group', function: {} };
  const state = deviceState({ ...slotted, assigned } as unknown as SlottedDevice);
  const [sent] = devicesSchema.parse(JSON.parse(JSON.stringify([state])));
  expect(sent?.parent).toEqual(state.parent);
  expect(state.parent?.resources.map(({ left }) => left)).toEqual([120, 15]);
  expect(sent && devicesText([sent])).toContain(
    `  part of card0: 256 MiB video memory, 120 MiB left; 32 engines, 15 left; placement mixed-size
    vgpu-half ${half.name}: video memory 128 MiB at 0 MiB, engines 0-15
    vgpu-small ${small.name}: video memory 8 MiB at 128 MiB, engines 16`,
  );
});
