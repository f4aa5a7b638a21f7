/** Screens that follow the window: the guest is told to have its screen the size of the place that its picture has. */
import type { Picture } from './pictures.js';
import { call, textOf } from './server.js';

/** A window that is being resized has kept a size for so long. */
const SETTLED_MS = 300;
const LEAST = { width: 320, height: 200 };
/** What an EDID can tell. */
const MOST = 4095;
/** Modes have lines of a multiple of so many pixels. */
const COLUMN = 8;

interface Screen {
  readonly picture: Picture;
  readonly place: HTMLElement;
  timer?: ReturnType<typeof setTimeout>;
  /** The size that was asked for last. */
  asked: string;
}

/** Which screens follow the window, each by a person's choice. Sizes are sent once the window keeps one, one request at a time. */
export class ScreenFit {
  readonly #changed: () => void;
  readonly #screens = new Map<Picture, Screen>();
  readonly #errors = new Map<Picture, string>();
  readonly #observer: ResizeObserver;

  /** @param changed called when {@link errorOf} has changed */
  constructor(changed: () => void) {
    this.#changed = changed;
    this.#observer = new ResizeObserver(() => this.#look());
    addEventListener('resize', () => this.#look());
  }

  isOn(picture: Picture): boolean {
    return this.#screens.has(picture);
  }

  /** Why its last size was refused. */
  errorOf(picture: Picture): string {
    return this.#errors.get(picture) ?? '';
  }

  /** @param place what contains the picture, and takes all of the width that there is */
  toggle(picture: Picture, place: HTMLElement): void {
    const screen = this.#screens.get(picture);
    this.#errors.delete(picture);
    if (screen === undefined) {
      this.#screens.set(picture, { picture, place, asked: '' });
      this.#observer.observe(place);
    } else this.leave(picture);
    this.#changed();
  }

  /** The picture is gone. */
  leave(picture: Picture): void {
    const screen = this.#screens.get(picture);
    if (screen === undefined) return;
    clearTimeout(screen.timer);
    this.#observer.unobserve(screen.place);
    this.#screens.delete(picture);
  }

  #look(): void {
    for (const screen of this.#screens.values()) {
      clearTimeout(screen.timer);
      screen.timer = setTimeout(() => void this.#ask(screen), SETTLED_MS);
    }
  }

  async #ask(screen: Screen): Promise<void> {
    const { picture, place } = screen;
    const { width, height } = sizeOf(place);
    const size = `${width}x${height}`;
    if (size === screen.asked || width < LEAST.width || height < LEAST.height) return;
    screen.asked = size;
    let error = '';
    try {
      await call('PUT', `devices/${picture.slot}/size`, { width, height, head: picture.head });
    } catch (refusal) {
      error = `the screen keeps its size: ${textOf(refusal)}`;
    }
    if (!this.#screens.has(picture) || error === this.errorOf(picture)) return;
    this.#errors.set(picture, error);
    this.#changed();
  }
}

/** The pixels of a picture that fills its place: as wide as that, and as high as the style sheet lets a picture be. */
function sizeOf(place: HTMLElement): { width: number; height: number } {
  const limit = Number.parseFloat(getComputedStyle(place).getPropertyValue('max-height'));
  const pixels = (css: number) => Math.min(MOST, Math.floor(css * devicePixelRatio));
  const width = pixels(place.clientWidth);
  return { width: width - (width % COLUMN), height: pixels(limit) };
}
