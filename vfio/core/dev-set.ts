/** Devices that are reset together share one lock and know of each other. After the dev_set part of vfio_main.c. */

import { vfioError } from '../vfio-error.js';
import type { CoreEnvironment } from './environment.js';
import { Mutex } from './locks.js';

/** A device as its set knows it. */
export interface DeviceSetMember {
  readonly name: string;
  /** Guarded by the set's lock. */
  readonly openCount: number;
}

export class DeviceSet {
  /** Guards open counts of its devices, and is held over openDevice and closeDevice. */
  readonly lock: Mutex;
  readonly devices = new Set<DeviceSetMember>();

  constructor(environment: CoreEnvironment, name: string) {
    this.lock = new Mutex(environment, 'dev_set->lock', name);
  }

  /** @see vfio_device_set_open_count */
  get openCount(): number {
    return [...this.devices].reduce((sum, device) => sum + device.openCount, 0);
  }
}

/** The sets of a core, by what the driver says its devices have in common: a slot, a bus. */
export class DeviceSets {
  readonly #environment: CoreEnvironment;
  readonly #byId = new Map<unknown, DeviceSet>();

  constructor(environment: CoreEnvironment) {
    this.#environment = environment;
  }

  get size(): number {
    return this.#byId.size;
  }

  /**
   * Puts a device into the set of `id`, made when the first one comes. @see vfio_assign_device_set
   * @throws SysError ENOMEM
   */
  assign(device: DeviceSetMember, id: unknown): DeviceSet {
    const known = this.#byId.get(id);
    if (known === undefined) this.#environment.allocate('vfio_device_set');
    const set = known ?? new DeviceSet(this.#environment, `set of ${device.name}`);
    this.#byId.set(id, set);
    set.devices.add(device);
    return set;
  }

  /** Takes a device out; the last one ends the set. @see vfio_release_device_set */
  release(device: DeviceSetMember, id: unknown): void {
    const set = this.#byId.get(id);
    if (set === undefined) throw vfioError('vfio_release_device_set', device.name, 'ENOENT');
    set.devices.delete(device);
    if (set.devices.size > 0) return;
    this.#byId.delete(id);
    this.#environment.free('vfio_device_set');
  }
}
