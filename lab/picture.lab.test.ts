/** What Linux draws, captured on the host: vgpu in process, and the kernel's mediated displays. */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { afterEach, beforeAll, expect, test } from 'vitest';
import { tsvisorRun } from './command-line.js';
import { inL1 } from './images.js';
import { l2CommandLine, parseL2Results } from './l2.js';
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

test('the same for mdpy, a mediated device of the kernel', async () => {
  const uuid = execFileSync('mdev-create', ['mdpy-xga'], { encoding: 'utf8' }).trim();
  try {
    await expectPicture(uuid);
  } finally {
    removeMdev(uuid);
  }
});

test('mbochs, whose dma-bufs cannot be mapped, works and reports why it cannot be captured', () => {
  const uuid = execFileSync('mdev-create', ['mbochs-small'], { encoding: 'utf8' }).trim();
  try {
    const files = ['--kernel', inL1.kernel, '--initrd', inL1.initrd, '--memory', '256M', '--no-reboot'];
    const { status, error, output } = tsvisorRun([
      ...files,
      ...['--device', uuid, '--screenshot', PNG_PATH, '--append', l2CommandLine({ checks: ['fb'] })],
    ]);
    expect(parseL2Results(output).get('fb.fb0')).toBe(true);
    expect(error).toMatch(/no picture: mmap on .*, dma-buf 1: EINVAL\n.*the kernel’s mbochs does/);
    expect(status).toBe(69);
    expect(existsSync(PNG_PATH)).toBe(false);
  } finally {
    removeMdev(uuid);
  }
});
