import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { Scope } from '../../sys/scope.js';
import type { DeviceFile } from '../../vfio/uapi.js';
import { type ErrorData, orError } from '../error-data.js';
import { DeviceDisplay, listed, nameOf } from './device-display.js';
import type { DisplayName, ShownPlane, Still } from './messages.js';
import type { ScreenSize } from './screen-size.js';

/** The screens of a served device, across clients. Serving thread only. */
export class ServedDisplay {
  readonly #slot: number;
  readonly #name: string;
  #displays: readonly DeviceDisplay[] = [];
  /** By the number of the screen. */
  readonly #last = new Map<number, ShownPlane>();

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
    this.#displays = DeviceDisplay.all(this.#slot, this.#name, file);
  }

  /**
   * The client resets the device, or closes it: keeps its last picture, if it shows one. A client that is done resets
   * first, which turns the screen off.
   */
  keep(): void {
    for (const display of this.#displays) {
      const still = orError(() => display.still());
      if ('plane' in still) this.#last.set(display.head, still);
    }
  }

  /** The client closes the device. */
  close(): void {
    this.keep();
    using closed = new Scope();
    for (const display of this.#displays) closed.own(display);
    this.#displays = [];
  }

  /**
   * What the client sees now, or the last client saw.
   * @param isCopied copies the picture: this thread obeys the client, which shows no other frame meanwhile
   * @param accesses how often clients have accessed the device
   */
  look(isCopied: boolean, accesses: number, head = 0): ShownPlane | ErrorData {
    return orError(() => {
      const display = this.#displays[head];
      if (display === undefined) return this.#lastOne(head);
      return { ...(isCopied ? display.still() : display.look()), accesses };
    });
  }

  /** Tells the client's guest that a screen has another size. @throws SysError ENODEV without a client, or that screen */
  resize(size: ScreenSize, head: number): void {
    const display = this.#displays[head];
    if (display !== undefined) {
      display.resize(size);
      return;
    }
    const hint =
      this.#displays.length === 0 ? 'no client has opened a display' : `it has ${this.#displays.length}`;
    throw new SysError({
      call: 'resize',
      target: `${this.#name}, screen ${head + 1}`,
      errno: errno.ENODEV,
      hint,
    });
  }

  /** The device's screens, if it is or was a display. */
  list(): readonly DisplayName[] {
    if (this.#displays.length > 0) return this.#displays.map(listed);
    return [...this.#last.values()].map(nameOf);
  }

  /** The last pictures, for use after this thread has ended; that of a device without one is why there is none. */
  stills(): readonly Still[] {
    if (this.#last.size === 0)
      return [{ slot: this.#slot, name: this.#name, answer: orError(() => this.#lastOne(0)) }];
    return this.list().map((name) => ({ ...name, answer: orError(() => this.#lastOne(name.head ?? 0)) }));
  }

  #lastOne(head: number): ShownPlane {
    const last = this.#last.get(head);
    if (last !== undefined) return last;
    const hint = 'no client has been shown a picture yet, or the device shows none';
    throw new SysError({
      call: 'VFIO_DEVICE_QUERY_GFX_PLANE',
      target: this.#name,
      errno: errno.ENODATA,
      hint,
    });
  }
}
