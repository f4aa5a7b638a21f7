/** The page's panels in a real browser, on machines that run. They need /dev/kvm, and what the build makes. */
import { accessSync, constants, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Page } from 'playwright-core';
import { expect, test } from 'vitest';
import { gpa, hva, iova } from '../../sys/address.js';
import { toChromeTrace } from '../../vfio/chrome-trace.js';
import type { TimelineEvent } from '../../vfio/timeline.js';
import type { MemoryRegionState } from '../assign/memory-map.js';
import type { DeviceState } from '../inspection.js';
import type { Counters } from '../protocol.js';
import { NIC } from '../testing/machines.js';
import { VirtualMachine } from '../virtual-machine.js';
import { browserForTests } from './testing/browser.js';

const { open, folder } = browserForTests();
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
    counters: await numbersIn(page, `[data-counters="${name}"]`),
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
    await expect.poll(() => status(page), until).toBe('The guest has ended: verdict 0');
    await view[Symbol.asyncDispose](); // what was last stays
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

/** As a machine tells them, of one moment. */
const DEVICE: DeviceState = {
  ...{
    name: '00:03.0 virtio-net',
    slot: 3,
    device: 'ab7c8c3e-0c1f-4b1e-9a52-6d3f0f6a2b11',
    description: 'a card',
    provider: 'core',
    interface: 'iommufd',
    group: 7,
  },
  counters: { interrupts: 1234 },
  bars: [
    {
      ...{ label: 'BAR4', type: '64-bit prefetchable', bus: 'mmio', bytes: 16384, base: 0x1_2000_0000n },
      parts: [
        { offset: 0, bytes: 4096, kind: 'trapped' },
        { offset: 4096, bytes: 12288, kind: 'mapped' },
      ],
      doorbells: [{ offset: 8192, bytes: 2 }],
      exits: [
        { offset: 0, reads: 1000, writes: 20 },
        { offset: 0x3000, reads: 0, writes: 3 },
      ],
      otherExits: 5,
    },
  ],
  interrupts: {
    ...{ mode: 'msix', gsi: undefined },
    vectors: [
      { vector: 0, isMasked: true, isPending: true },
      { vector: 1, isMasked: false, isPending: false },
    ],
  },
};
const MEMORY: MemoryRegionState = {
  ...{ kind: 'ram', name: 'ram', gpa: gpa(0n), hva: hva(0x7f00_0000_0000n), bytes: 64n << 20n, ms: 0.25 },
  dma: [{ space: 'core container', iova: iova(0x1000n), ms: 1.5 }],
};
const event = (at: number, seq: number, cause: number, task: string): TimelineEvent => ({
  ...{ at, what: 'map_dma', seq, cause, task, details: { iova: 4096n, group: 7 } },
});

test('devices, memory and the timeline are shown as the machine tells them, and the timeline can be saved', async () => {
  const events = [
    event(10, 1, 0, 'caller'),
    event(12.5, 2, 1, 'worker'),
    event(13, 0, 0, ''),
    event(15, 3, 2, 'caller'),
  ];
  const { page } = await open({
    finished: new Promise(() => {}),
    displays: async () => [],
    capture: () => Promise.reject(new Error('no display')),
    counters: async () => ({ exits: {}, accesses: {}, devices: [DEVICE] }),
    inspectDevices: async () => [DEVICE],
    inspectMemory: async () => [MEMORY],
    timeline: async () => ({ events, dropped: 1000 }),
  });
  const textOf = async (selector: string) =>
    (await page.locator(selector).allInnerTexts()).map((text) => text.replaceAll(/\s+/g, ' ').trim());
  await expect
    .poll(() => textOf('[data-panel="timeline"] tbody tr'), until)
    .toEqual([
      '0.000 ms 1 map_dma iova=0x1000 group=7',
      '2.500 ms 2 1 map_dma iova=0x1000 group=7',
      '3.000 ms map_dma iova=0x1000 group=7',
      '5.000 ms 3 2 map_dma iova=0x1000 group=7',
    ]);
  expect(await page.locator('.timeline circle').count()).toBe(4);
  expect(await page.locator('.timeline .cause').count()).toBe(2);
  expect(await page.locator('.timeline .row + text').allTextContents()).toEqual([
    'caller',
    'worker',
    'outside a core',
  ]);
  expect(await page.getByText('1,000 are missing').count()).toBe(1);
  expect(await textOf('[data-where]')).toEqual([
    'provider core, group 7, by iommufd; MSI-X, 2 vectors wired, 1 masked, 1 pending',
  ]);
  expect(await textOf('[data-bars] tbody tr')).toEqual([
    'BAR4 64-bit prefetchable 0x120000000 16 KiB 4 KiB trapped, 12 KiB mapped 1 1,028 0x0: 1,000 read, 20 written 0x3000: 0 read, 3 written',
  ]);
  expect(await textOf('[data-panel="memory"] tbody tr')).toEqual([
    'ram ram 0x0 64 MiB 0x7f0000000000 0.250 ms 0x1000 in core container, 1.500 ms',
  ]);
  const download = page.waitForEvent('download');
  await page.getByRole('button', { name: 'Save for Perfetto' }).click();
  const path = join(folder, 'timeline.json');
  await (await download).saveAs(path);
  expect(JSON.parse(readFileSync(path, 'utf8'))).toEqual(JSON.parse(toChromeTrace(events)));
});

test('buttons and the form reach the machine, by the keyboard alone, and its refusal is shown', async () => {
  const calls: unknown[] = [];
  const device = { name: '00:03.0 mtty-1', description: 'a card', counters: {} };
  const { page, complaints } = await open({
    finished: new Promise(() => {}),
    displays: async () => [],
    capture: () => Promise.reject(new Error('no display')),
    counters: async () => ({ exits: {}, accesses: {}, devices: [device] }),
    pause: async () => void calls.push('pause'),
    attach: async (given) => {
      calls.push(given);
      throw new Error('no slot is free');
    },
    detach: async (slot, options) => void calls.push([slot, options]),
  });
  await page.getByRole('button', { name: 'Pause guest' }).waitFor();
  expect(await page.getByRole('button', { name: 'Resume guest' }).count()).toBe(0);
  const tabTo = async (name: string) => {
    for (let i = 0; i < 20; i++) {
      await page.keyboard.press('Tab');
      const label = await page.evaluate(
        'document.activeElement.ariaLabel ?? document.activeElement.labels?.[0]?.textContent ?? document.activeElement.textContent',
      );
      if (String(label).startsWith(name)) return;
    }
    throw new Error(`Tab does not reach ${name}`);
  };
  await tabTo('Pause guest');
  await page.keyboard.press('Enter');
  await tabTo('Detach 00:03.0 mtty-1');
  await page.keyboard.press('Enter');
  await tabTo('Device and options');
  await page.keyboard.type('mtty-1,port0=pty');
  await page.keyboard.press('Enter');
  await expect.poll(() => page.locator('.error').allTextContents(), until).toContain('no slot is free');
  expect(calls).toEqual(['pause', [3, { force: false }], { address: 'mtty-1', options: { port0: 'pty' } }]);
  expect(complaints.splice(0).join()).toContain('409'); // the browser's
});
