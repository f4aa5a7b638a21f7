/**
 * Shows  a vGPU that a guest has drawn on, saved with its machine, and gone on in two others
 * Needs  /dev/kvm
 * Prints what was saved, and whether the pictures are the same, pixel for pixel
 *
 *   node dist/examples/moved-vgpu.js
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { guestPicture, toPicture, VirtualMachine } from 'tsvisor';

const [width, height] = [640, 400];
const wanted = guestPicture(width, height).rgba;
const shows = async (vm: VirtualMachine) => {
  const { rgba } = await vm.look(undefined, toPicture);
  return rgba.length === wanted.length && rgba.every((byte, i) => byte === wanted[i]);
};

const parent = mkdtempSync(join(tmpdir(), 'moved-vgpu-'));
try {
  const folder = join(parent, 'drawn');
  let text = '';
  {
    // It draws when it finds the display, and then waits for other devices.
    await using vm = VirtualMachine.start(
      {
        memory: '64M',
        cmdline: 'hotplug=2',
        devices: [{ address: 'vgpu-small', options: { xres: `${width}`, yres: `${height}` } }],
      },
      {
        serial: (bytes) => {
          text += Buffer.from(bytes).toString('latin1');
        },
      },
    );
    while (!text.includes('is drawn')) await sleep(10);
    const { stateBytes, memoryBytes } = await vm.snapshot(folder);
    console.log(
      `saved: ${stateBytes} bytes of state, ${memoryBytes} of memory; picture right: ${await shows(vm)}`,
    );
  }
  await using first = VirtualMachine.restore(folder);
  await using second = VirtualMachine.restore(folder);
  for (const vm of [first, second]) {
    console.log(`restored: picture right: ${await shows(vm)}`);
  }
} finally {
  rmSync(parent, { recursive: true });
}
