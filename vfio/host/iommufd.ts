import { join } from 'node:path';
import { formatRange, type Iova, iova } from '../../sys/address.js';
import { errno } from '../../sys/errno.js';
import { isErrno, SysError } from '../../sys/error.js';
import type { IoctlCall } from '../../sys/ioctl-task.js';
import { Mapping } from '../../sys/mapping.js';
import { remoteMemory } from '../remote-memory.js';
import {
  type DmaMap,
  type IoasMap,
  type IommufdFile,
  type IommuInfo,
  VFIO_DMA_MAP_FLAG_READ,
  VFIO_DMA_MAP_FLAG_WRITE,
} from '../uapi.js';
import { deniedHint } from './access.js';
import { explain, type HostContext } from './context.js';
import { absent, missingModuleHint } from './kernel-modules.js';
import { noMemoryHint } from './memlock.js';
import {
  IOMMU_DESTROY,
  IOMMU_IOAS_ALLOC,
  IOMMU_IOAS_IOVA_RANGES,
  IOMMU_IOAS_MAP,
  IOMMU_IOAS_MAP_FIXED_IOVA,
  IOMMU_IOAS_MAP_READABLE,
  IOMMU_IOAS_MAP_WRITEABLE,
  IOMMU_IOAS_UNMAP,
  IoasAlloc,
  IoasIovaRanges,
  IoasMap as IoasMapStruct,
  IoasUnmap,
  IommuDestroy,
  IommuIovaRange,
} from './structs-iommufd.js';
import type { SystemFile } from './system.js';

/** Enough for most hosts: the only holes are the MSI window and ranges that firmware reserves. */
const FIRST_RANGES = 64;
const RANGES_LIMIT = 2 ** 16;
const ROUNDS = 4;
const PAGE = 4096;

/** `/dev/iommu` of the kernel. */
export class HostIommufdFile implements IommufdFile {
  readonly #context: HostContext;
  readonly #file: SystemFile;

  /** @see IommufdFile.ioasMapCall */
  readonly ioasMapCall?: (ioas: number, map: DmaMap) => IoctlCall;

  private constructor(context: HostContext, file: SystemFile) {
    this.#context = context;
    this.#file = file;
    const call = file.call?.bind(file);
    if (call !== undefined)
      this.ioasMapCall = (ioas, map) => call(IOMMU_IOAS_MAP, this.#encodeMap(ioas, map));
  }

  /** @throws SysError ENODEV if the kernel does not have iommufd, or the module is not loaded; EACCES */
  static open(context: HostContext): HostIommufdFile {
    const path = join(context.roots.dev, 'iommu');
    try {
      return new HostIommufdFile(context, context.system.open(path));
    } catch (error) {
      if (isErrno(error, 'ENOENT') || isErrno(error, 'ENODEV') || isErrno(error, 'ENXIO')) {
        const hint = missingModuleHint(context.roots, 'iommufd', 'CONFIG_IOMMUFD (6.2)');
        throw absent(path, `${hint}; groups work without it`, error);
      }
      throw explain(error, ({ code }) =>
        code === 'EACCES'
          ? `${deniedHint(path)}; the device’s node under /dev/vfio/devices needs the same`
          : undefined,
      );
    }
  }

  /** Takes ownership of a file that another process opened. */
  static adopt(context: HostContext, file: SystemFile): HostIommufdFile {
    return new HostIommufdFile(context, file);
  }

  get target(): string {
    return this.#file.target;
  }

  get fd(): number {
    return this.#file.fd;
  }

  ioasAlloc(): number {
    const alloc = IoasAlloc.encode({ size: IoasAlloc.size });
    this.#file.ioctl(IOMMU_IOAS_ALLOC, alloc);
    return IoasAlloc.decode(alloc).out_ioas_id;
  }

  ioasMap(ioas: number, map: IoasMap): Iova {
    const request = this.#encodeMap(ioas, map);
    try {
      this.#file.ioctl(IOMMU_IOAS_MAP, request, this.#targetOf(ioas, map));
    } catch (error) {
      throw explain(error, ({ code }) =>
        code === 'ENOMEM' ? noMemoryHint(this.#context.roots, Number(map.size)) : undefined,
      );
    }
    return iova(IoasMapStruct.decode(request).iova);
  }

  #targetOf(ioas: number, { iova: at, size }: IoasMap): string {
    return `${this.target} IOAS ${ioas}, ${at === undefined ? `${size} bytes` : `IOVA ${formatRange(at, size)}`}`;
  }

  #encodeMap(ioas: number, map: IoasMap): Uint8Array {
    const { vaddr, remote, size: length } = map;
    const target = this.#targetOf(ioas, map);
    if (remote !== undefined) throw remoteMemory(IOMMU_IOAS_MAP.name, target);
    // The kernel has flags of its own for this call, so it would not see the unknown ones.
    if ((map.flags & ~(VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE)) !== 0) {
      const hint = `flags 0x${map.flags.toString(16)}`;
      throw new SysError({ call: IOMMU_IOAS_MAP.name, target, errno: errno.ENOTSUP, hint });
    }
    const isReadable = (map.flags & VFIO_DMA_MAP_FLAG_READ) !== 0;
    const isWritable = (map.flags & VFIO_DMA_MAP_FLAG_WRITE) !== 0;
    return IoasMapStruct.encode({
      size: IoasMapStruct.size,
      flags:
        (isReadable ? IOMMU_IOAS_MAP_READABLE : 0) |
        (isWritable ? IOMMU_IOAS_MAP_WRITEABLE : 0) |
        (map.iova === undefined ? 0 : IOMMU_IOAS_MAP_FIXED_IOVA),
      ioas_id: ioas,
      user_va: vaddr,
      length,
      iova: map.iova ?? 0n,
    });
  }

