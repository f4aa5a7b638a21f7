/** The page's panels in a real browser: each shows what the API of the same machine gives. They need what the build makes. */
import { accessSync, constants, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Page } from 'playwright-core';
import { PNG } from 'pngjs';
import { afterEach, describe, expect, test } from 'vitest';
import type { z } from 'zod';
import { gpa, hva, iova } from '../../sys/address.js';
import { toChromeTrace } from '../../vfio/chrome-trace.js';
import type { TimelineEvent } from '../../vfio/timeline.js';
import { ApiClient } from '../api/client.js';
import type * as schemas from '../api/schemas.js';
import { ApiServer } from '../api/server.js';
import type { VmConfigInput } from '../config.js';
import type { DeviceState, MemoryRange } from '../inspection.js';
import { makePvh } from '../linux/testing.js';
import { FakeControlledMachine } from '../testing/controlled-machine.js';
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

type Device = z.output<typeof schemas.devicesSchema>[number];
type Range = z.output<typeof schemas.memorySchema>[number];
type Counters = z.output<typeof schemas.countersSchema>;
type Events = z.output<typeof schemas.timelineSchema>['events'];

/** What the panels show, as a person reads it. */
interface Panels {
  readonly topology: readonly string[];
  readonly states: readonly string[];
  readonly bars: readonly string[];
  readonly counters: readonly Readonly<Record<string, number>>[];
  readonly memory: readonly string[];
  readonly exits: Readonly<Record<string, number>>;
  readonly accesses: Readonly<Record<string, number>>;
  readonly timeline: readonly string[];
}

/** The numbers of a panel, by name. */
async function numbersIn(page: Page, panel: string): Promise<Record<string, number>> {
  const cells = await page
    .locator(`${panel} [data-count]`)
    .evaluateAll((all) =>
      all.map(({ dataset, textContent }: { dataset: { count: string }; textContent: string }) => [
        dataset.count,
        Number(textContent.replaceAll(',', '')),
      ]),
    );
  return Object.fromEntries(cells as [string, number][]);
}

const textsOf = async (page: Page, selector: string): Promise<string[]> =>
  (await page.locator(selector).allInnerTexts()).map((text) => text.replaceAll(/\s+/g, ' ').trim());

async function panelsOf(page: Page, devices: readonly { readonly name: string }[]): Promise<Panels> {
  return {
    topology: (await textsOf(page, '[data-device] > code')).concat(
      (await page.locator('[data-device]').count()) === devices.length ? [] : ['another number of devices'],
    ),
    states: await textsOf(page, '[data-where]'),
    bars: await textsOf(page, '[data-bars] tbody tr'),
    counters: await Promise.all(devices.map(({ name }) => numbersIn(page, `[data-counters="${name}"]`))),
    memory: await textsOf(page, '[data-panel="memory"] tbody tr'),
    exits: await numbersIn(page, '[data-panel="exits"]'),
    accesses: await numbersIn(page, '[data-panel="accesses"]'),
    timeline: await textsOf(page, '[data-panel="timeline"] tbody tr'),
  };
}

const number = (value: number): string => value.toLocaleString('en');

function size(bytes: number): string {
  for (const [unit, power] of [
    ['GiB', 2 ** 30],
    ['MiB', 2 ** 20],
    ['KiB', 2 ** 10],
  ] as const)
    if (bytes > 0 && bytes % power === 0) return `${number(bytes / power)} ${unit}`;
  return `${number(bytes)} B`;
}

const how = { msix: 'MSI-X', msi: 'MSI' } as const;
function stateText({ provider, group, interrupts, ...device }: Device): string {
  const where = `provider ${provider}, group ${group}, by ${device.interface}${device.cdev ? `, ${device.cdev}` : ''}`;
  if (interrupts === undefined) return where;
  const { mode, gsi, vectors } = interrupts;
  if (mode === 'none') return `${where}; no interrupts enabled`;
  if (mode === 'intx') return `${where}; INTx, pin ${gsi}`;
  const masked = vectors.filter((vector) => vector.isMasked).length;
  const pending = vectors.filter((vector) => vector.isPending).length;
  const sent = vectors
    .filter((each) => each.sent !== undefined)
    .map((each) => `${each.vector}: ${number(each.sent ?? 0)}`);
  const counts = sent.length === 0 ? '' : `; sent by vector ${sent.join(', ')}`;
  return `${where}; ${how[mode]}, ${vectors.length} vectors wired, ${masked} masked, ${pending} pending${counts}`;
}

