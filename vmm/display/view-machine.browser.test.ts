/** The page's panels in a real browser, on machines that run. They need /dev/kvm, and what the build makes. */
import { accessSync, constants } from 'node:fs';
import type { Page } from 'playwright-core';
import { expect, test } from 'vitest';
import type { Counters } from '../protocol.js';
import { NIC } from '../testing/machines.js';
import { VirtualMachine } from '../virtual-machine.js';
import { browserForTests } from './testing/browser.js';

const { open } = browserForTests();
const until = { timeout: 60_000 };
const status = (page: Page) => page.locator('#status').textContent();

function hasKvm(): boolean {
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

/** The numbers that a panel shows, by name. */
async function numbersIn(page: Page, panel: string): Promise<Record<string, number>> {
  const cells = await page.locator(`${panel} [data-count]`).all();
  const entries = cells.map(async (cell) => [
    await cell.getAttribute('data-count'),
    Number((await cell.textContent())?.replaceAll(',', '')),
  ]);
  return Object.fromEntries(await Promise.all(entries));
}

/** All that the panels show, in the library's form. */
async function shownCounters(page: Page, { devices }: Counters): Promise<Counters> {
  const shown = devices.map(async ({ name, description }) => ({
    name,
    description: (await page.locator(`[data-device="${name}"]`).textContent())?.includes(description)
      ? description
      : 'not shown',
    counters: await numbersIn(page, `[data-device="${name}"]`),
  }));
  return {
    exits: await numbersIn(page, '[data-panel="exits"]'),
    accesses: await numbersIn(page, '[data-panel="accesses"]'),
    devices: await Promise.all(shown),
  };
}

test.runIf(hasKvm())(
  'each number equals the library’s: of the running guest, and of its report once it has ended',
  async () => {
    await using vm = VirtualMachine.start({
      devices: [{ address: 'vgpu-small', options: { xres: '320', yres: '200' } }, NIC],
      cmdline: 'pings=3',
    });
    let sent: Counters | undefined;
    const { page, view } = await open({
      finished: vm.finished,
      displays: () => vm.displays(),
      capture: (slot, into) => vm.capture(slot, into),
      counters: async () => {
        sent = await vm.counters();
        return sent;
      },
    });
    await expect.poll(() => sent !== undefined, until).toBe(true);
    const report = await vm.finished;
    await view[Symbol.asyncDispose]();
    await expect.poll(() => status(page), until).toBe('The guest has ended: verdict 0');
    const { exits, accesses, devices } = report;
    expect(await shownCounters(page, report)).toEqual({ exits, accesses, devices });
    expect(devices[1]?.counters.txPackets).toBeGreaterThan(0);
  },
  120_000,
);

test('numbers of one moment are shown as they are, while more follow', async () => {
  let round = 0;
  const next = (): Counters => {
    round += 1000;
    return {
      exits: { io: round, mmio: 7 },
      accesses: { COM1: round, 'PCI ECAM': 2 * round },
      devices: [
        { name: '00:03.0 virtio-net', description: 'a card, group 0', counters: { interrupts: round } },
      ],
    };
  };
  let given = next();
  const counters = async () => {
    given = next();
    return given;
  };
  const { page } = await open({
    finished: new Promise(() => {}),
    displays: async () => [],
    capture: () => Promise.reject(new Error('no display')),
    counters,
  });
  const isSame = async () => {
    const before = given;
    const shown = await shownCounters(page, before);
    return JSON.stringify(shown) === JSON.stringify(before);
  };
  await expect.poll(isSame, until).toBe(true);
  const first = round;
  await expect.poll(async () => round > first && (await isSame()), until).toBe(true);
  expect(await status(page)).toBe('The guest is running');
  expect(await page.locator('canvas.plot').getAttribute('aria-label')).toContain('per second');
});
