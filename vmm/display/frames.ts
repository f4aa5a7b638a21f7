import { isErrno } from '../../sys/error.js';
import { Changes } from './changes.js';
import type { DisplayName } from './messages.js';
import type { Look } from './screens.js';

/** Pictures to show: of a VirtualMachine or a DeviceServer. */
export interface PictureSource {
  /** The displays, in slot order. */
  displays(): Promise<readonly DisplayName[]>;
  /**
   * A copy of a display's picture, of one frame.
   * @param into memory for the pixels, used if it has their size
   * @param head which screen of that display; the first if absent
   * @param since an earlier result: returned itself if the device says that it has drawn nothing since
   * @throws SysError ENODEV without such a display; ENODATA while it shows nothing; EINVAL for an unsupported picture
   */
  capture(slot: number | undefined, into?: Uint8Array, head?: number, since?: Look): Promise<Look>;
}

/** How often the picture is read, and how often the list of displays, at most. */
export const LOOK_EVERY_MS = 15;
const LIST_EVERY_MS = 500;
/** After a longer time without a look, it says nothing about when the guest drew what is new. */
const LOOKS_FOLLOW_MS = 1000;

const NOTHING = 'The guest shows nothing now';

/** One display: its last picture, or why there is none. */
export interface Frame {
  /** As it was listed last. */
  display: DisplayName;
  readonly changes: Changes;
  /** Shown instead of a picture. */
  text: string | undefined;
  /** When reading it last began, milliseconds of performance.now(). */
  lookedAt: number;
}

/** Runs an action for all who ask at a time, and not more often than every so many milliseconds. */
class Paced {
  readonly #everyMs: number;
  readonly #action: () => Promise<void>;
  #running: Promise<void> | undefined;
  #ranAt = Number.NEGATIVE_INFINITY;

  constructor(everyMs: number, action: () => Promise<void>) {
    this.#everyMs = everyMs;
    this.#action = action;
  }

  /** @param isNow runs it even if it has just run */
  async run(isNow: boolean): Promise<void> {
    while (isNow && this.#running !== undefined) await this.#running;
    if (!isNow && performance.now() - this.#ranAt < this.#everyMs) return this.#running;
    this.#running ??= this.#action().finally(() => {
      this.#ranAt = performance.now();
      this.#running = undefined;
    });
    return this.#running;
  }
}

/** The displays of a machine and their pictures, read once for all pages. Main thread only. */
export class Frames {
  readonly #source: PictureSource;
  readonly #slot: number | undefined;
  #list: readonly Frame[] = [];
  readonly #listing = new Paced(LIST_EVERY_MS, () => this.#readList());
  readonly #looking = new Paced(LOOK_EVERY_MS, () => this.#look());

  /** @param slot the only one to show; all if undefined */
  constructor(source: PictureSource, slot: number | undefined) {
    this.#source = source;
    this.#slot = slot;
  }

  get list(): readonly Frame[] {
    return this.#list;
  }

  /** Reads the pictures, unless that has just been done. @param isLast the guest has ended: reads them in any case */
  async refresh(isLast: boolean): Promise<void> {
    await this.#listing.run(isLast);
    await this.#looking.run(isLast);
  }

  async #readList(): Promise<void> {
    const all = await this.#source.displays();
    const displays = all.filter(({ slot }) => this.#slot === undefined || slot === this.#slot);
    this.#list = displays.map((display) => {
      const known = this.#list.find(
        ({ display: { slot, name } }) => slot === display.slot && name === display.name,
      );
      if (known !== undefined) return Object.assign(known, { display });
      return { display, changes: new Changes(), text: NOTHING, lookedAt: Number.NEGATIVE_INFINITY };
    });
  }

  async #look(): Promise<void> {
    for (const frame of this.#list) {
      const { slot, head } = frame.display;
      const before = frame.lookedAt;
      frame.lookedAt = performance.now();
      const drawnAfter = frame.lookedAt - before < LOOKS_FOLLOW_MS ? before : undefined;
      const { changes } = frame;
      try {
        changes.take(await this.#source.capture(slot, changes.spare, head, changes.look), drawnAfter);
        frame.text = undefined;
      } catch (error) {
        frame.text = isErrno(error, 'ENODATA') ? NOTHING : (error as Error).message;
      }
    }
  }
}