function barText(bar: NonNullable<Device['bars']>[number]): string {
  const exits = bar.exits.reduce((sum, { reads, writes }) => sum + reads + writes, bar.otherExits);
  const pages = bar.exits.map(
    ({ offset, reads, writes }) =>
      `0x${offset.toString(16)}: ${number(reads)} read, ${number(writes)} written`,
  );
  const parts = bar.parts.map(({ bytes, kind }) => `${size(bytes)} ${kind}`).join(', ');
  const cells = [`${bar.label} ${bar.type}`, bar.base ?? 'off', size(bar.bytes), parts, bar.doorbells.length];
  return [...cells, number(exits), ...pages].join(' ').replaceAll(/\s+/g, ' ').trim();
}

function rangeText({ name, kind, gpa, bytes, hva, ms, dma, pages }: Range): string {
  const maps = dma.map((map) => `${map.iova} in ${map.space}, ${map.ms.toFixed(3)} ms`);
  const huge = pages?.hugeBytes ? `, ${size(pages.hugeBytes)} in huge ones` : '';
  const used = pages ? `${size(pages.pageBytes)}, ${size(pages.residentBytes)} present${huge}` : 'unknown';
  return [name, kind, gpa, size(bytes), hva, `${ms.toFixed(3)} ms`, ...maps, used].join(' ');
}

function eventTexts(events: Events): string[] {
  const shown = events.slice(-1000);
  return shown.map(({ at, what, seq, cause, details }) => {
    const time = `${(at - (shown[0]?.at ?? 0)).toFixed(3)} ms`;
    const rest = Object.entries(details).map(([name, value]) => `${name}=${value}`);
    const order = [seq, cause].filter((each) => each > 0);
    return [time, ...order, what, ...rest].join(' ').replaceAll(/\s+/g, ' ').trim();
  });
}

/** What the panels must show, by the API's answers. */
async function panelsByApi(client: ApiClient): Promise<Panels> {
  const get = async (path: string) =>
    JSON.parse((await client.call('GET', `/v1/${path}`)).body.toString()) as unknown;
  const devices = (await get('devices')) as Device[];
  const { exits, accesses, devices: counted } = (await get('counters')) as Counters;
  expect(counted.map(({ name, counters }) => [name, counters])).toEqual(
    devices.map(({ name, counters }) => [name, counters]),
  );
  return {
    topology: devices.map(({ name }) => name),
    states: devices.map(stateText),
    bars: devices.flatMap(({ bars }) => bars ?? []).map(barText),
    counters: devices.map(({ counters }) => counters),
    memory: ((await get('memory')) as Range[]).map(rangeText),
    exits,
    accesses,
    timeline: eventTexts(((await get('timeline')) as { readonly events: Events }).events),
  };
}

const closing: AsyncDisposable[] = [];
afterEach(async () => {
  for (const each of closing.splice(0).reverse()) await each[Symbol.asyncDispose]();
});

let machines = 0;
/** A machine with its API, and its page. */
async function start(config: VmConfigInput) {
  const vm = VirtualMachine.start(config);
  closing.push(vm);
  const server = await ApiServer.start(vm, join(folder, `sock${machines++}`), '1');
  closing.push(server);
  const client = new ApiClient(server.path);
  return { vm, client, ...(await open(vm)) };
}

/** Waits until each panel shows what the API gives. Nothing of the machine may change meanwhile. */
async function expectSamePanels(page: Page, client: ApiClient): Promise<Panels> {
  const pair = async () => {
    const expected = await panelsByApi(client);
    const shown = await panelsOf(
      page,
      expected.topology.map((name) => ({ name })),
    );
    return { shown, expected };
  };
  let last = await pair();
  await expect
    .poll(async () => {
      last = await pair();
      return JSON.stringify(last.shown) === JSON.stringify(last.expected);
    }, until)
    .toBe(true)
    .catch(() => expect(last.shown).toEqual(last.expected));
  return last.shown;
}

