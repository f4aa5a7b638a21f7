import type { VfioDeviceOps } from '../driver.js';
import { mmapProblem, regionOffset, regionPlace } from '../region-layout.js';
import { type RegionInfo, VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE } from '../uapi.js';
import { vfioError } from '../vfio-error.js';

/** A location in a region, from an offset in the device file. */
export interface Place {
  readonly info: RegionInfo;
  /** Offset in the region. */
  readonly at: number;
}

/** The layout of a device's regions in its file; read from the driver once per open. */
export class RegionTable {
  readonly #ops: VfioDeviceOps;
  readonly #target: string;
  #known: RegionInfo[] = [];
  #count: number | undefined;

  constructor(ops: VfioDeviceOps, target: string) {
    this.#ops = ops;
    this.#target = target;
  }

  /** Drops the layout when the device is closed: the next open may find another one. */
  forget(): void {
    this.#known = [];
    this.#count = undefined;
  }

  /** @throws SysError EINVAL for an unknown index */
  info(index: number): RegionInfo {
    const known = this.#known[index];
    if (known !== undefined) return known;
    this.#count ??= this.#ops.getInfo().numRegions;
    if (!Number.isInteger(index) || index < 0 || index >= this.#count) {
      throw vfioError('VFIO_DEVICE_GET_REGION_INFO', this.#target, 'EINVAL', `there is no region ${index}`);
    }
    const info: RegionInfo = { ...this.#ops.getRegionInfo(index), offset: regionOffset(index) };
    this.#known[index] = info;
    return info;
  }

  /** @throws SysError EINVAL past a region's end */
  place(call: string, offset: number): Place {
    const { index, at } = regionPlace(offset);
    const info = this.info(index);
    if (at >= info.size)
      throw vfioError(call, this.#target, 'EINVAL', `offset 0x${at.toString(16)} of region ${index}`);
    return { info, at };
  }

  /**
   * Clips a read or write to the region's end.
   * @throws SysError EINVAL if the region's flags do not allow the access
   */
  access(offset: number, length: number, isWrite: boolean): Place & { readonly length: number } {
    const call = isWrite ? 'pwrite' : 'pread';
    const { info, at } = this.place(call, offset);
    const right = isWrite ? VFIO_REGION_INFO_FLAG_WRITE : VFIO_REGION_INFO_FLAG_READ;
    if ((info.flags & right) === 0) {
      throw vfioError(call, this.#target, 'EINVAL', `region ${info.index} does not allow it`);
    }
    return { info, at, length: Math.min(length, info.size - at) };
  }

  /** @throws SysError EINVAL if the region's info does not allow the mapping */
  mappable(offset: number, bytes: number): Place {
    const call = 'mmap';
    const { info, at } = this.place(call, offset);
    const problem = mmapProblem(info, at, bytes);
    if (problem !== undefined) throw vfioError(call, this.#target, 'EINVAL', problem);
    return { info, at };
  }
}