  ioasUnmap(
    ioas: number,
    { iova: at, size: length }: { readonly iova: Iova; readonly size: bigint },
  ): bigint {
    const unmap = IoasUnmap.encode({ size: IoasUnmap.size, ioas_id: ioas, iova: at, length });
    this.#file.ioctl(IOMMU_IOAS_UNMAP, unmap, `${this.target} IOAS ${ioas}, IOVA ${formatRange(at, length)}`);
    return IoasUnmap.decode(unmap).length;
  }

  ioasIovaRanges(ioas: number): IommuInfo['iovaRanges'] {
    const target = `${this.target} IOAS ${ioas}`;
    let room = FIRST_RANGES;
    for (let round = 0; round < ROUNDS; round++) {
      using memory = Mapping.anonymous(Math.ceil((room * IommuIovaRange.size) / PAGE) * PAGE);
      const request = IoasIovaRanges.encode({
        size: IoasIovaRanges.size,
        ioas_id: ioas,
        num_iovas: room,
        allowed_iovas: memory.hva,
      });
      try {
        this.#file.ioctl(IOMMU_IOAS_IOVA_RANGES, request, target);
      } catch (error) {
        const { num_iovas: needed } = IoasIovaRanges.decode(request);
        if (!isErrno(error, 'EMSGSIZE') || needed > RANGES_LIMIT) throw error;
        room = Math.max(needed, room + 1);
        continue;
      }
      const count = Math.min(IoasIovaRanges.decode(request).num_iovas, room);
      const bytes = memory.view.slice(0, count * IommuIovaRange.size).slice();
      return Array.from({ length: count }, (_, i) => {
        const { start, last } = IommuIovaRange.decode(bytes, i * IommuIovaRange.size);
        return { start: iova(start), last: iova(last) };
      });
    }
    throw new SysError({ call: IOMMU_IOAS_IOVA_RANGES.name, target, errno: errno.EPROTO });
  }

  destroy(id: number): void {
    this.#file.ioctl(
      IOMMU_DESTROY,
      IommuDestroy.encode({ size: IommuDestroy.size, id }),
      `${this.target}, object ${id}`,
    );
  }

  [Symbol.dispose](): void {
    this.#file[Symbol.dispose]();
  }
}