const DISPLAY = { address: 'vgpu-small', options: { xres: '320', yres: '200' } } as const;
const LIMIT_MS = 240_000;

describe.runIf(hasKvm())('on a machine that runs', () => {
  test(
    'each panel shows what the API gives, and each display its screenshot',
    async () => {
      const { vm, client, page } = await start({
        devices: [DISPLAY, NIC],
        cmdline: 'pings=1 tcp=0x7fffffff',
      });
      const sent = async () => (await vm.counters()).devices[1]?.counters.txPackets ?? 0;
      await expect.poll(sent, until).toBeGreaterThan(1000);
      await expect
        .poll(() => textsOf(page, '[data-panel="accesses"] .number:last-child'), until)
        .not.toEqual([]);
      await vm.pause();
      const panels = await expectSamePanels(page, client);
      expect(panels.topology).toEqual(['00:03.0 vgpu-small', '00:04.0 virtio-net']);
      expect(panels.counters[1]?.interrupts).toBeGreaterThan(0);
      expect(panels.states[1]).toMatch(/MSI-X, [1-9]\d* vectors wired, .*; sent by vector 0: 0, 1: [1-9]/);
      expect(panels.memory.join('\n')).toMatch(/^ram ram 0x0 64 MiB .* in core container, .* present/m);
      expect(panels.timeline.join('\n')).toMatch(/ set_kvm /);
      expect(Object.keys(panels.accesses).length).toBeGreaterThan(2);
      // A second later, nothing has happened since.
      const rates = () => textsOf(page, '[data-panel="accesses"] tbody .number:last-child');
      await expect.poll(async () => new Set(await rates()), until).toEqual(new Set(['0']));
      expect(await status(page)).toBe('The guest is paused');
      const { body } = await client.call('GET', '/v1/screenshot?slot=3');
      const { width, height, data } = PNG.sync.read(body);
      const canvas = (await page.evaluate(`(() => {
      const canvas = document.querySelector('[data-slot="3"] canvas');
      const { width, height } = canvas;
      const { data } = canvas.getContext('2d').getImageData(0, 0, width, height);
      return { width, height, data: [...data] };
    })()`)) as { width: number; height: number; data: number[] };
      expect([canvas.width, canvas.height]).toEqual([width, height]);
      expect(Buffer.compare(Buffer.from(canvas.data), data)).toBe(0);
      expect(new Set(data).size).toBeGreaterThan(2);
    },
    LIMIT_MS,
  );

  test(
    'what was last stays when it has ended, with the counters of its report',
    async () => {
      const { vm, page, view } = await start({ devices: [DISPLAY, NIC], cmdline: 'pings=3' });
      await vm.pause();
      await page.locator('[data-device]').first().waitFor(until);
      await vm.resume();
      const { exits, accesses, devices } = await vm.finished;
      await expect.poll(() => status(page), until).toBe('The guest has ended: verdict 0');
      await view[Symbol.asyncDispose](); // what was last stays
      const shown = await panelsOf(page, devices);
      expect({ exits: shown.exits, accesses: shown.accesses }).toEqual({ exits, accesses });
      expect(shown.counters).toEqual(devices.map(({ counters }) => counters));
      expect(devices[1]?.counters.txPackets).toBeGreaterThan(0);
      expect(await page.getByRole('button', { name: /Detach|Pull out|Attach|Stop/ }).count()).toBe(0);
    },
    LIMIT_MS,
  );

  test(
    'devices that are attached and detached by the page come and go, on the page and in the API',
    async () => {
      const { vm, client, page, complaints } = await start({
        devices: [NIC],
        cmdline: 'pings=1 tcp=0x7fffffff',
      });
      const attach = async (text: string) => {
        await page.getByRole('textbox', { name: 'Device and options' }).fill(text);
        await page.getByRole('button', { name: 'Attach' }).click();
      };
      await page.locator('[data-device]').first().waitFor(until);
      await attach('mtty-2,port0=pty');
      const card = page.locator('[data-device="00:04.0 mtty-2"]');
      await card.waitFor(until);
      await attach('vgpu-small,xres=320,yres=200');
      await page.locator('[data-device="00:05.0 vgpu-small"]').waitFor(until);
      await page.locator('[data-slot="5"]').waitFor(until); // its picture, too
      expect(vm.devices.map(({ slot, address }) => [slot, address])).toEqual([
        [3, 'virtio-net'],
        [4, 'mtty-2'],
        [5, 'vgpu-small'],
      ]);
      // The guest has no ACPI: it is not asked.
      await page.getByRole('button', { name: 'Detach 00:04.0 mtty-2' }).click();
      await card.waitFor({ ...until, state: 'detached' });
      await page.getByRole('button', { name: 'Pull out 00:05.0 vgpu-small' }).click();
      await page.locator('[data-device="00:05.0 vgpu-small"]').waitFor({ ...until, state: 'detached' });
      await page.locator('[data-slot="5"]').waitFor({ ...until, state: 'detached' });
      expect(vm.devices.map(({ slot }) => slot)).toEqual([3]);
      await attach('virtio-net,net=nothing');
      const error = page.locator('.error');
      await expect
        .poll(() => error.allTextContents(), until)
        .toContainEqual(expect.stringContaining('nothing'));
      expect(complaints.splice(0).join()).toContain('400'); // the browser's
      await vm.pause();
      await expectSamePanels(page, client);
    },
    LIMIT_MS,
  );

  test(
    'a guest that does not release a device in time is reported, and the device can be pulled out',
    async () => {
      const kernel = join(folder, 'kernel');
      writeFileSync(kernel, makePvh(Uint8Array.of(0xfa, 0xf4, 0xeb, 0xfd))); // cli; hlt; jmp back
      const { vm, page, complaints } = await start({ kernel, devices: [{ address: 'mtty-1' }] });
      const detach = page.getByRole('button', { name: 'Detach 00:03.0 mtty-1' });
      await detach.click(until);
      await expect.poll(() => detach.innerText(), until).toBe('Waiting for the guest');
      const error = page.locator('[data-device] .error');
      await expect
        .poll(() => error.allTextContents(), until)
        .toEqual([expect.stringMatching(/ETIMEDOUT.*not released the device within 30000 ms/s)]);
      expect(complaints.splice(0).join()).toContain('504'); // the browser's
      expect(vm.devices.length).toBe(1);
      await page.getByRole('button', { name: 'Pull out 00:03.0 mtty-1' }).click();
      await page.getByText('No device is assigned.').waitFor(until);
      expect(vm.devices).toEqual([]);
    },
    LIMIT_MS,
  );
});

