import { formatRange, iova, PAGE_SIZE } from '../../sys/address.js';
import { isErrno } from '../../sys/error.js';
import type { IoctlCall } from '../../sys/ioctl-task.js';
import { remoteMemory } from '../remote-memory.js';
import type { ContainerFile, DmaMap, DmaUnmap, IommuInfo } from '../uapi.js';
import { grantCommand } from './access.js';
import { decodeList, decodeWithin, walkCapabilityChain } from './capability-chain.js';
import { explain, type HostContext, vfioPath } from './context.js';
import { decodeReply, infoIoctl } from './info-call.js';
import { absent, missingModuleHint } from './kernel-modules.js';
import { noMemoryHint } from './memlock.js';
import {
  CapDmaAvail,
  CapIovaRange,
  DmaMapStruct,
  DmaUnmapStruct,
  IovaRange,
  Type1Info,
  VFIO_CHECK_EXTENSION,
  VFIO_GET_API_VERSION,
  VFIO_IOMMU_GET_INFO,
  VFIO_IOMMU_INFO_CAPS,
  VFIO_IOMMU_INFO_PGSIZES,
  VFIO_IOMMU_MAP_DMA,
  VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE,
  VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL,
  VFIO_IOMMU_UNMAP_DMA,
  VFIO_SET_IOMMU,
} from './structs-type1.js';
import type { SystemFile } from './system.js';

/** `/dev/vfio/vfio` of the kernel. */
export class HostContainerFile implements ContainerFile {
  readonly #context: HostContext;
  readonly #file: SystemFile;

  /** @see ContainerFile.mapDmaCall */
  readonly mapDmaCall?: (map: DmaMap) => IoctlCall;

  private constructor(context: HostContext, file: SystemFile) {
    this.#context = context;
    this.#file = file;
    const call = file.call?.bind(file);
    if (call !== undefined) this.mapDmaCall = (map) => call(VFIO_IOMMU_MAP_DMA, this.#encodeMap(map));
  }

  /** @throws SysError ENODEV if the kernel does not have VFIO, or the module is not loaded; EACCES */
  static open(context: HostContext): HostContainerFile {
    const path = vfioPath(context, 'vfio');
    try {
      return new HostContainerFile(context, context.system.open(path));
    } catch (error) {
      if (isErrno(error, 'ENOENT') || isErrno(error, 'ENODEV') || isErrno(error, 'ENXIO')) {
        const hint = missingModuleHint(context.roots, 'vfio', 'CONFIG_VFIO (or CONFIG_VFIO_CONTAINER)');
        throw absent(path, hint.replace(/^modprobe vfio\b/, 'modprobe vfio-pci'), error);
      }
      throw explain(error, ({ code }) =>
        code === 'EACCES' || code === 'EPERM' ? containerHint(path) : undefined,
      );
    }
  }

  /** Takes ownership of a file that another process opened. */
  static adopt(context: HostContext, file: SystemFile): HostContainerFile {
    return new HostContainerFile(context, file);
  }

  get target(): string {
    return this.#file.target;
  }

  get fd(): number {
    return this.#file.fd;
  }

  getApiVersion(): number {
    return this.#file.ioctl(VFIO_GET_API_VERSION);
  }

  checkExtension(extension: number): number {
    return this.#file.ioctl(VFIO_CHECK_EXTENSION, extension);
  }

  setIommu(type: number): void {
    this.#file.ioctl(VFIO_SET_IOMMU, type);
  }

  getIommuInfo(): IommuInfo {
    const reply = infoIoctl(this.#file, VFIO_IOMMU_GET_INFO, Type1Info.encode());
    return decodeReply(VFIO_IOMMU_GET_INFO, this.target, () => decodeIommuInfo(reply));
  }

  mapDma(map: DmaMap): void {
    try {
      this.#file.ioctl(VFIO_IOMMU_MAP_DMA, this.#encodeMap(map), this.#targetOf(map));
    } catch (error) {
      throw explain(error, ({ code }) =>
        code === 'ENOMEM' ? noMemoryHint(this.#context.roots, Number(map.size)) : undefined,
      );
    }
  }

  #encodeMap(map: DmaMap): Uint8Array {
    const { flags, vaddr, remote, iova: at, size } = map;
    if (remote !== undefined) throw remoteMemory(VFIO_IOMMU_MAP_DMA.name, this.#targetOf(map));
    return DmaMapStruct.encode({ argsz: DmaMapStruct.size, flags, vaddr, iova: at, size });
  }

  #targetOf({ iova: at, size }: DmaMap): string {
    return `${this.target}, IOVA ${formatRange(at, size)}`;
  }

  unmapDma({ flags, iova, size }: DmaUnmap): bigint {
    const unmap = DmaUnmapStruct.encode({ argsz: DmaUnmapStruct.size, flags, iova, size });
    this.#file.ioctl(VFIO_IOMMU_UNMAP_DMA, unmap, `${this.target}, IOVA ${formatRange(iova, size)}`);
    return DmaUnmapStruct.decode(unmap).size;
  }

  [Symbol.dispose](): void {
    this.#file[Symbol.dispose]();
  }
}

/**
 * Decodes the reply of VFIO_IOMMU_GET_INFO. Ignores unknown capabilities and the one for migration.
 * @throws MalformedReply for a chain that violates the uAPI
 */
export function decodeIommuInfo(reply: Uint8Array): IommuInfo {
  const fixed = decodeWithin(reply, 0, Type1Info);
  const hasChain = (fixed.flags & VFIO_IOMMU_INFO_CAPS) !== 0 && fixed.cap_offset !== 0;
  let iovaRanges: IommuInfo['iovaRanges'] = [];
  let dmaAvailable: number | undefined;
  for (const { id, at } of hasChain ? walkCapabilityChain(reply, fixed.cap_offset, Type1Info.size) : []) {
    if (id === VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE) {
      const { nr_iovas } = decodeWithin(reply, at, CapIovaRange);
      const ranges = decodeList(reply, at + CapIovaRange.size, nr_iovas, IovaRange);
      iovaRanges = ranges.map(({ start, end }) => ({ start: iova(start), last: iova(end) }));
    } else if (id === VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL) {
      dmaAvailable = decodeWithin(reply, at, CapDmaAvail).avail;
    }
  }
  const hasSizes = (fixed.flags & VFIO_IOMMU_INFO_PGSIZES) !== 0;
  return { pageSizes: hasSizes ? fixed.iova_pgsizes : PAGE_SIZE, iovaRanges, dmaAvailable };
}

/** Any user may open it by the kernel's own mode. */
const containerHint = (path: string): string =>
  `it is 0666 by default: sudo chmod 0666 ${path}; the group’s file as well: ${grantCommand('/dev/vfio/GROUP')}`;
