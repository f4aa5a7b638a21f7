import { errno } from '../sys/errno.js';
import { SysError } from '../sys/error.js';
import * as libc from '../sys/libc.js';
import { Scope } from '../sys/scope.js';
import type { InputEvent } from '../vfio/driver.js';
import type { AssignableDevice, VfioProvider } from '../vfio/provider.js';
import { openForClient, VfioUserServer } from '../vfio/user/index.js';
import { giveFaults } from './device-faults.js';
import { giveInput } from './device-input.js';
import type { ServedDeviceConfig } from './device-server.js';
import type { DisplayName, ShownPlane, Still } from './display/messages.js';
import type { ScreenSize } from './display/screen-size.js';
import { ServedDisplay } from './display/served-display.js';
import { type ErrorData, orError } from './error-data.js';

/** How long a wait for any client is: a lost signal to this thread costs at most that. */
const WAIT_MS = 100;
/** Messages of one client before the next one gets a turn. */
const MESSAGES_IN_TURN = 64;
const POLLIN = 1;

/** Of all devices of a serving thread. */
export interface ServedDevicesOptions {
  readonly trustsClient: boolean;
  readonly tell: (text: string, level: 'info' | 'warn') => void;
}

interface Served {
  readonly address: string;
  readonly device: AssignableDevice;
  readonly display: ServedDisplay;
  readonly server: VfioUserServer;
}

/** The devices of a serving thread, each with its socket; their slots are their places in the list. Serving thread only. */
export class ServedDevices implements Disposable {
  readonly #list: Served[] = [];
  readonly #options: ServedDevicesOptions;
  readonly #owned = new Scope();
  #poll = new Int32Array(0);
  #pollBytes = new Uint8Array(0);

  constructor(options: ServedDevicesOptions) {
    this.#options = options;
  }

  /**
   * Offers a device to clients.
   * @param isAlone whether no other one follows: what is told of clients then names no device
   * @throws SysError if it cannot be opened, or the socket cannot be made
   */
  add(provider: VfioProvider, config: ServedDeviceConfig, isAlone: boolean): AssignableDevice {
    const { address, path, options = {} } = config;
    using scope = new Scope();
    const device = scope.own(provider.resolve(address, options));
    // Opens the device once in advance, so that errors surface before a client connects.
    openForClient(provider, device)[Symbol.dispose]();
    const display = new ServedDisplay(this.#list.length, address);
    const open = () => {
      const served = openForClient(provider, device);
      display.open(served.device);
      const close = () => {
        display.close();
        served[Symbol.dispose]();
      };
      return { ...served, [Symbol.dispose]: close };
    };
    const { trustsClient, tell } = this.#options;
    const named = isAlone ? tell : (text: string, level: 'info' | 'warn') => tell(`${path}: ${text}`, level);
    const server = scope.own(new VfioUserServer({ path, open, trustsClient, tell: named }));
    this.#list.push({ address, device, display, server });
    this.#poll = new Int32Array(2 * this.#list.length);
    this.#pollBytes = new Uint8Array(this.#poll.buffer);
    this.#owned.own(scope.move());
    return device;
  }

  /** Serves what clients have sent, each in turn; waits for it 100 ms, or until this thread gets a signal. */
  step(): void {
    const [first, ...others] = this.#list;
    if (others.length === 0) first?.server.step();
    else for (const server of this.#ready()) for (let i = 0; i < MESSAGES_IN_TURN && server.step(false); i++);
  }

  /** Those with something to do. */
  #ready(): readonly VfioUserServer[] {
    const words = this.#poll;
    for (const [i, { server }] of this.#list.entries()) words.set([server.fd, POLLIN], 2 * i);
    if (libc.poll(this.#pollBytes, this.#list.length, WAIT_MS) <= 0) return [];
    // struct pollfd: the fd, 16 bits of events, 16 bits of what there is
    return this.#list.filter((_, i) => (words[2 * i + 1] as number) >>> 16 !== 0).map(({ server }) => server);
  }

  /** @see giveFaults @throws SysError ENODEV for a slot without a device */
  inject(slot: number, faults: string): void {
    const { device, address } = this.#get(slot);
    giveFaults(device, address, faults);
  }

  /** @see giveInput @throws SysError ENODEV for a slot without a device */
  input(slot: number, events: readonly InputEvent[]): void {
    const { device, address } = this.#get(slot);
    giveInput(device, address, events);
  }

  /** @see ServedDisplay.resize @throws SysError also ENODEV for a slot without a device */
  resize(slot: number, head: number, size: ScreenSize): void {
    this.#get(slot).display.resize(size, head);
  }

  /** Those that are or were displays, in slot order. */
  displays(): readonly DisplayName[] {
    return this.#list.flatMap(({ display }) => display.list());
  }

  /** What the client of a device sees. @param slot undefined is the first display @param head its screen, from 0 on. @see ServedDisplay.look */
  look(slot: number | undefined, isCopied: boolean, head?: number): ShownPlane | ErrorData {
    return orError(() => {
      const { display, server } = this.#get(slot ?? this.displays()[0]?.slot ?? 0);
      return display.look(isCopied, server.commands, head);
    });
  }

  /** Closes the displays, and returns their last pictures, for use after this thread has ended. Before {@link dispose}. */
  stills(): readonly Still[] {
    for (const { display } of this.#list) display.close();
    const shown = this.#list.filter(({ display }) => display.list().length > 0);
    return (shown.length > 0 ? shown : this.#list.slice(0, 1)).flatMap(({ display }) => display.stills());
  }

  #get(slot: number): Served {
    const found = this.#list[slot];
    if (found !== undefined) return found;
    const hint = `devices are: ${this.#list.map(({ address }, i) => `${i} ${address}`).join(', ')}`;
    throw new SysError({ call: 'serve', target: `device ${slot}`, errno: errno.ENODEV, hint });
  }

  /** Disconnects all clients, and closes the devices. */
  [Symbol.dispose](): void {
    this.#list.length = 0;
    this.#owned[Symbol.dispose]();
  }
}
