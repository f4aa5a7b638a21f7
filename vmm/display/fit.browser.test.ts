/** A screen that follows the window of the page, in a real browser: what sizes reach the machine. */
import type { Page } from 'playwright-core';
import { expect, test } from 'vitest';
import { FakeControlledMachine } from '../testing/controlled-machine.js';
import { browserForTests } from './testing/browser.js';
import { Canvas, FakeMachine as Pictured } from './testing/page.js';

const { open } = browserForTests();
const until = { timeout: 60_000 };
/** A window has kept its size for longer than the page waits. */
const SETTLED_MS = 1000;

/** A machine with two screens of a device in slot 3, one of which cannot be given another size. */
class FakeMachine extends FakeControlledMachine {
  readonly #pictured = new Pictured(new Canvas(640, 400));
  displays = async () => [
    { slot: 3, name: 'first' },
    { slot: 3, name: 'second', head: 1, canResize: true } as const,
  ];
  capture = (slot?: number, into?: Uint8Array) => this.#pictured.capture(slot, into);
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
