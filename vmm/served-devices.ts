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

interface Served extends Disposable {
  readonly address: string;
  readonly device: AssignableDevice;
  readonly display: ServedDisplay;
  readonly server: VfioUserServer;
}

/** Something else that the thread serves. */
export interface WatchedFd {
  readonly fd: number;
  /** Called when the descriptor has something to read, or an error. Must not block. */
  readonly step: () => void;
}

/** The devices of a serving thread, each with its socket and its slot. Serving thread only. */
export class ServedDevices implements Disposable {
  /** By slot. */
  readonly #served = new Map<number, Served>();
  readonly #watched = new Set<WatchedFd>();
  readonly #options: ServedDevicesOptions;
  #poll = new Int32Array(0);
  #pollBytes = new Uint8Array(0);

  constructor(options: ServedDevicesOptions) {
    this.#options = options;
  }

  /**
   * Offers a device to clients.
   * @param isAlone whether no other one follows: what is told of clients then names no device
   * @param slot that no other one has; by default the next
   * @throws SysError if it cannot be opened, or the socket cannot be made
   */
  add(
    provider: VfioProvider,
    config: ServedDeviceConfig,
    isAlone: boolean,
    slot = this.#served.size,
  ): AssignableDevice {
    const { address, path, options = {} } = config;
    using scope = new Scope();
    const device = scope.own(provider.resolve(address, options));
    // Opens the device once in advance, so that errors surface before a client connects.
    openForClient(provider, device)[Symbol.dispose]();
    const display = new ServedDisplay(slot, address);
    const open = () => {
      const served = openForClient(provider, device);
      display.open(served.device);
      const close = () => {
        display.close();
        served[Symbol.dispose]();
      };
      return { ...served, resetting: () => display.keep(), [Symbol.dispose]: close };
    };
    const { trustsClient, tell } = this.#options;
    const named = isAlone ? tell : (text: string, level: 'info' | 'warn') => tell(`${path}: ${text}`, level);
    const server = scope.own(new VfioUserServer({ path, open, trustsClient, tell: named }));
    const owned = scope.move();
    this.#served.set(slot, {
      address,
      device,
      display,
      server,
      [Symbol.dispose]: () => owned[Symbol.dispose](),
    });
    return device;
  }

  /** Disconnects the client of a device, and closes it. */
  remove(slot: number): void {
    const served = this.#get(slot);
    this.#served.delete(slot);
    served[Symbol.dispose]();
  }

  /** Whether a client has the device of a slot. */
  hasClient(slot: number): boolean {
    return this.#served.get(slot)?.server.hasClient ?? false;
  }

  /** Serves something else in {@link step}, until disposed. */
  watch(watched: WatchedFd): Disposable {
    this.#watched.add(watched);
    return { [Symbol.dispose]: () => void this.#watched.delete(watched) };
  }

  /** Serves what clients have sent, each in turn; waits for it 100 ms, or until this thread gets a signal. */
  step(): void {
    const [first, ...others] = this.#served.values();
    if (first !== undefined && others.length === 0 && this.#watched.size === 0) first.server.step();
    else for (const { step } of this.#ready()) step();
  }

  /** Those with something to do. */
  #ready(): readonly WatchedFd[] {
    // Of a server, the descriptor is another one after each client.
    const servers = [...this.#served.values()].map(({ server }) => ({
      fd: server.fd,
      step: () => {
        for (let i = 0; i < MESSAGES_IN_TURN && server.step(false); i++);
      },
    }));
    const all: readonly WatchedFd[] = [...servers, ...this.#watched];
    if (this.#poll.length !== 2 * all.length) {
      this.#poll = new Int32Array(2 * all.length);
      this.#pollBytes = new Uint8Array(this.#poll.buffer);
    }
    const words = this.#poll;
    for (const [i, { fd }] of all.entries()) words.set([fd, POLLIN], 2 * i);
    if (libc.poll(this.#pollBytes, all.length, WAIT_MS) <= 0) return [];
    // struct pollfd: the fd, 16 bits of events, 16 bits of what there is
    return all.filter((_, i) => (words[2 * i + 1] as number) >>> 16 !== 0);
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
    return this.#inOrder().flatMap(({ display }) => display.list());
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
    const list = this.#inOrder();
    for (const { display } of list) display.close();
    const shown = list.filter(({ display }) => display.list().length > 0);
    return (shown.length > 0 ? shown : list.slice(0, 1)).flatMap(({ display }) => display.stills());
  }

  #inOrder(): readonly Served[] {
    return [...this.#served.entries()].sort(([a], [b]) => a - b).map(([, served]) => served);
  }

  #get(slot: number): Served {
    const found = this.#served.get(slot);
    if (found !== undefined) return found;
    const all = [...this.#served.entries()].map(([i, { address }]) => `${i} ${address}`);
    const hint = `devices are: ${all.join(', ') || 'none now'}`;
    throw new SysError({ call: 'serve', target: `device ${slot}`, errno: errno.ENODEV, hint });
  }

  /** Disconnects all clients, and closes the devices. */
  [Symbol.dispose](): void {
    using scope = new Scope();
    for (const served of this.#served.values()) scope.own(served);
    this.#served.clear();
    this.#watched.clear();
  }
}
