import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { DeviceFile } from '../../vfio/uapi.js';
import { type ErrorData, orError } from '../error-data.js';
import { DeviceDisplay } from './device-display.js';
import type { ShownPlane, Still } from './messages.js';

const SLOT = 0;

/** The display of a served device, across clients. Serving thread only. */
export class ServedDisplay {
  readonly #name: string;
  #display: DeviceDisplay | undefined;
  #last: ShownPlane | undefined;

  /** @param name the device's address, for errors */
  constructor(name: string) {
    this.#name = name;
  }

  /** A client has opened the device; `file` is used until {@link close}. */
  open(file: DeviceFile): void {
    this.#display = DeviceDisplay.find(SLOT, this.#name, file);
  }

  /** The client closes the device: keeps its last picture, if it showed one. */
  close(): void {
    const display = this.#display;
    this.#display = undefined;
    if (display === undefined) return;
    const still = orError(() => display.still());
    if ('plane' in still) this.#last = still;
  }

  /** What the client sees now, or the last client saw. */
  look(): ShownPlane | ErrorData {
    return orError(() => this.#display?.look() ?? this.#lastOne());
  }

  /** The last picture, for use after this thread has ended. */
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
