/** The devices of a machine that moves which are read while it runs. Machine thread only. */
import { SysError } from '../../sys/error.js';
import { DevicePreCopy, migrationFlags, type PreCopyLeft, startDevice } from '../../vfio/assign/index.js';
import { VFIO_MIGRATION_PRE_COPY } from '../../vfio/feature.js';
import type { DeviceFile } from '../../vfio/uapi.js';
import type { DevicePiece } from './arriving-devices.js';

/** A device and its place. */
export interface PreCopiedDevice {
  readonly name: string;
  /** In the names of sections. */
  readonly place: string;
  readonly file: DeviceFile;
}

export class PreCopies implements Disposable {
  /** By the device's file. */
  readonly all = new Map<DeviceFile, DevicePreCopy>();
  readonly #places = new Map<DevicePreCopy, string>();

  /** Begins PRE_COPY of every device that has it. @throws SysError of a device; none is in PRE_COPY then */
  static begin(devices: readonly PreCopiedDevice[]): PreCopies {
    const it = new PreCopies();
    try {
      for (const { name, place, file } of devices) {
        if ((migrationFlags(file) & VFIO_MIGRATION_PRE_COPY) === 0) continue;
        const preCopy = DevicePreCopy.begin(file, name);
        it.all.set(file, preCopy);
        it.#places.set(preCopy, place);
      }
    } catch (error) {
      it[Symbol.dispose]();
      throw error;
    }
    return it;
  }

  /** Begins a round. Returns what all of them have. @throws SysError of a device */
  beginRound(): PreCopyLeft {
    let [initialBytes, bytes] = [0, 0];
    for (const preCopy of this.all.values()) {
      const left = preCopy.beginRound();
      initialBytes += left.initialBytes;
      bytes += left.bytes;
    }
    return { initialBytes, bytes };
  }

  /** The next piece of this round; undefined at its end. @throws SysError of a device */
  next(mostBytes: number): DevicePiece | undefined {
    for (const [preCopy, place] of this.#places) {
      const data = preCopy.read(mostBytes);
      if (data !== undefined) return { place, data };
    }
    return undefined;
  }

  /** The devices go on, wherever they were. */
  [Symbol.dispose](): void {
    for (const [file, preCopy] of this.all) {
      try {
        startDevice(file);
      } catch (error) {
        if (!(error instanceof SysError)) throw error; // the device is gone
      }
      preCopy[Symbol.dispose]();
    }
    this.all.clear();
    this.#places.clear();
  }
}
