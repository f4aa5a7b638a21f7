/** The page in a real browser: its pictures. It needs the page's script, which the build makes. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Page } from 'playwright-core';
import { PNG } from 'pngjs';
import { expect, test } from 'vitest';
import { guestPicture } from '../guest-picture.js';
import { browserForTests } from './testing/browser.js';
import { Canvas, FakeMachine } from './testing/page.js';

const { open: openPage, folder } = browserForTests();

async function open(canvas: Canvas) {
  const machine = new FakeMachine(canvas);
  return { ...(await openPage(machine)), machine };
}

/** A canvas with the guest's own picture. */
function picture(width: number, height: number): Canvas {
  const canvas = new Canvas(width, height);
  const { rgba } = guestPicture(width, height);
  for (let i = 0; i < rgba.length; i += 4)
    canvas.pixels.set([rgba[i + 2] as number, rgba[i + 1] as number, rgba[i] as number, 0], i);
  return canvas;
}

const shown = async (page: Page, slot = 3): Promise<Uint8Array> => {
  const text = await page.evaluate(`(() => {
    const canvas = document.querySelector('[data-slot="${slot}"] canvas');
    if (canvas === null) return '';
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    let text = '';
    for (let i = 0; i < data.length; i += 8192) text += String.fromCharCode(...data.subarray(i, i + 8192));
    return btoa(text);
  })()`);
  return Buffer.from(text as string, 'base64');
};

const equals = (bytes: Uint8Array, canvas: Canvas): boolean => Buffer.compare(bytes, canvas.rgba) === 0;
const untilShown = (page: Page, canvas: Canvas, slot?: number) =>
  expect.poll(async () => equals(await shown(page, slot), canvas), { timeout: 20_000 }).toBe(true);
const caption = (page: Page, slot = 3) => page.locator(`[data-slot="${slot}"] figcaption`).textContent();
const status = (page: Page) => page.locator('#status').textContent();
const until = { timeout: 20_000 };

test('the canvas shows the video memory pixel for pixel, and follows it', async () => {
  const canvas = picture(1024, 768);
  const { page, machine, hosts, view } = await open(canvas);
  await untilShown(page, canvas);
  await expect.poll(() => caption(page), until).toContain('00:03.0 card 1024 × 768');
  for (const colour of [0xff0000, 0x00ff00, 0x0102fe]) {
    canvas.fill(colour, 500, 300, 200, 100);
    await untilShown(page, canvas);
  }
  const other = picture(333, 77);
  machine.picture = other;
  await untilShown(page, other);
  await expect.poll(() => caption(page), until).toContain('333 × 77');
  expect([...hosts]).toEqual([new URL(view.url).host]);
});

test('two displays are side by side and fit into the window, and one that goes is gone', async () => {
  const [left, right] = [picture(400, 300), picture(200, 150)];
  const machine = new FakeMachine(left);
  machine.pictures.set(5, right);
  const { page } = await openPage(machine);
  await page.setViewportSize({ width: 900, height: 300 });
  await untilShown(page, left, 3);
  await untilShown(page, right, 5);
  const boxOf = async (slot: number) => {
    const box = await page.locator(`[data-slot="${slot}"] canvas`).boundingBox();
    if (box === null) throw new Error(`no canvas of slot ${slot} is visible`);
    return box;
  };
  const [one, other] = [await boxOf(3), await boxOf(5)];
  expect(one.x + one.width).toBeLessThan(other.x);
  for (const [box, aspect] of [
    [one, 4 / 3],
    [other, 4 / 3],
  ] as const) {
    expect(box.x).toBeGreaterThanOrEqual(0);
    expect(box.x + box.width).toBeLessThanOrEqual(900);
    expect(box.height).toBeLessThanOrEqual(300);
    expect(box.width / box.height).toBeCloseTo(aspect, 1);
  }
  machine.pictures.delete(3);
  await expect.poll(() => page.locator('figure').count(), until).toBe(1);
  expect(equals(await shown(page, 5), right)).toBe(true);
});

test('freezing keeps the pictures, and afterwards the page catches up; the keyboard suffices', async () => {
  const canvas = picture(320, 200);
  const { page } = await open(canvas);
  await untilShown(page, canvas);
  const before = await shown(page);
  const button = page.getByRole('button', { name: 'Freeze pictures' });
  await page.keyboard.press('Tab');
  expect(await page.evaluate('document.activeElement.textContent')).toBe('Freeze pictures');
  await page.keyboard.press('Space');
  expect(await button.getAttribute('aria-pressed')).toBe('true');
  canvas.fill(0xabcdef, 0, 0, 100, 100);
  await page.waitForTimeout(300);
  expect(Buffer.compare(await shown(page), before)).toBe(0);
  await page.keyboard.press('Space');
  expect(await button.getAttribute('aria-pressed')).toBe('false');
  await untilShown(page, canvas);
});

test('Save PNG saves what the page shows, even while it is frozen', async () => {
  const canvas = picture(320, 200);
  const { page } = await open(canvas);
  await untilShown(page, canvas);
  await page.getByRole('button', { name: 'Freeze pictures' }).click();
  const expected = Buffer.from(canvas.rgba);
  canvas.fill(0);
  const download = page.waitForEvent('download');
  await page.getByRole('button', { name: 'Save PNG of 00:03.0 card' }).click();
  const path = join(folder, 'saved.png');
  await (await download).saveAs(path);
  expect((await download).suggestedFilename()).toBe('tsvisor-3.png');
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
    await expect
      .poll(() => page.locator('.rate').textContent(), until)
      .toMatch(/^[1-9]\d* fps, ≤ [1-9]\d* ms$/);
  } finally {
    clearInterval(drawing);
  }
  canvas.fill(0x445566);
  machine.end();
  await machine.finished;
  await view[Symbol.asyncDispose]();
  await expect.poll(() => status(page), until).toBe('The guest has ended');
  expect(equals(await shown(page), canvas)).toBe(true);
  expect(await page.getByRole('button', { name: 'Save PNG' }).isEnabled()).toBe(true);
});

test('what lies between the guest’s drawing and the page is shown, with the time that reading the picture takes', async () => {
  const canvas = picture(320, 200);
  const { page, machine } = await open(canvas);
  await untilShown(page, canvas);
  const capture = machine.capture.bind(machine);
  const readsMs = 250;
  machine.capture = async (slot, into) => {
    const look = await capture(slot, into);
    await page.waitForTimeout(readsMs);
    return look;
  };
  let colour = 0;
  const drawing = setInterval(() => canvas.fill(++colour, 0, 0, 10, 10), 20);
  const shownMs = async () =>
    Number(/≤ (\d+) ms/.exec((await page.locator('.rate').textContent()) ?? '')?.[1]);
  try {
    await expect.poll(shownMs, until).toBeGreaterThanOrEqual(2 * readsMs); // drawn during one reading, read by the next
  } finally {
    clearInterval(drawing);
  }
});

test('a server that disappears without a message is noticed, and the last picture stays', async () => {
  const canvas = picture(64, 32);
  const { page, view, complaints } = await open(canvas);
  await untilShown(page, canvas);
  await view[Symbol.asyncDispose]();
  await expect.poll(() => status(page), until).toMatch(/ended, or tsvisor was stopped/);
  expect(equals(await shown(page), canvas)).toBe(true);
  expect(complaints.splice(0).join()).toContain('ERR_CONNECTION'); // the browser's
});
