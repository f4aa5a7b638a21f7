/** A screen that follows the window of the page, in a real browser: what sizes reach the machine. */
import type { Page } from 'playwright-core';
import { expect, test } from 'vitest';
import { FakeControlledMachine } from '../testing/controlled-machine.js';
import type { DisplayName } from './messages.js';
import type { ScreenSize } from './screen-size.js';
import { browserForTests } from './testing/browser.js';
import { Canvas, FakeMachine as Pictured } from './testing/page.js';

const { open } = browserForTests();
const until = { timeout: 60_000 };
/** A window has kept its size for longer than the page waits. */
const SETTLED_MS = 1000;

/** A machine with two screens of a device in slot 3, one of which cannot be given another size. */
class FakeMachine extends FakeControlledMachine {
  readonly pictured = new Pictured(new Canvas(640, 400));
  /** The second, as long as it can be resized. */
  largest: ScreenSize | undefined = { width: 4095, height: 4095 };
  /** Whether there is a device. */
  isThere = true;
  displays = async (): Promise<readonly DisplayName[]> => {
    const { largest } = this;
    const second = {
      slot: 3,
      name: 'second',
      head: 1,
      ...(largest && { largest }),
    };
    return this.isThere ? [{ slot: 3, name: 'first' }, second] : [];
  };
  capture = (slot?: number, into?: Uint8Array) => this.pictured.capture(slot, into);
}

const button = (page: Page) => page.getByRole('button', { name: 'to the window' });

async function opened(machine: FakeMachine): Promise<{ page: Page; complaints: string[] }> {
  const { page, complaints } = await open(machine);
  await page.setViewportSize({ width: 1300, height: 800 });
  await button(page).waitFor(until);
  return { page, complaints };
}

/** Of the screen's place, in pixels of the guest: whole columns of 8. */
async function room(page: Page): Promise<string> {
  const [width, height] = (await page.evaluate(`(() => {
    const place = document.querySelectorAll('figure .place')[1];
    const limit = parseFloat(getComputedStyle(place).maxHeight);
    return [place.clientWidth, limit];
  })()`)) as [number, number];
  return `resize 3 ${width - (width % 8)}x${Math.floor(height)} 1`;
}

test('a screen follows the window once that keeps a size, as long as a person wants it, and no other screen does', async () => {
  const machine = new FakeMachine();
  const { page } = await opened(machine);
  expect(await button(page).count()).toBe(1);
  await page.setViewportSize({ width: 1200, height: 700 });
  await page.waitForTimeout(SETTLED_MS);
  expect(machine.calls, 'before it is wanted').toEqual([]);

  await button(page).focus();
  await page.keyboard.press('Space');
  expect(await button(page).getAttribute('aria-pressed')).toBe('true');
  const sizes = [await room(page)];
  await expect.poll(() => machine.calls, until).toEqual(sizes);
  for (const [width, height] of [
    [1000, 700],
    [1400, 900],
  ] as const) {
    await page.setViewportSize({ width, height });
    sizes.push(await room(page));
    await expect.poll(() => machine.calls, until).toEqual(sizes);
  }
  expect(new Set(sizes).size).toBe(3);

  await button(page).click();
  expect(await button(page).getAttribute('aria-pressed')).toBe('false');
  await page.setViewportSize({ width: 900, height: 800 });
  await page.waitForTimeout(SETTLED_MS);
  expect(machine.calls).toEqual(sizes);
});

test('a size that is refused is said at the picture until one is taken', async () => {
  const machine = new FakeMachine();
  const { page, complaints } = await opened(machine);
  machine.failure = new Error('the device is gone');
  await button(page).click();
  const alert = page.locator('figure p[role=alert]');
  await expect
    .poll(() => alert.allTextContents(), until)
    .toEqual(['the screen keeps its size: the device is gone']);
  machine.failure = undefined;
  await page.setViewportSize({ width: 1000, height: 600 });
  await expect.poll(() => alert.count(), until).toBe(0);
  expect(complaints.splice(0).every((text) => text.includes('500'))).toBe(true); // the browser's
});

test('a size is at most what the device can have, however large the window is', async () => {
  const machine = new FakeMachine();
  machine.largest = { width: 500, height: 300 };
  const { page } = await opened(machine);
  await button(page).click();
  await expect.poll(() => machine.calls, until).toEqual(['resize 3 496x300 1']);
  await page.setViewportSize({ width: 1500, height: 1000 });
  await page.waitForTimeout(SETTLED_MS);
  expect(machine.calls).toHaveLength(1);
});

