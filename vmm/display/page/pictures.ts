import type { FrameHead } from '../frame-head.js';
import { ask, textOf } from './server.js';

type ShownDisplay = FrameHead['displays'][number];

/** A frame of a picture. */
interface ShownFrame {
  /** When it was drawn here, milliseconds of performance.now(). */
  readonly at: number;
  /** How long before that the guest had drawn it, at most, milliseconds; undefined if unknown. */
  readonly latencyMs: number | undefined;
}

/** One display as it is shown. */
export interface Picture {
  readonly slot: number;
  /** Which screen of its device, from 0 on. */
  readonly head: number;
  /** The largest size that the host can give it, pixels; undefined if it keeps its own. */
  largest: ShownDisplay['largest'];
  readonly name: string;
  readonly canvas: HTMLCanvasElement;
  /** Shown instead of a picture, or why the last one is not live. */
  text: string;
  /** Its last frames, of the last second. */
  frames: ShownFrame[];
  hasPicture: boolean;
}

/** Follows the pictures of all displays until the guest has ended. */
export class Pictures {
  readonly #changed: () => void;
  #list: Picture[] = [];
  /** Why no further picture follows. */
  end: string | undefined;
  #thaw: (() => void) | undefined;
  #thawed = Promise.resolve();

  /** @param changed called when anything but the pixels has changed */
  constructor(changed: () => void) {
    this.#changed = changed;
  }

  get list(): readonly Picture[] {
    return this.#list;
  }

  get isFrozen(): boolean {
    return this.#thaw !== undefined;
  }

  /** Keeps the pictures as they are, or goes on. */
  freeze(isFrozen: boolean): void {
    if (isFrozen === this.isFrozen) return;
    if (isFrozen)
      this.#thawed = new Promise((resolve) => {
        this.#thaw = resolve;
      });
    else {
      this.#thaw?.();
      this.#thaw = undefined;
    }
    this.#changed();
  }

  async follow(): Promise<void> {
    try {
      while (this.end === undefined) {
        await this.#thawed;
        const askedAt = performance.now();
        const buffer = await (await ask('frame')).arrayBuffer();
        const isLate = this.isFrozen;
        await this.#thawed; // what came while frozen is shown after it
        this.#take(buffer, isLate ? undefined : askedAt);
        await new Promise(requestAnimationFrame);
      }
    } catch (error) {
      this.end = textOf(error);
    }
    this.#changed();
  }

  /** @param askedAt when it was asked for; undefined if its pictures were held back here */
  #take(buffer: ArrayBuffer, askedAt: number | undefined): void {
    const [bytes = 0] = new Uint32Array(buffer, 0, 1);
    const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, bytes))) as FrameHead;
    let at = 4 + bytes;
    this.#list = head.displays.map((display) => {
      const { text, width = 0, height = 0, areas, drawnBeforeMs } = display;
      const picture = this.#find(display) ?? createPicture(display);
      picture.largest = display.largest;
      if (text !== undefined) picture.text = text;
      if (areas === undefined) return picture;
      const { canvas } = picture;
      // Setting the size clears the canvas.
      if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
      const context = canvas.getContext('2d', { alpha: false });
      for (const [x, y, w, h] of areas) {
        context?.putImageData(new ImageData(new Uint8ClampedArray(buffer, at, 4 * w * h), w, h), x, y);
        at += 4 * w * h;
      }
      const now = performance.now();
      const isKnown = askedAt !== undefined && drawnBeforeMs !== undefined;
      picture.frames.push({ at: now, latencyMs: isKnown ? now - askedAt + drawnBeforeMs : undefined });
      return Object.assign(picture, { text: '', hasPicture: true });
    });
    this.end = head.ended;
    this.#changed();
  }

  #find({ slot, name }: ShownDisplay): Picture | undefined {
    return this.#list.find((each) => each.slot === slot && each.name === name);
  }
}

function createPicture({ slot, name, head = 0, largest }: ShownDisplay): Picture {
  const canvas = document.createElement('canvas');
  canvas.setAttribute('role', 'img');
  canvas.setAttribute('aria-label', `What ${name} shows`);
  return {
    slot,
    name,
    head,
    largest,
    canvas,
    text: 'Waiting for the guest',
    frames: [],
    hasPicture: false,
  };
}
