/** A person at the page of served devices: Chromium shows a guest's picture, and is typed and pointed at. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Page } from 'playwright-core';
import { headless } from '../vmm/display/testing/chromium.js';
import { View } from '../vmm/display/view.js';
import type { DeviceServer } from '../vmm/index.js';
import { type Person, useDesk } from './l2-desktop.js';
import { wrongBytes } from './l2-picture.js';
import { slowdown } from './patience.js';

const MOST_MS = 30_000;

/**
 * Opens the page, compares the picture there with the guest's, and types. Returns how many bytes of the picture and how many events are
 * wrong.
 */
export async function useDesktop(server: DeviceServer, output: () => string): Promise<number> {
  const { chromium } = await import('playwright-core');
  await using view = await View.start(server, { port: 0 });
  const browser = await chromium.launch(headless);
  try {
    const page = await browser.newPage({ viewport: { width: 1400, height: 1000 } });
    await page.goto(view.url);
    await page.locator('figure .hint').waitFor({ timeout: MOST_MS * slowdown() });
    const picture = async () => {
      const url = await page.evaluate(`document.querySelector('figure canvas').toDataURL('image/png')`);
      await sleep(100);
      return Buffer.from((url as string).split(',')[1] ?? '', 'base64');
    };
    const wrong = await wrongBytes(output(), picture);
    return wrong + (await useDesk(await personAt(page), output));
  } finally {
    await browser.close();
  }
}

async function personAt(page: Page): Promise<Person> {
  const canvas = page.locator('figure canvas');
  const box = await canvas.boundingBox();
  if (box === null) throw new Error('the page shows no picture');
  await canvas.focus();
  return {
    press: ({ keys }) => page.keyboard.press(keys),
    point: (x, y) => page.mouse.move(box.x + x * box.width, box.y + y * box.height),
    async click() {
      await page.mouse.down();
      await page.mouse.up();
    },
  };
}