/** As machines tell them. */
const DEVICE: DeviceState = {
  ...{
    name: '00:03.0 virtio-net',
    slot: 3,
    function: 0,
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
const MEMORY: MemoryRange = {
  ...{ kind: 'ram', name: 'ram', gpa: gpa(0n), hva: hva(0x7f00_0000_0000n), bytes: 64n << 20n, ms: 0.25 },
  dma: [{ space: 'core container', iova: iova(0x1000n), ms: 1.5 }],
  pages: { pageBytes: 4096, mappedBytes: 64 << 20, residentBytes: 6 << 20, hugeBytes: 2 << 20 },
};
const event = (at: number, seq: number, cause: number, task: string): TimelineEvent => ({
  ...{ at, what: 'map_dma', seq, cause, task, details: { iova: 4096n, group: 7 } },
});

/** A machine without displays, which shows what a test gives it. */
class FakeMachine extends FakeControlledMachine {
  displays = async () => [];
  capture = () => Promise.reject(new Error('no display'));
}

test('numbers are shown as they follow each other', async () => {
  const machine = new FakeMachine();
  const { page } = await open(machine);
  for (const round of [1000, 2000, 3000]) {
    machine.counts = {
      exits: { io: round, mmio: 7 },
      accesses: { COM1: round, 'PCI ECAM': 2 * round },
      devices: [],
    };
    machine.devices = [{ ...DEVICE, counters: { interrupts: round } }];
    const shown = async () => ({
      exits: await numbersIn(page, '[data-panel="exits"]'),
      accesses: await numbersIn(page, '[data-panel="accesses"]'),
      counters: await numbersIn(page, '[data-counters]'),
    });
    const { exits, accesses } = machine.counts;
    await expect.poll(shown, until).toEqual({ exits, accesses, counters: { interrupts: round } });
  }
  expect(await status(page)).toBe('The guest is running');
  expect(await page.locator('canvas.plot').getAttribute('aria-label')).toContain('per second');
});

test('devices, memory and the timeline are shown as they are told, in a person’s words; the timeline can be saved', async () => {
  const events = [
    event(10, 1, 0, 'caller'),
    event(12.5, 2, 1, 'worker'),
    event(13, 0, 0, ''),
    event(15, 3, 2, 'caller'),
  ];
  const machine = new FakeMachine();
  machine.devices = [DEVICE];
  machine.memory = [MEMORY];
  machine.record = { events: events.slice(0, 2), dropped: 1000 };
  const { page } = await open(machine);
  const rows = () => textsOf(page, '[data-panel="timeline"] tbody tr');
  await expect.poll(async () => (await rows()).length, until).toBe(2);
  machine.record = { events, dropped: 1000 };
  await expect
    .poll(rows, until)
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
  expect(await textsOf(page, '[data-where]')).toEqual([
    'provider core, group 7, by iommufd; MSI-X, 2 vectors wired, 1 masked, 1 pending',
  ]);
  expect(await textsOf(page, '[data-bars] tbody tr')).toEqual([
    'BAR4 64-bit prefetchable 0x120000000 16 KiB 4 KiB trapped, 12 KiB mapped 1 1,028 0x0: 1,000 read, 20 written 0x3000: 0 read, 3 written',
  ]);
  expect(await textsOf(page, '[data-panel="memory"] tbody tr')).toEqual([
    'ram ram 0x0 64 MiB 0x7f0000000000 0.250 ms 0x1000 in core container, 1.500 ms 4 KiB, 6 MiB present, 2 MiB in huge ones',
  ]);
  const download = page.waitForEvent('download');
  await page.getByRole('button', { name: 'Save for Perfetto' }).click();
  const path = join(folder, 'timeline.json');
  await (await download).saveAs(path);
  expect(JSON.parse(readFileSync(path, 'utf8'))).toEqual(JSON.parse(toChromeTrace(events)));
  // A machine that restarts begins another timeline; one that is too long is cut.
  for (const [restarts, dropped] of [
    [1, 1000],
    [1, 1004],
  ] as const) {
    machine.restarts = restarts;
    machine.record = {
      events: [event(20 + dropped, 9, 0, 'caller'), event(30 + dropped, 10, 9, 'x')],
      dropped,
    };
    await expect
      .poll(rows, until)
      .toEqual(['0.000 ms 9 map_dma iova=0x1000 group=7', '10.000 ms 10 9 map_dma iova=0x1000 group=7']);
    await expect
      .poll(() => page.getByText(`${dropped.toLocaleString('en')} are missing`).count(), until)
      .toBe(1);
  }
});

test('buttons and the form reach the machine, by the keyboard alone, and its refusal is shown', async () => {
  const machine = new FakeMachine();
  machine.devices = [{ ...DEVICE, name: '00:03.0 mtty-1' }];
  const { page, complaints } = await open(machine);
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
  await expect.poll(() => machine.calls.length, until).toBe(2);
  machine.failure = new Error('no slot is free');
  await tabTo('Device and options');
  await page.keyboard.type('mtty-1,port0=pty');
  await page.keyboard.press('Enter');
  await expect.poll(() => page.locator('.error').allTextContents(), until).toContain('no slot is free');
  expect(machine.calls).toEqual(['pause', 'detach 3 {}', 'attach [["mtty-1",{"port0":"pty"}]]']);
  expect(complaints.splice(0).join()).toContain('500'); // the browser's
});
