/** A person at the page of served devices: Chromium shows a guest's picture, and is typed and pointed at. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Page } from 'playwright-core';
import { headless } from '../vmm/display/testing/chromium.js';
import { View } from '../vmm/display/view.js';
import type { DeviceServer } from '../vmm/index.js';
import { parseL2Events } from './l2-input.js';
import { wrongBytes } from './l2-picture.js';
import { slowdown } from './patience.js';

const MOST_MS = 30_000;

/** KEY_ numbers of what is pressed: `KeyboardEvent.code`, or several with `+`, which are held while the last one is pressed. */
const PRESSED: readonly (readonly [keys: string, codes: readonly number[]])[] = [
  ['KeyA', [30]],
  ['Shift+Digit1', [42, 2]],
  ['Tab', [15]],
  ['F5', [63]],
  ['ArrowLeft', [105]],
];
/** Where the pointer goes, in parts of the picture, and the tablet's axes for it. */
const PLACE = { x: 0.25, y: 0.75 };
const AXIS = 32_767;
const BTN_LEFT = 0x110;

const SYN = '0 0 0';
const keyLines: readonly string[] = PRESSED.flatMap(([, codes]) => [
  ...codes.flatMap((code) => [`1 ${code} 1`, SYN]),
  ...codes.toReversed().flatMap((code) => [`1 ${code} 0`, SYN]),
]).map((line) => `tsvisor-keyboard ${line}`);
const buttonLines = [`1 ${BTN_LEFT} 1`, SYN, `1 ${BTN_LEFT} 0`, SYN].map((line) => `tsvisor-tablet ${line}`);
/** A position is two axes and a SYN_REPORT. */
const POSITION_LINES = 3;
/** How many events the guest's check waits for. */
export const DESKTOP_EVENTS = keyLines.length + POSITION_LINES + buttonLines.length;

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
    return wrong + (await wrongEvents(page, output));
  } finally {
    await browser.close();
  }
}

async function wrongEvents(page: Page, output: () => string): Promise<number> {
  const end = performance.now() + MOST_MS * slowdown();
  const arrived = async (count: number): Promise<string[]> => {
    while (parseL2Events(output()).length < count && performance.now() < end) await sleep(20);
    return parseL2Events(output());
  };
  const canvas = page.locator('figure canvas');
  const box = await canvas.boundingBox();
  if (box === null) throw new Error('the page shows no picture');
  await canvas.focus();
  for (const [keys] of PRESSED) await page.keyboard.press(keys);
  await arrived(keyLines.length); // the tablet is another file of the guest, which is read in no order with this one
  await page.mouse.move(box.x + PLACE.x * box.width, box.y + PLACE.y * box.height);
  await arrived(keyLines.length + POSITION_LINES);
  await page.mouse.down();
  await page.mouse.up();
  const got = await arrived(DESKTOP_EVENTS);
  const [x, y, syn] = got.slice(keyLines.length, keyLines.length + POSITION_LINES);
  const isNear = (line: string | undefined, axis: number, part: number): boolean => {
    const value = Number(line?.split(`tsvisor-tablet 3 ${axis} `)[1]);
    return Math.abs(value - part * AXIS) < AXIS / 100;
  };
  const wrongPlace = [isNear(x, 0, PLACE.x), isNear(y, 1, PLACE.y), syn === `tsvisor-tablet ${SYN}`].filter(
    (is) => !is,
  ).length;
  const differing = (wanted: readonly string[], from: number): number =>
    wanted.filter((line, i) => got[from + i] !== line).length;
  return (
    wrongPlace +
    differing(keyLines, 0) +
    differing(buttonLines, keyLines.length + POSITION_LINES) +
    Math.max(0, got.length - DESKTOP_EVENTS)
  );
}
