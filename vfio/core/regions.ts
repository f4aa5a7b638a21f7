import type { VfioDeviceOps } from '../driver.js';
import { mmapProblem, regionOffset, regionPlace } from '../region-layout.js';
import { type RegionInfo, VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE } from '../uapi.js';
import { vfioError } from '../vfio-error.js';

/** Where an offset of the device file is. */
export interface Place {
  readonly info: RegionInfo;
  /** Offset in the region. */
  readonly at: number;
}

/** A device's regions as laid out in its file; asked of the driver once per open. */
export class RegionTable {
  readonly #ops: VfioDeviceOps;
  readonly #target: string;
  #known: RegionInfo[] = [];
  #count: number | undefined;

  constructor(ops: VfioDeviceOps, target: string) {
    this.#ops = ops;
    this.#target = target;
  }

  /** The device was closed: it may look different when it is next opened. */
  forget(): void {
    this.#known = [];
    this.#count = undefined;
  }

  /** @throws SysError EINVAL for an index that is not there */
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

  /** For a read or write, which ends at the region's end. @throws SysError EINVAL if the region cannot be accessed so */
  access(offset: number, length: number, isWrite: boolean): Place & { readonly length: number } {
    const call = isWrite ? 'pwrite' : 'pread';
    const { info, at } = this.place(call, offset);
    const right = isWrite ? VFIO_REGION_INFO_FLAG_WRITE : VFIO_REGION_INFO_FLAG_READ;
    if ((info.flags & right) === 0) {
      throw vfioError(call, this.#target, 'EINVAL', `region ${info.index} does not allow it`);
    }
    return { info, at, length: Math.min(length, info.size - at) };
  }

  /** @throws SysError EINVAL where the region says it cannot be mapped */
  mappable(offset: number, bytes: number): Place {
    const call = 'mmap';
    const { info, at } = this.place(call, offset);
    const problem = mmapProblem(info, at, bytes);
    if (problem !== undefined) throw vfioError(call, this.#target, 'EINVAL', problem);
    return { info, at };
  }
}
