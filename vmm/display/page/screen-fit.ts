/** Screens that follow the window: the guest is told to have its screen the size of the place that its picture has. */
import type { Picture } from './pictures.js';
import { call, textOf } from './server.js';

/** A window that is being resized has kept a size for so long. */
const SETTLED_MS = 300;
const LEAST = { width: 320, height: 200 };
/** Modes have lines of a multiple of so many pixels. */
const COLUMN = 8;

/** A picture in its place on the page. */
interface Screen {
  readonly picture: Picture;
  readonly place: HTMLElement;
  timer?: ReturnType<typeof setTimeout>;
  /** The size that was asked for last. */
  asked: string;
  isAsking: boolean;
  /** The window has got another size since the request was sent. */
  isDue: boolean;
}

const nameOf = ({ slot, name }: Picture): string => `${slot} ${name}`;

/**
 * Which screens follow the window, each by a person's choice, which lasts as long as the page: also while the display is not there. Sizes
 * are sent once the window keeps one, one request at a time for each screen.
 */
export class ScreenFit {
  readonly #changed: () => void;
  readonly #chosen = new Set<string>();
  readonly #screens = new Map<Picture, Screen>();
  readonly #errors = new Map<Picture, string>();
  readonly #observer: ResizeObserver;
  #restarts = 0;

  /** @param changed called when {@link isOn} or {@link errorOf} has changed */
  constructor(changed: () => void) {
    this.#changed = changed;
    const look = () => {
      for (const screen of this.#screens.values()) this.#look(screen);
    };
    this.#observer = new ResizeObserver(look);
    addEventListener('resize', look);
  }

  isOn(picture: Picture): boolean {
    return this.#chosen.has(nameOf(picture));
  }

  /** Why its last size was refused. */
  errorOf(picture: Picture): string {
    return this.#errors.get(picture) ?? '';
  }

  toggle(picture: Picture): void {
    const name = nameOf(picture);
    this.#errors.delete(picture);
    if (!this.#chosen.delete(name)) this.#chosen.add(name);
    const screen = this.#screens.get(picture);
    if (screen !== undefined) this.#askAnew(screen);
    this.#changed();
  }

  /**
   * A picture that can be given another size is in its place, until the result is called.
   * @param place what contains the picture, and takes all of the width that there is
   */
  follow(picture: Picture, place: HTMLElement): () => void {
    const screen: Screen = { picture, place, asked: '', isAsking: false, isDue: false };
    this.#screens.set(picture, screen);
    this.#observer.observe(place); // which looks at it
    return () => {
      clearTimeout(screen.timer);
      this.#observer.unobserve(place);
      this.#screens.delete(picture);
      this.#errors.delete(picture);
    };
  }

  /** The machine has started so many times: its screens have their first size again. */
  update(restarts: number): void {
    if (restarts === this.#restarts) return;
    this.#restarts = restarts;
    for (const screen of this.#screens.values()) this.#askAnew(screen);
  }

  #askAnew(screen: Screen): void {
    screen.asked = '';
    this.#look(screen);
  }

  #look(screen: Screen): void {
    clearTimeout(screen.timer);
    if (this.isOn(screen.picture)) screen.timer = setTimeout(() => void this.#ask(screen), SETTLED_MS);
  }

  async #ask(screen: Screen): Promise<void> {
    if (screen.isAsking) {
      screen.isDue = true;
      return;
    }
    const { picture } = screen;
    const size = sizeOf(screen);
    if (size === undefined) return;
    const text = `${size.width}x${size.height}`;
    if (text === screen.asked) return;
    screen.asked = text;
    screen.isAsking = true;
    let error = '';
    try {
      await call('PUT', `devices/${picture.slot}/size`, { ...size, head: picture.head });
    } catch (refusal) {
      error = `the screen keeps its size: ${textOf(refusal)}`;
    }
    screen.isAsking = false;
    if (this.#screens.get(picture) !== screen || !this.isOn(picture)) return;
    if (screen.isDue) this.#look(screen);
    screen.isDue = false;
    if (error === this.errorOf(picture)) return;
    this.#errors.set(picture, error);
    this.#changed();
  }
}

/**
 * The pixels of a picture that fills its place: as wide as that, and as high as the style sheet lets a picture be, but not larger than
 * the device can have it. Undefined for a place that is too small for a screen.
 */
function sizeOf({ picture: { largest }, place }: Screen): { width: number; height: number } | undefined {
  if (largest === undefined) return undefined;
  const limit = Number.parseFloat(getComputedStyle(place).getPropertyValue('max-height'));
  const [width, height] = [place.clientWidth, limit].map((css) => Math.floor(css * devicePixelRatio)) as [
    number,
    number,
  ];
  if (!(width >= LEAST.width && height >= LEAST.height)) return undefined;
  const most = Math.min(width, largest.width);
  return { width: most < COLUMN ? most : most - (most % COLUMN), height: Math.min(height, largest.height) };
}
