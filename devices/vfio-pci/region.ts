import { trace } from '../../sys/trace.js';
import { sparseAreas } from '../../vfio/region-layout.js';
import {
  type DeviceFile,
  type RegionInfo,
  VFIO_REGION_INFO_FLAG_READ,
  VFIO_REGION_INFO_FLAG_WRITE,
} from '../../vfio/uapi.js';
import type { BarArea } from './bar-layout.js';
import { errorText, note } from './notes.js';

/**
 * One region of the device file, for trapped accesses. Reads that fail or have no region behind them return all-ones;
 * such writes are ignored. Allocates nothing unless an access fails or crosses the region's end.
 */
export class Region {
  readonly info: RegionInfo;
  /** The device's name, for notes. */
  readonly device: string;
  readonly #file: DeviceFile;
  readonly #canRead: boolean;
  readonly #canWrite: boolean;

  constructor(device: string, file: DeviceFile, info: RegionInfo) {
    this.device = device;
    this.#file = file;
    this.info = info;
    this.#canRead = (info.flags & VFIO_REGION_INFO_FLAG_READ) !== 0;
    this.#canWrite = (info.flags & VFIO_REGION_INFO_FLAG_WRITE) !== 0;
  }

  /** @throws SysError EINVAL if there is no such index */
  static open(device: string, file: DeviceFile, index: number): Region {
    return new Region(device, file, file.getRegionInfo(index));
  }

  get size(): number {
    return this.info.size;
  }

  /** The areas that can be mapped; undefined without VFIO_REGION_INFO_CAP_SPARSE_MMAP. */
  get sparseAreas(): readonly BarArea[] | undefined {
    return sparseAreas(this.info);
  }

  read(offset: number, data: Uint8Array): void {
    const bytes = Math.min(data.length, this.info.size - offset);
    let got = 0;
    if (bytes > 0 && this.#canRead) {
      try {
        const part = bytes === data.length ? data : data.subarray(0, bytes);
        got = this.#file.read(this.info.offset + offset, part);
      } catch (error) {
        this.#failed('read', offset, data.length, error);
      }
    }
    if (got < data.length) data.fill(0xff, Math.max(got, 0));
    if (trace.region.hasSubscribers) this.#publish(offset, data, false);
  }

  /**
   * Reads once, as far as the device goes in one read. Returns the bytes read.
   * @throws SysError of the read
   */
  readPart(offset: number, data: Uint8Array): number {
    return this.#file.read(this.info.offset + offset, data);
  }

  /** Writes once, as {@link readPart}. */
  writePart(offset: number, data: Uint8Array): number {
    return this.#file.write(this.info.offset + offset, data);
  }

  write(offset: number, data: Uint8Array): void {
    const bytes = Math.min(data.length, this.info.size - offset);
    if (bytes > 0 && this.#canWrite) {
      try {
        this.#file.write(this.info.offset + offset, bytes === data.length ? data : data.subarray(0, bytes));
      } catch (error) {
        this.#failed('write', offset, data.length, error);
      }
    }
    if (trace.region.hasSubscribers) this.#publish(offset, data, true);
  }

  #failed(what: string, offset: number, bytes: number, error: unknown): void {
    note(
      this.device,
      'access',
      `${what} of ${bytes} bytes at 0x${offset.toString(16)} of region ${this.info.index}: ${errorText(error)}`,
    );
  }

  #publish(offset: number, data: Uint8Array, isWrite: boolean): void {
    let value = 0n;
    for (let i = data.length - 1; i >= 0; i--) value = (value << 8n) | BigInt(data[i] as number);
    const { index } = this.info;
    trace.region.publish({
      device: this.device,
      region: index,
      address: offset,
      bytes: data.length,
      isWrite,
      value,
    });
  }
}
