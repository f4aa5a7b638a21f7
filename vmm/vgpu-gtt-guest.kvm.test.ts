/** The built-in guest drives vgpu-gtt: pages of its pictures move while it flips, and whoever looks sees the same picture. */
import { setTimeout as sleep } from 'node:timers/promises';
import { PNG } from 'pngjs';
import { expect, test } from 'vitest';
import { guestPicture } from './guest-picture.js';
import { NIC } from './testing/machines.js';
import { startTalking } from './testing/talking-machine.js';

/** The guest is to get on, too. */
const BETWEEN_LOOKS_MS = 20;
const FLIPS = Number(process.env.TSVISOR_FLIPS ?? 1000);
const DISPLAY = { address: 'vgpu-gtt' };
const [WIDTH, HEIGHT] = [320, 200];
const MODE = `xres=${WIDTH} yres=${HEIGHT}`;

const wrongBytes = (png: Uint8Array): number => {
  const { width, height, data } = PNG.sync.read(Buffer.from(png));
  expect([width, height]).toEqual([WIDTH, HEIGHT]);
  const { rgba } = guestPicture(WIDTH, HEIGHT);
  return data.reduce((wrong, byte, i) => wrong + (byte === rgba[i] ? 0 : 1), 0);
};

test.each([1, 2])(
  `every picture is right over ${FLIPS} flips, with %i vCPU`,
  async (vcpus) => {
    const { vm, says, serial } = startTalking({
      vcpus,
      devices: [NIC, DISPLAY],
      cmdline: `pings=1 ${MODE} flips=${FLIPS}`,
    });
    await using _vm = vm;
    await says('display: vgpu-gtt');
    let looks = 0;
    let isOver = false;
    const ended = vm.finished.finally(() => {
      isOver = true;
    });
    while (!isOver) {
      expect(wrongBytes(await vm.screenshot()), `wrong bytes in picture ${looks}`).toBe(0);
      looks++;
      await sleep(BETWEEN_LOOKS_MS);
    }
    const report = await ended;
    expect(report.outcome, serial()).toEqual({ kind: 'verdict', status: 0 });
    expect(looks).toBeGreaterThan(3);
    expect(wrongBytes(await vm.screenshot())).toBe(0);
    const [, moved] =
      new RegExp(`display: ${FLIPS} flips, (\\d+) updates of the table followed`).exec(serial()) ?? [];
    const { flips, updates, badEntries } = report.devices[1]?.counters ?? {};
    expect({ flips, badEntries }).toEqual({ flips: FLIPS + 1, badEntries: 0 });
    expect(Number(moved)).toBeGreaterThanOrEqual(8 * FLIPS);
    expect(updates).toBeGreaterThanOrEqual(Number(moved));
  },
  300_000,
);

test('a mode that does not fit into the guest’s memory is refused by the guest, and nothing is shown', async () => {
  const { vm, serial } = startTalking({ devices: [DISPLAY], cmdline: 'xres=2000 yres=2000' });
  await using _vm = vm;
  expect((await vm.finished).outcome).toEqual({ kind: 'verdict', status: 9 });
  expect(serial()).toMatch(/verdict: failed \(the mode does not fit\)/);
  await expect(vm.screenshot()).rejects.toThrowError(/ENODATA/);
});
