/** Devices of a machine that is received, whose states come in pieces while it still runs elsewhere. Machine thread only. */
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { printable } from '../../sys/printable.js';
import { DeviceLoading } from '../../vfio/assign/index.js';
import { placeOf, type SavedDevice } from '../snapshot/saved-machine.js';

/** A piece of a device's state, as DevicePreCopy has read it. */
export interface DevicePiece {
  /** As in the names of sections. */
  readonly place: string;
  readonly data: Uint8Array;
}

export class ArrivingDevices implements Disposable {
  readonly #devices: { readonly list: readonly SavedDevice[] };
  readonly #loading = new Map<string, DeviceLoading>();

  constructor(devices: { readonly list: readonly SavedDevice[] }) {
    this.#devices = devices;
  }

  /** Loads a piece; the first one of a device takes it to RESUMING. @throws SysError EPROTO for no device; of the device */
  take({ place, data }: DevicePiece): void {
    const begun = this.#loading.get(place);
    if (begun !== undefined) begun.write(data);
    else this.#begin(place).write(data);
  }

  #begin(place: string): DeviceLoading {
    const device = this.#devices.list.find((each) => placeOf(each) === place);
    if (device === undefined) {
      const hint = `it sent a piece of a device at '${printable(place)}', where there is none`;
      throw new SysError({ call: 'receive', target: 'the moved machine', errno: errno.EPROTO, hint });
    }
    const loading = DeviceLoading.begin(device.assigned.file, device.name);
    this.#loading.set(place, loading);
    return loading;
  }

  /** Loads the rest of a device that has had pieces, which is stopped then; false for one that has had none. @throws SysError of the device */
  finish(place: string, rest: Uint8Array): boolean {
    const loading = this.#loading.get(place);
    if (loading === undefined) return false;
    loading.write(rest);
    loading.finish();
    return true;
  }

  [Symbol.dispose](): void {
    for (const loading of this.#loading.values()) loading[Symbol.dispose]();
    this.#loading.clear();
  }
}
