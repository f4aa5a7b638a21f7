/** The page of `tsvisor serve --view`, beside QEMU's own display card with VNC: the same guest under QEMU 11, on this machine. */
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { headless } from '../vmm/display/testing/chromium.js';
import type { Contest } from './contest.js';
import { numberIn } from './frame-number.js';
import { prepare } from './images.js';
import { slowdown } from './patience.js';
import { clientOf } from './qemu11.js';
import { RfbClient, type Updated } from './rfb.js';
import { Scratch } from './scratch.js';
import { ServeProcess } from './serve-process.js';
import { runSteps } from './step.js';
import { qemu11, userlandStep } from './userland.js';
import { type Seen, type ViewFigures, viewFigures, viewRows } from './view-figures.js';
import { FramesClient } from './view-frames.js';
import { buildInitramfs, clock, HEIGHT, ViewGuest, WIDTH } from './view-guest.js';

const READY_MS = 20_000;

/** A viewer while it looks; `seen` is read once the guest has drawn. */
interface Viewer extends AsyncDisposable {
  seen(): Promise<readonly Seen[]>;
}

/** Notes each number once, when it is first there. */
function notes(): { seen: Seen[]; note: Updated } {
  const seen: Seen[] = [];
  const note: Updated = (pixels, stride) => {
    const number = numberIn(pixels, stride);
    if (number !== undefined && seen.at(-1)?.number !== number) seen.push({ number, at: clock() });
  };
  return { seen, note };
}

/** @param follow until {@link stop}, or a failure, which `seen` reports */
function viewer(follow: (updated: Updated) => Promise<never>, stop: () => void): Viewer {
  const { seen, note } = notes();
  const failed = follow(note).catch((error: Error) => error);
  return {
    seen: () => Promise.race([failed.then((error) => Promise.reject(error)), sleep(0, seen)]),
    async [Symbol.asyncDispose]() {
      stop();
      await failed;
    },
  };
}

async function vncViewer(path: string): Promise<Viewer> {
  const stream = connect(path);
  const client = await RfbClient.connect(stream);
  return viewer(
    (updated) => client.follow(updated),
    () => stream.destroy(),
  );
}

async function framesViewer(url: string): Promise<Viewer> {
  const client = new FramesClient(url);
  return viewer(
    (updated) => client.follow(updated),
    () => client.stop(),
  );
}

/** The page in Chromium. A script looks at the canvas before each of its presentations, of which it has 60 a second. */
async function pageViewer(url: string): Promise<Viewer> {
  const { chromium } = await import('playwright-core'); // only now: most commands of the lab need none
  const browser = await chromium.launch(headless);
  try {
    const page = await browser.newPage();
    await page.goto(url);
    await page.waitForSelector('canvas', { timeout: READY_MS * slowdown() });
    await page.evaluate(`{
      const numberIn = ${numberIn.toString()};
      const seen = (globalThis.seenNumbers = []);
      const look = () => {
        const canvas = document.querySelector('canvas');
        if (canvas !== null && canvas.width >= 64 && canvas.height >= 32) {
          const number = numberIn(canvas.getContext('2d').getImageData(0, 0, 64, 32).data, 256);
          if (number !== undefined && seen.at(-1)?.number !== number)
            seen.push({ number, at: performance.timeOrigin + performance.now() });
        }
        requestAnimationFrame(look);
      };
      look();
    }`);
    return {
      seen: () => page.evaluate('globalThis.seenNumbers') as Promise<readonly Seen[]>,
      [Symbol.asyncDispose]: () => browser.close(),
    };
  } catch (error) {
    await browser.close();
    throw error;
  }
}

/** Boots a guest with QEMU's arguments for a card, lets a viewer look, and the guest draw. */
async function watch(
  folder: string,
  card: readonly string[],
  open: () => Promise<Viewer>,
): Promise<ViewFigures> {
  const initrd = join(folder, 'initrd');
  await buildInitramfs(initrd);
  await using guest = await ViewGuest.boot(initrd, card);
  await using viewer = await open();
  const drawn = await guest.draw();
  return viewFigures(drawn, await viewer.seen());
}

async function prepared(): Promise<Scratch> {
  await prepare();
  await runSteps([userlandStep(qemu11)]);
  return Scratch.create();
}

async function ours(open: (url: string) => Promise<Viewer>): Promise<ViewFigures> {
  using scratch = await prepared();
  const path = join(scratch.folder, 'card.sock');
  const device = `virtio-gpu,width=${WIDTH},height=${HEIGHT}`;
  await using server = await ServeProcess.start([device, '--socket', path, '--view']);
  const url = await server.says(/http:\/\/127\.0\.0\.1:\d+\/[\w-]+\//);
  return await watch(scratch.folder, ['-display', 'none', ...clientOf(path)], () => open(url));
}

async function theirs(): Promise<ViewFigures> {
  using scratch = await prepared();
  const path = join(scratch.folder, 'vnc.sock');
  const card = ['-device', `virtio-gpu-pci,xres=${WIDTH},yres=${HEIGHT}`, '-vnc', `unix:${path}`];
  return await watch(scratch.folder, card, () => vncViewer(path));
}

/** The page, its protocol without a browser, and VNC without one. */
export const view: Contest = {
  name: 'view',
  sides: [
    { name: 'page in Chromium', measure: () => ours(pageViewer) },
    { name: 'VNC client', measure: theirs },
    { name: "page's protocol", measure: () => ours(framesViewer) },
  ],
  pairs: [
    ['page in Chromium', 'VNC client'],
    ["page's protocol", 'VNC client'],
  ],
  rows: viewRows,
};
