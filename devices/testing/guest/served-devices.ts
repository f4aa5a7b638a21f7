/** Devices of this process, served to QEMU by the thread that tests run in. */
import { join } from 'node:path';
import { errno } from '../../../sys/errno.js';
import { SysError } from '../../../sys/error.js';
import type { EventThread } from '../../../sys/event-task.js';
import * as libc from '../../../sys/libc.js';
import { Scope } from '../../../sys/scope.js';
import { VfioCore } from '../../../vfio/core/core.js';
import type { MdevInstance, VendorDriver, VfioDeviceOps } from '../../../vfio/driver.js';
import { openForClient, VfioUserServer } from '../../../vfio/user/index.js';

/** A vendor driver's device: the type is the driver's first if absent. */
export interface DriverDevice {
  /** The driver. */
  readonly driver: VendorDriver;
  /** Name of the type. */
  readonly type?: string;
  /** The device's options. */
  readonly options?: Readonly<Record<string, string>>;
}

/** A device of this process: the functions of one device, or a vendor driver that makes it. */
export type GuestDevice = VfioDeviceOps | DriverDevice;

/** How long the loop waits for QEMU before it lets the test's own work go on. */
const WAIT_MS = 4;
/** Messages of one device before the others, and the test's own work, have their turn. */
const MOST_MESSAGES = 64;
const POLLIN = 1;
const POLLFD_BYTES = 8;

/** The device's file of functions, or the driver's: what a watch was put around. */
export const watchedObject = (device: GuestDevice): object => ('driver' in device ? device.driver : device);

export const deviceName = (device: GuestDevice): string =>
  'driver' in device ? (device.type ?? device.driver.types[0]?.name ?? device.driver.name) : device.name;

/** The vendor driver of a single device. */
function driverOf(ops: VfioDeviceOps): VendorDriver {
  return {
    name: ops.name,
    types: [{ name: ops.name, description: ops.name, deviceApi: 'vfio-pci', maxInstances: 1 }],
    create: (): MdevInstance => ({ ops, [Symbol.dispose]() {} }),
  };
}

/** What devices without a half in the event thread have in its place. */
const noEventThread: EventThread = {
  run(module) {
    throw new SysError({
      call: 'bootGuest',
      target: module.href,
      errno: errno.ENOSYS,
      hint: 'the device has a half in the event thread: pass `eventThread: await PolledEventThread.start()` of tsvisor/assign',
    });
  },
};

/** Serves devices, each on a socket of its own. */
export class ServedDevices implements Disposable {
  readonly paths: readonly string[];
  readonly #servers: readonly VfioUserServer[];
  readonly #poll: (() => void) | undefined;
  readonly #fds: Uint8Array;
  readonly #scope: Scope;
  #next: NodeJS.Immediate | undefined;

  /** @throws SysError as the drivers' `create`, or if a socket cannot be made */
  constructor(
    devices: readonly GuestDevice[],
    folder: string,
    eventThread: (EventThread & { poll?(): void }) | undefined,
  ) {
    using scope = new Scope();
    this.#poll = eventThread?.poll === undefined ? undefined : () => eventThread.poll?.();
    this.paths = devices.map((_, i) => join(folder, `${i}`));
    this.#servers = devices.map((device, i) => {
      // A core each: two devices may be of one driver.
      const core = scope.own(new VfioCore());
      const driver = 'driver' in device ? device.driver : driverOf(device);
      scope.own(core.registerVendorDriver(driver, { eventThread: eventThread ?? noEventThread }));
      const options = 'driver' in device ? (device.options ?? {}) : {};
      const resolved = scope.own(core.provider.resolve(deviceName(device), options));
      const path = this.paths[i] as string;
      return scope.own(new VfioUserServer({ path, open: () => openForClient(core.provider, resolved) }));
    });
    this.#fds = new Uint8Array(POLLFD_BYTES * devices.length);
    this.#scope = scope.move();
    if (devices.length > 0 || this.#poll !== undefined) this.#turn();
  }

  /** Answers what is there; waits a moment if nothing is, in poll(2), so that QEMU's next message is answered at once. */
  #turn(): void {
    const view = new DataView(this.#fds.buffer);
    this.#servers.forEach(({ fd }, i) => {
      view.setInt32(POLLFD_BYTES * i, fd, true);
      view.setInt16(POLLFD_BYTES * i + 4, POLLIN, true);
    });
    libc.poll(this.#fds, this.#servers.length, WAIT_MS);
    this.#poll?.();
    for (const server of this.#servers)
      for (let messages = 0; messages < MOST_MESSAGES && server.step(false); messages++);
    this.#next = setImmediate(() => this.#turn());
  }

  /** Disconnects QEMU, and closes the devices. */
  [Symbol.dispose](): void {
    clearImmediate(this.#next);
    this.#scope[Symbol.dispose]();
  }
}
