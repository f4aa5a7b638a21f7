import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { DeviceFile } from '../../vfio/uapi.js';
import { type ErrorData, orError } from '../error-data.js';
import { DeviceDisplay } from './device-display.js';
import type { DisplayName, ShownPlane, Still } from './messages.js';

/** The display of a served device, across clients. Serving thread only. */
export class ServedDisplay {
  readonly #slot: number;
  readonly #name: string;
  #display: DeviceDisplay | undefined;
  #last: ShownPlane | undefined;

  /**
   * @param slot the device's place among those that are served
   * @param name the device's address, for errors
   */
  constructor(slot: number, name: string) {
    this.#slot = slot;
    this.#name = name;
  }

  /** A client has opened the device; `file` is used until {@link close}. */
  open(file: DeviceFile): void {
    this.#display = DeviceDisplay.find(this.#slot, this.#name, file);
  }

  /** The client closes the device: keeps its last picture, if it showed one. */
  close(): void {
    const display = this.#display;
    this.#display = undefined;
    if (display === undefined) return;
    using _ = display;
    const still = orError(() => display.still());
    if ('plane' in still) this.#last = still;
  }

  /**
   * What the client sees now, or the last client saw.
   * @param isCopied copies the picture: this thread obeys the client, which shows no other frame meanwhile
   * @param accesses how often clients have accessed the device
   */
  look(isCopied: boolean, accesses: number): ShownPlane | ErrorData {
    return orError(() => {
      const display = this.#display;
      if (display === undefined) return this.#lastOne();
      return { ...(isCopied ? display.still() : display.look()), accesses };
    });
  }

  /** The device, if it is or was a display. */
  list(): readonly DisplayName[] {
    const isDisplay = this.#display !== undefined || this.#last !== undefined;
    return isDisplay ? [{ slot: this.#slot, name: this.#name }] : [];
  }

  /** The last picture, for use after this thread has ended. */
  still(): Still {
    return { slot: this.#slot, name: this.#name, answer: orError(() => this.#lastOne()) };
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
