/** The page in a real browser. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type BrowserContext, chromium, type Page } from 'playwright-core';
import { PNG } from 'pngjs';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { guestPicture } from '../guest-picture.js';
import { Canvas, FakeMachine } from './testing/page.js';
import { View } from './view.js';

const folder = mkdtempSync(join(tmpdir(), 'tsvisor-browser-'));
let browser: BrowserContext;
beforeAll(async () => {
  browser = await chromium.launchPersistentContext(join(folder, 'profile'), {
    executablePath: process.env.TSVISOR_CHROMIUM ?? '/usr/bin/chromium',
    headless: true,
    acceptDownloads: true,
    args: [
      ...['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run'],
      ...['--disable-background-networking', '--disable-component-update', '--disable-sync'],
    ],
  });
}, 60_000);
afterAll(async () => {
  await browser?.close();
  rmSync(folder, { recursive: true, force: true });
});

const owned: AsyncDisposable[] = [];
afterEach(async () => {
  for (const each of owned.splice(0).reverse()) await each[Symbol.asyncDispose]();
});

async function open(canvas: Canvas): Promise<{ page: Page; machine: FakeMachine; view: View }> {
  const machine = new FakeMachine(canvas);
  const view = await View.start(machine, { port: 0 });
  const page = await browser.newPage();
  owned.push(view, { [Symbol.asyncDispose]: () => page.close() });
  const complaints: string[] = [];
  page.on('pageerror', (error) => complaints.push(error.message));
  page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
  owned.push({
    async [Symbol.asyncDispose]() {
      expect(complaints).toEqual([]);
    },
  });
  await page.goto(view.url);
  return { page, machine, view };
}

/** A canvas with the guest's own picture. */
function picture(width: number, height: number): Canvas {
  const canvas = new Canvas(width, height);
  const { rgba } = guestPicture(width, height);
  for (let i = 0; i < rgba.length; i += 4)
    canvas.pixels.set([rgba[i + 2] as number, rgba[i + 1] as number, rgba[i] as number, 0], i);
  return canvas;
}

const shown = async (page: Page): Promise<Uint8Array> => {
  const text = await page.evaluate(`(() => {
    const canvas = document.getElementById('screen');
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    let text = '';
    for (let i = 0; i < data.length; i += 8192) text += String.fromCharCode(...data.subarray(i, i + 8192));
    return btoa(text);
  })()`);
  return Buffer.from(text as string, 'base64');
};

const equals = (bytes: Uint8Array, canvas: Canvas): boolean => Buffer.compare(bytes, canvas.rgba) === 0;
const untilShown = (page: Page, canvas: Canvas) =>
  expect.poll(async () => equals(await shown(page), canvas), { timeout: 20_000 }).toBe(true);
const status = (page: Page) => page.locator('#status').textContent();

test('the canvas shows the video memory pixel for pixel, and follows it', async () => {
  const canvas = picture(1024, 768);
  const { page, machine } = await open(canvas);
  await untilShown(page, canvas);
  expect(await status(page)).toBe('1024 × 768');
  for (const colour of [0xff0000, 0x00ff00, 0x0102fe]) {
    canvas.fill(colour, 500, 300, 200, 100);
    await untilShown(page, canvas);
  }
  const other = picture(333, 77);
  machine.picture = other;
  await untilShown(page, other);
  expect(await status(page)).toBe('333 × 77');
});

test('pausing freezes the picture, and afterwards the page catches up', async () => {
  const canvas = picture(320, 200);
  const { page } = await open(canvas);
  await untilShown(page, canvas);
  const before = await shown(page);
  await page.getByRole('button', { name: 'Pause' }).click();
  canvas.fill(0xabcdef, 0, 0, 100, 100);
  await page.waitForTimeout(300);
  expect(Buffer.compare(await shown(page), before)).toBe(0);
  const button = page.getByRole('button', { name: 'Go on' });
  expect(await button.getAttribute('aria-pressed')).toBe('true');
  await button.click();
  await untilShown(page, canvas);
});

test('Save PNG saves what the page shows, even while it is paused', async () => {
  const canvas = picture(320, 200);
  const { page } = await open(canvas);
  await untilShown(page, canvas);
  await page.getByRole('button', { name: 'Pause' }).click();
  const expected = Buffer.from(canvas.rgba);
  canvas.fill(0);
  const download = page.waitForEvent('download');
  await page.getByRole('button', { name: 'Save PNG' }).click();
  const path = join(folder, 'saved.png');
  await (await download).saveAs(path);
  expect((await download).suggestedFilename()).toBe('tsvisor.png');
  const saved = PNG.sync.read(readFileSync(path));
  expect([saved.width, saved.height]).toEqual([320, 200]);
  expect(Buffer.compare(saved.data, expected)).toBe(0);
});

test('frames per second are counted, and an open page reports the end of the guest', async () => {
  const canvas = picture(320, 200);
  const { page, machine, view } = await open(canvas);
  await untilShown(page, canvas);
  let colour = 0;
  const drawing = setInterval(() => canvas.fill(++colour, 0, 0, 10, 10), 20);
  try {
    await expect.poll(() => page.locator('#rate').textContent()).toMatch(/^[1-9]\d* fps$/);
  } finally {
    clearInterval(drawing);
  }
  canvas.fill(0x445566);
  machine.end();
  await machine.finished;
  await view[Symbol.asyncDispose]();
  await expect.poll(() => status(page)).toBe('The guest has ended');
  expect(equals(await shown(page), canvas)).toBe(true);
  expect(await page.getByRole('button', { name: 'Save PNG' }).isEnabled()).toBe(true);
});

test('a server that disappears without a message is noticed', async () => {
  const { page, view } = await open(picture(64, 32));
  await expect.poll(() => status(page)).toBe('64 × 32');
  owned.pop(); // the browser will report an error
  await view[Symbol.asyncDispose]();
  await expect.poll(() => status(page)).toMatch(/ended, or tsvisor was stopped/);
});
