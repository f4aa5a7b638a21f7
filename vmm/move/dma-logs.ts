/** The pages that assigned devices write, from their own logs (VFIO_DEVICE_FEATURE_DMA_LOGGING). Machine thread. */
import { iova } from '../../sys/address.js';
import { SysError } from '../../sys/error.js';
import type { MemoryRegion } from '../../vfio/assign/index.js';
import {
  VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_SET,
} from '../../vfio/feature.js';
import type { DeviceFile } from '../../vfio/uapi.js';
import { PAGE_BYTES } from './pages.js';

/** A device by its name. */
export interface LoggedDevice {
  readonly name: string;
  readonly file: Pick<DeviceFile, 'deviceFeature'>;
}

const PAGE = BigInt(PAGE_BYTES);

export class DmaLogs implements Disposable {
  readonly #logged: readonly LoggedDevice[];
  /** Devices without a log. */
  readonly unlogged: readonly string[];

  private constructor(logged: readonly LoggedDevice[], unlogged: readonly string[]) {
    this.#logged = logged;
    this.unlogged = unlogged;
  }

  /** Starts the log of every device that has one, for these ranges of guest memory. Devices address it as the guest does. */
  static start(
    devices: readonly LoggedDevice[],
    memory: readonly Pick<MemoryRegion, 'gpa' | 'bytes'>[],
  ): DmaLogs {
    const ranges = memory.map(({ gpa, bytes }) => ({ iova: iova(gpa), length: bytes }));
    const flags = VFIO_DEVICE_FEATURE_DMA_LOGGING_START | VFIO_DEVICE_FEATURE_SET;
    const logged = devices.filter(({ file }) => {
      try {
        file.deviceFeature(flags, { logging: { pageSize: PAGE, ranges } });
        return true;
      } catch (error) {
        if (error instanceof SysError) return false; // it has none, or none for so much
        throw error;
      }
    });
    const others = devices.filter((device) => !logged.includes(device));
    return new DmaLogs(
      logged,
      others.map(({ name }) => name),
    );
  }

  /** Sets the bits of the pages that devices have written since the last call; all of them if one has no log. @throws SysError of a device */
  collect({ gpa, bytes }: Pick<MemoryRegion, 'gpa' | 'bytes'>, bitmap: Uint8Array): void {
    if (this.unlogged.length > 0) bitmap.fill(0xff);
    const flags = VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT | VFIO_DEVICE_FEATURE_GET;
    for (const { file } of this.#logged)
      file.deviceFeature(flags, { report: { iova: iova(gpa), length: bytes, pageSize: PAGE, bitmap } });
  }

  /** Stops the logs. */
  [Symbol.dispose](): void {
    const flags = VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP | VFIO_DEVICE_FEATURE_SET;
    for (const { file } of this.#logged) {
      try {
        file.deviceFeature(flags);
      } catch (error) {
        if (!(error instanceof SysError)) throw error; // the device is gone, and its log with it
      }
    }
  }
}
