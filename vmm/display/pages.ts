import type { FrameHead } from './frame-head.js';
import { type Frame, type Frames, LOOK_EVERY_MS } from './frames.js';
import type { Area } from './pixels.js';

/** Maximum pages served at once. */
export const MOST_PAGES = 8;
/** A page that has not sent a request for this long is considered closed. */
const PAGE_LIVES_MS = 10_000;
/** How long a request waits for a change. */
const ANSWER_AFTER_MS = 1000;
/** A page that has not asked for this long at the end, being hidden or frozen, is not waited for. */
const ASKS_WITHIN_MS = 4000;

const ENDED = 'The guest has ended';

/** One open page. */
export interface Page {
  /** What it has of each display. */
  shown: ReadonlyMap<Frame, { readonly version: number; readonly text: string | undefined }>;
  /** Whether it has said that it has what was last. */
  isDone: boolean;
  isServed: boolean;
  askedAt: number;
}

/** The open pages, and the messages that bring each up to date, at its own pace. Main thread only. */
export class Pages {
  readonly #frames: Frames;
  readonly #pages = new Map<string, Page>();
  /** Set once no further picture follows. */
  isEnded = false;

  constructor(frames: Frames) {
    this.#frames = frames;
  }

  /** A page by the name that it gave itself; undefined if too many are open. */
  find(client: string): Page | undefined {
    const now = Date.now();
    for (const [name, { askedAt, isServed }] of this.#pages)
      if (!isServed && now - askedAt > PAGE_LIVES_MS) this.#pages.delete(name);
    const known = this.#pages.get(client);
    if (known !== undefined) return known;
    if (this.#pages.size >= MOST_PAGES) return undefined;
    const page: Page = {
      shown: new Map(),
      isDone: false,
      isServed: false,
      askedAt: now,
    };
    this.#pages.set(client, page);
    return page;
  }

  /** Whether a page is open that lacks what was last. */
  get isAnyWaiting(): boolean {
    const now = Date.now();
    return [...this.#pages.values()].some(({ isDone, askedAt }) => !isDone && now - askedAt < ASKS_WITHIN_MS);
  }

  /** Waits up to a second for something new for the page. @param isGone whether nobody reads the message any more */
  async message(page: Page, isGone: () => boolean): Promise<Uint8Array> {
    const askedAt = performance.now();
    for (;;) {
      const wasEnded = this.isEnded;
      await this.#frames.refresh(wasEnded);
      const message = this.#news(page, askedAt);
      if (message !== undefined) return message;
      if (wasEnded) return encode({ ended: ENDED, displays: this.#displays() }, []);
      if (performance.now() - askedAt >= ANSWER_AFTER_MS || isGone())
        return encode({ displays: this.#displays() }, []);
      await delay(LOOK_EVERY_MS);
    }
  }

  #displays(): FrameHead['displays'] {
    return this.#frames.list.map(({ display }) => display);
  }

  /** What is new for the page, if anything. */
  #news(page: Page, askedAt: number): Uint8Array | undefined {
    const pixels: Uint8Array[] = [];
    const shown = new Map<Frame, { version: number; text: string | undefined }>();
    let isNew = false;
    const displays = this.#frames.list.map((frame) => {
      const { display, changes, text } = frame;
      const had = page.shown.get(frame);
      isNew ||= had === undefined;
      // After a text, the next picture is sent whole.
      if (text !== undefined) {
        shown.set(frame, { version: 0, text });
        if (had?.text === text) return display;
        isNew = true;
        return { ...display, text };
      }
      const update = changes.since(had?.version ?? 0);
      shown.set(frame, { version: update?.version ?? had?.version ?? 0, text });
      if (update === undefined) return display;
      isNew = true;
      const { width, height, areas, drawnAfter } = update;
      for (const area of areas) pixels.push(changes.pixelsOf(area));
      const picture = { ...display, width, height, areas: areas.map(numbersOf) };
      // A page that had no picture is shown one that may be old.
      if (drawnAfter === undefined || !had?.version) return picture;
      return { ...picture, drawnBeforeMs: Math.round(askedAt - drawnAfter) };
    });
    isNew ||= shown.size !== page.shown.size;
    page.shown = shown;
    return isNew ? encode({ displays }, pixels) : undefined;
  }
}

const numbersOf = ({ x, y, width, height }: Area) => [x, y, width, height] as const;

function encode(head: FrameHead, pixels: readonly Uint8Array[]): Uint8Array {
  const text = Buffer.from(JSON.stringify(head));
  const bytes = Math.ceil(text.length / 4) * 4;
  const padded = Buffer.alloc(4 + bytes, ' ');
  padded.writeUInt32LE(bytes);
  padded.set(text, 4);
  return Buffer.concat([padded, ...pixels]);
}

const delay = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
