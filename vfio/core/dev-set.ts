/** Device sets: devices that are reset together share one lock. After the dev_set part of vfio_main.c. */

import { vfioError } from '../vfio-error.js';
import type { CoreEnvironment } from './environment.js';
import { Mutex } from './locks.js';

/** A device of a set. */
export interface DeviceSetMember {
  readonly name: string;
  /** Guarded by the set's lock. */
  readonly openCount: number;
  /** Whether it was used and has not been reset since. Guarded by the set's lock. */
  needsReset: boolean;
}

export class DeviceSet {
  /** Guards the open counts of its devices; held during openDevice and closeDevice. */
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

/** The device sets of a core, by the id that their driver chooses: the slot or the bus that the devices share. */
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
   * Adds a device to the set of `id`, which the first device creates. @see vfio_assign_device_set
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

  /** Removes a device; removing the last one frees the set. @see vfio_release_device_set */
  release(device: DeviceSetMember, id: unknown): void {
    const set = this.#byId.get(id);
    if (set === undefined) throw vfioError('vfio_release_device_set', device.name, 'ENOENT');
    set.devices.delete(device);
    if (set.devices.size > 0) return;
    this.#byId.delete(id);
    this.#environment.free('vfio_device_set');
  }
}
