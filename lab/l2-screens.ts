/** What L2's check `screens` shows: a picture and a cursor on each screen (lab/l2/drm.c), and their comparison. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { ScreenSize } from '../vmm/display/screen-size.js';
import { slowdown } from './patience.js';

const MOST_MS = 60_000;
/** The check sets the mode of so many. */
const HEADS = 2;
export const CURSOR_SIDE = 64;
/** Numbers a cursor's picture. */
const CURSOR_HEAD = 100;

/** Where the cursor of a screen is. */
export const cursorPlace = (head: number) => ({ x: 10 + head, y: 20 });

/** A pixel of a screen's picture, 24 bits. */
const pixelAt = (x: number, y: number, head: number): number =>
  (Math.imul(x, 0x10301) ^ Math.imul(y, 0x30107) ^ Math.imul(head, 0x55aa33)) & 0xff_ffff;

/** Red, green, blue, 255 per pixel of a screen with its cursor, which is opaque. */
export function expectedScreen(head: number, width: number, height: number): Uint8Array {
  const rgba = new Uint8Array(4 * width * height);
  const cursor = cursorPlace(head);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const [left, top] = [x - cursor.x, y - cursor.y];
      const isCursor = left >= 0 && left < CURSOR_SIDE && top >= 0 && top < CURSOR_SIDE;
      const pixel = isCursor ? pixelAt(left, top, head + CURSOR_HEAD) : pixelAt(x, y, head);
      rgba.set([pixel >> 16, (pixel >> 8) & 0xff, pixel & 0xff, 255], 4 * (y * width + x));
    }
  return rgba;
}

/** The latest mode of a screen that the check has set; undefined if none. */
export function parseL2Screen(output: string, head: number): ScreenSize | undefined {
  const match = [...output.matchAll(/^L2-SCREEN (\d) (\d+) (\d+)\r?$/gm)].findLast(
    ([, h]) => Number(h) === head,
  );
  return match === undefined ? undefined : { width: Number(match[2]), height: Number(match[3]) };
}

/** A picture as a host sees it. */
export interface ScreenPicture {
  readonly width: number;
  readonly height: number;
  readonly rgba: Uint8Array;
}

/** Looks at a screen until it is as it must be. Returns how many bytes of the last look are wrong, or -1 if it has never had that size. */
export async function wrongOnScreen(
  head: number,
  width: number,
  height: number,
  look: () => Promise<ScreenPicture>,
): Promise<number> {
  const expected = expectedScreen(head, width, height);
  const end = performance.now() + MOST_MS * slowdown();
  for (let wrong = -1; ; await sleep(100)) {
    const picture = await look().catch(() => undefined);
    if (picture !== undefined && picture.width === width && picture.height === height)
      wrong = picture.rgba.reduce((sum, byte, i) => sum + Number(byte !== expected[i]), 0);
    if (wrong === 0 || performance.now() > end) return wrong;
  }
}

/** Who looks at the screens of a card. */
export type LookAt = (head: number) => Promise<ScreenPicture>;

/** Compares the screens that the check has said to have set. Returns how many bytes are wrong; 1 for a screen without a mode. */
export async function compareScreens(output: string, look: LookAt): Promise<number> {
  let wrong = 0;
  for (let head = 0; head < HEADS; head++) {
    const mode = parseL2Screen(output, head);
    if (mode === undefined) return wrong + 1;
    wrong += Math.abs(await wrongOnScreen(head, mode.width, mode.height, () => look(head)));
  }
  return wrong;
}

/** Waits until the check has set that mode, as it does once a screen has been given that size. Returns whether it has. */
export async function follows(
  output: () => string,
  head: number,
  { width, height }: ScreenSize,
): Promise<boolean> {
  const isSet = () => {
    const mode = parseL2Screen(output(), head);
    return mode?.width === width && mode.height === height;
  };
  const end = performance.now() + MOST_MS * slowdown();
  while (!isSet() && performance.now() < end) await sleep(50);
  return isSet();
}
