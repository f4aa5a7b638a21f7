/** Devices that are reset together share one lock and know of each other. After the dev_set part of vfio_main.c. */

import { vfioError } from '../vfio-error.js';
import type { VfioDevice } from './device.js';
import { Mutex } from './locks.js';
import type { CoreState } from './state.js';

export class DeviceSet {
  /** Guards open counts of its devices, and is held over openDevice and closeDevice. */
  readonly lock: Mutex;
  readonly devices = new Set<VfioDevice>();

  constructor(state: CoreState, name: string) {
    this.lock = new Mutex(state, 'dev_set->lock', name);
  }

  /** @see vfio_device_set_open_count */
  get openCount(): number {
    return [...this.devices].reduce((sum, device) => sum + device.openCount, 0);
  }
}

/** The sets of a core, by what the driver says its devices have in common: a slot, a bus. */
export class DeviceSets {
  readonly #state: CoreState;
  readonly #byId = new Map<unknown, DeviceSet>();

  constructor(state: CoreState) {
    this.#state = state;
  }

  get size(): number {
    return this.#byId.size;
  }

  /**
   * Puts a device into the set of `id`, made when the first one comes. @see vfio_assign_device_set
   * @throws SysError ENOMEM
   */
  assign(device: VfioDevice, id: unknown): DeviceSet {
    const known = this.#byId.get(id);
    if (known === undefined) this.#state.allocate('vfio_device_set');
    const set = known ?? new DeviceSet(this.#state, `set of ${device.name}`);
    this.#byId.set(id, set);
    set.devices.add(device);
    return set;
  }

  /** Takes a device out; the last one ends the set. @see vfio_release_device_set */
  release(device: VfioDevice, id: unknown): void {
    const set = this.#byId.get(id);
    if (set === undefined) throw vfioError('vfio_release_device_set', device.name, 'ENOENT');
    set.devices.delete(device);
    if (set.devices.size > 0) return;
    this.#byId.delete(id);
    this.#state.free('vfio_device_set');
  }
}
