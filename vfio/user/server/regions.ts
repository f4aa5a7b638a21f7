/** A device's regions for vfio-user clients, with descriptors of the mappable parts. */
import { errno } from '../../../sys/errno.js';
import { SysError } from '../../../sys/error.js';
import { Fd } from '../../../sys/fd.js';
import type { Mapping } from '../../../sys/mapping.js';
import { Scope } from '../../../sys/scope.js';
import { mappableAreas, trapped } from '../../region-layout.js';
import {
  type DeviceFile,
  type RegionArea,
  type RegionInfo,
  VFIO_REGION_INFO_FLAG_CAPS,
  VFIO_REGION_INFO_FLAG_MMAP,
  VFIO_REGION_INFO_FLAG_WRITE,
} from '../../uapi.js';
import type { UserRegionInfo } from '../message.js';

/** A region, and the descriptor with which a client maps it. */
export interface ServedRegion {
  readonly info: UserRegionInfo;
  /** Offset of the region in the device file. */
  readonly offset: number;
  readonly fd: number | undefined;
}

export class ServedRegions implements Disposable {
  readonly #device: DeviceFile;
  readonly #scope = new Scope();
  readonly #known: ServedRegion[] = [];
  #infos: RegionInfo[] | undefined;

  constructor(device: DeviceFile) {
    this.#device = device;
  }

  /** @throws SysError EINVAL for an unknown index */
  region(index: number): ServedRegion {
    this.#known[index] ??= this.#open(index);
    return this.#known[index];
  }

  /** Offset in the device file of a range of a region. @throws SysError EINVAL for a range outside the region */
  place(index: number, offset: number, count: number): number {
    this.#infos ??= Array.from({ length: this.#device.getInfo().numRegions }, (_, i) =>
      this.#device.getRegionInfo(i),
    );
    const info = this.#infos[index];
    if (info !== undefined && offset + count <= info.size) return info.offset + offset;
    const hint = `bytes ${offset} to ${offset + count} of region ${index}, which has ${info?.size ?? 0}`;
    throw new SysError({ call: 'region access', target: this.#device.target, errno: errno.EINVAL, hint });
  }

  #open(index: number): ServedRegion {
    const info = this.#device.getRegionInfo(index);
    const { size, flags, capabilities, offset } = info;
    const plain = { index, size, flags: flags & ~VFIO_REGION_INFO_FLAG_CAPS, capabilities, fdOffset: 0 };
    // Another server's: its client decides whether to map it, not this process.
    const passed = this.#device.getRegionFile?.(index);
    if (passed !== undefined) {
      const { fd, offset: fdOffset } = passed.file;
      const passedFlags = passed.info.flags & ~VFIO_REGION_INFO_FLAG_CAPS;
      const { capabilities: areas } = passed.info;
      return { info: { ...plain, flags: passedFlags, capabilities: areas, fdOffset }, offset, fd: fd.number };
    }
    if ((flags & VFIO_REGION_INFO_FLAG_MMAP) === 0) return { info: plain, offset, fd: undefined };
    const file = this.#fileOf(info);
    if (file !== undefined) {
      // A region for reading only must not come with the right to write its file.
      const isWritable = (flags & VFIO_REGION_INFO_FLAG_WRITE) !== 0;
      const fd = isWritable ? file.fd : this.#scope.own(Fd.readOnly(file.fd, this.#device.target)).number;
      return { info: { ...plain, fdOffset: file.offset }, offset, fd };
    }
    // There is no descriptor to pass on: the client accesses the region by message.
    return { info: trapped(plain), offset, fd: undefined };
  }

  /** The file behind all mappable areas of a region, and the region's offset in it; undefined if there are several. */
  #fileOf(info: RegionInfo): { readonly fd: number; readonly offset: number } | undefined {
    const files = mappableAreas(info).map((area) => ({ area, mapping: this.#map(info, area) }));
    const [first] = files;
    const file = first?.mapping.file;
    if (first === undefined || file === undefined) return undefined;
    const start = file.offset - first.area.offset;
    const isOne = files.every(
      ({ area, mapping }) =>
        mapping.file?.fd.number === file.fd.number && mapping.file.offset - area.offset === start,
    );
    return isOne && start >= 0 ? { fd: file.fd.number, offset: start } : undefined;
  }

  #map(info: RegionInfo, area: RegionArea): Mapping {
    return this.#scope.own(this.#device.mmap(info.offset + area.offset, area.size));
  }

  [Symbol.dispose](): void {
    this.#scope[Symbol.dispose]();
  }
}
