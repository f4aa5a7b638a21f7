/** Devices of one card that two guests have at once: what each draws is in its own memory. */
import { expect, test } from 'vitest';
import { VfioCore } from '../../vfio/core/core.js';
import type { AssignableDevice } from '../../vfio/provider.js';
import { createVgpuDriver } from './driver.js';
import { DrawingGuest, shows } from './testing/drawing-guest.js';

const eventThread = {
  run: () => {
    throw new RangeError('a display has no task');
  },
};

test('two guests draw on parts of one card at once: each has its own picture, and what one leaves behind no other sees', () => {
  using core = new VfioCore();
  using _driver = core.registerVendorDriver(createVgpuDriver({ cards: [{ name: 'card0', memoryMib: 64 }] }), {
    eventThread,
  });
  const halves = ['vgpu-half', 'vgpu-half'].map((type) => core.provider.resolve(type, {}));
  const [first, second] = halves as [AssignableDevice, AssignableDevice];
  using two = new DrawingGuest(core.provider, second);
  {
    using one = new DrawingGuest(core.provider, first);
    one.draw(640, 480, 1);
    two.draw(800, 600, 2);
    one.draw(1000, 500, 3);
    expect(shows(one, 1000 * 500, 3)).toBe(true);
    expect(shows(two, 800 * 600, 2)).toBe(true);
    expect(() => core.provider.resolve('vgpu-small', {})).toThrowError(/ENOSPC\n.*0 MiB of 64 are left/);
    expect(first.parent?.()).toEqual(second.parent?.());
  }
  first[Symbol.dispose]();
  // Its place on the card is another guest's now, and the pixels in it are not.
  using again = core.provider.resolve('vgpu-half', {});
  expect(again.parent?.().instances.map(({ uses }) => uses['video memory'])).toEqual([
    '32 MiB at 0 MiB',
    '32 MiB at 32 MiB',
  ]);
  {
    using three = new DrawingGuest(core.provider, again);
    expect(three.isClean()).toBe(true);
    three.draw(64, 64, 4);
    expect(shows(three, 64 * 64, 4)).toBe(true);
    expect(shows(three, 64 * 64, 5)).toBe(false);
  }
  expect(shows(two, 800 * 600, 2)).toBe(true);
  two[Symbol.dispose]();
  second[Symbol.dispose]();
});