test('while the machine has not answered, no further size is sent; then the one that the window has', async () => {
  const machine = new FakeMachine();
  const waiting: (() => void)[] = [];
  const { resize } = machine;
  machine.resize = async (slot, size, head) => {
    await resize(slot, size, head);
    await new Promise<void>((answer) => waiting.push(answer));
  };
  const { page } = await opened(machine);
  await button(page).click();
  const sizes = [await room(page)];
  await expect.poll(() => machine.calls, until).toEqual(sizes);
  for (const width of [1000, 1100]) {
    await page.setViewportSize({ width, height: 700 });
    await page.waitForTimeout(SETTLED_MS);
  }
  expect(machine.calls, 'before the answer').toEqual(sizes);
  waiting.shift()?.();
  sizes.push(await room(page));
  await expect.poll(() => machine.calls, until).toEqual(sizes);
  waiting.shift()?.();
});

test('the choice stays with a display that goes and comes back, and what comes back is told the size', async () => {
  const machine = new FakeMachine();
  const { page } = await opened(machine);
  await button(page).click();
  const size = await room(page);
  await expect.poll(() => machine.calls, until).toEqual([size]);

  machine.isThere = false; // as a device that is detached
  await expect.poll(() => page.locator('figure').count(), until).toBe(0);
  machine.isThere = true;
  await expect.poll(() => machine.calls, until).toEqual([size, size]);
  expect(await button(page).getAttribute('aria-pressed')).toBe('true');

  const { largest } = machine;
  machine.largest = undefined; // as a served display whose client has left
  await expect.poll(() => button(page).count(), until).toBe(0);
  await page.setViewportSize({ width: 1000, height: 700 });
  await page.waitForTimeout(SETTLED_MS);
  expect(machine.calls, 'while it cannot be').toHaveLength(2);
  machine.largest = largest;
  await expect.poll(() => machine.calls, until).toEqual([size, size, await room(page)]);
});

test('a machine that starts again has its screen’s first size, and is told the window’s', async () => {
  const machine = new FakeMachine();
  const { page } = await opened(machine);
  await button(page).click();
  const size = await room(page);
  await expect.poll(() => machine.calls, until).toEqual([size]);
  machine.restarts++;
  await expect.poll(() => machine.calls, until).toEqual([size, size]);
});

test('a guest that sets each size is asked once for it: the place on the page does not follow the picture', async () => {
  const machine = new FakeMachine();
  const { resize } = machine;
  machine.resize = async (slot, size, head) => {
    await resize(slot, size, head);
    machine.pictured.picture = new Canvas(size.width, size.height);
  };
  const { page } = await opened(machine);
  const shown = () =>
    page.evaluate("[...document.querySelectorAll('figure canvas')].map((c) => c.width + 'x' + c.height)[1]");
  await button(page).click();
  const sizes: string[] = [];
  for (const [width, height] of [
    [1300, 800],
    [1200, 500],
    [1400, 900],
  ] as const) {
    await page.setViewportSize({ width, height });
    sizes.push(await room(page));
    await expect.poll(async () => `resize 3 ${await shown()} 1`, until).toBe(sizes.at(-1));
    await page.waitForTimeout(SETTLED_MS);
    expect(machine.calls).toEqual(sizes);
  }
});

test('a size counts pixels of the person’s display, of which a pixel of the page has two by two', async () => {
  const machine = new FakeMachine();
  const { page } = await opened(machine);
  const devtools = await page.context().newCDPSession(page);
  const metrics = { width: 1300, height: 800, deviceScaleFactor: 2, mobile: false };
  await devtools.send('Emulation.setDeviceMetricsOverride', metrics);
  const [, width, height] = /(\d+)x(\d+)/.exec(await room(page)) as RegExpExecArray;
  await button(page).click();
  await expect.poll(() => machine.calls.length, until).toBe(1);
  const [, asked, lines] = /(\d+)x(\d+)/.exec(machine.calls[0] as string) as RegExpExecArray;
  expect([Number(lines), Number(asked) % 8]).toEqual([2 * Number(height), 0]);
  expect(Number(asked) - 2 * Number(width)).toBeGreaterThanOrEqual(0);
  expect(Number(asked) - 2 * Number(width)).toBeLessThan(16);
});
