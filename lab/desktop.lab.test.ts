/** A Linux guest with two screens, a keyboard and a tablet, and a person at its page, which is spoken to without a browser. */
import { rmSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { parseL2Results } from './l2.js';
import { wrongConsole } from './l2-console.js';
import { DESKTOP_EVENTS, useDesk } from './l2-desktop.js';
import { compareScreens, follows } from './l2-screens.js';
import { PageClient } from './page-client.js';
import { type RunningGuest, startCommand, startGuest } from './running-guest.js';

const API = '/run/desktop.sock';
/** Where `virtio-gpu` is: the first slot of devices. */
const SLOT = 3;
const HEADS = [0, 1];

let guest: RunningGuest;
let url = '';
beforeAll(async () => {
  guest = startGuest(
    [
      ...['--device', 'virtio-gpu,heads=2,width=800,height=600'],
      ...['--device', 'virtio-input', '--device', 'virtio-input,type=tablet'],
      ...['--view', '--api', `unix:${API}`],
    ],
    { checks: ['console', 'input', 'screens'], parameters: [`lab.events=${DESKTOP_EVENTS}`] },
  );
  await guest.says('L2-WAITS');
  url = /http:\/\/127\.0\.0\.1:\d+\/[\w-]+\//.exec(guest.output())?.[0] ?? '';
}, 200_000);
afterAll(async () => {
  guest?.child.kill('SIGKILL');
  await guest?.ended;
  rmSync(API, { force: true });
});

test('its kernel’s console is on both screens of the page, pixel for pixel', async () => {
  using page = new PageClient(url);
  for (const head of HEADS)
    expect(await wrongConsole(guest.output(), () => page.look(SLOT, head)), `screen ${head}`).toBeUndefined();
});

test('what a person presses and points at arrives in its /dev/input, in order', async () => {
  using page = new PageClient(url);
  const wrong = await useDesk(await page.person(), guest.output);
  expect(wrong, `wrong events:\n${guest.output().slice(-3000)}`).toBe(0);
  await guest.says('L2-WAITS', 2);
  expect(Object.fromEntries(parseL2Results(guest.output()))).toEqual({
    'console.fb0': true,
    'input.events': true,
  });
});

test('a mode-setting program’s pictures and cursors are on both screens, also after the host has resized each', async () => {
  using page = new PageClient(url);
  const look = (head: number) => page.look(SLOT, head);
  expect(await compareScreens(guest.output(), look), 'wrong bytes').toBe(0);
  const [wide, small] = [
    { width: 1280, height: 720 },
    { width: 640, height: 480 },
  ];
  await page.resize(SLOT, 1, wide);
  expect(await follows(guest.output, 1, wide)).toBe(true);
  const resize = startCommand(['ctl', API, 'resize', String(SLOT), '640x480']);
  expect(await resize.ended, resize.output()).toEqual([0, null]);
  expect(await follows(guest.output, 0, small)).toBe(true);
  expect(await compareScreens(guest.output(), look), 'wrong bytes after that').toBe(0);
});
