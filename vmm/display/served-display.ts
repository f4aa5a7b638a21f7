import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { DeviceFile } from '../../vfio/uapi.js';
import { type ErrorData, orError } from '../protocol.js';
import { DeviceDisplay } from './device-display.js';
import type { ShownPlane, Still } from './messages.js';

const SLOT = 0;

/** What a served device shows its client, from one client to the next. Serving thread only. */
export class ServedDisplay {
  readonly #name: string;
  #display: DeviceDisplay | undefined;
  #last: ShownPlane | undefined;

  /** @param name the device's address, for messages */
  constructor(name: string) {
    this.#name = name;
  }

  /** A client has the device open; `file` is looked at until {@link close}. */
  open(file: DeviceFile): void {
    this.#display = DeviceDisplay.find(SLOT, this.#name, file);
  }

  /** The client goes, and the device with it: what it showed is kept, if it showed anything. */
  close(): void {
    const display = this.#display;
    this.#display = undefined;
    if (display === undefined) return;
    const still = orError(() => display.still());
    if ('plane' in still) this.#last = still;
  }

  /** What the client sees now, or the last one saw. */
  look(): ShownPlane | ErrorData {
    return orError(() => this.#display?.look() ?? this.#lastOne());
  }

  /** The last word, for whoever looks when this thread has ended. */
  still(): Still {
    return { slot: SLOT, name: this.#name, answer: orError(() => this.#lastOne()) };
  }

  #lastOne(): ShownPlane {
    if (this.#last !== undefined) return this.#last;
    const hint = 'no client has been shown a picture yet, or the device shows none';
    throw new SysError({
      call: 'VFIO_DEVICE_QUERY_GFX_PLANE',
      target: this.#name,
      errno: errno.ENODATA,
      hint,
    });
  }
}
