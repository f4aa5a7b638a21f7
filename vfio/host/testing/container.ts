import {
  VFIO_DMA_MAP_FLAG_READ,
  VFIO_DMA_MAP_FLAG_WRITE,
  VFIO_DMA_UNMAP_FLAG_ALL,
  VFIO_UNMAP_ALL,
} from '../../uapi.js';
import { InfoCapHeader } from '../structs.js';
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
  VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION,
  VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL,
  VFIO_IOMMU_UNMAP_DMA,
  VFIO_SET_IOMMU,
} from '../structs-type1.js';
import { argszOf, type FakeObject, refuse, structure } from './call.js';
import type { FakeGroup, FakeKernel } from './kernel.js';

const PAGE = 4096n;
const PAGE_SIZES = 0x4020_1000n; // 4 KiB, 2 MiB, 1 GiB
/** VT-d of 48 bits, with the hole for MSIs. */
const IOVA_RANGES = [
  { start: 0n, end: 0xfedf_ffffn },
  { start: 0xfef0_0000n, end: 0xffff_ffff_ffffn },
];

/** A capability without its header, for {@link chain}. */
export interface FakeCapability {
  readonly id: number;
  readonly version?: number;
  readonly body: Uint8Array;
}

/**
 * Appends capabilities to a fixed structure as the kernel does, each 4-byte aligned.
 * @param fixed with room for `cap_offset` at byte `capOffsetAt`
 */
export function chain(
  fixed: Uint8Array,
  capOffsetAt: number,
  capabilities: readonly FakeCapability[],
): Uint8Array {
  const parts = [fixed];
  let end = fixed.length;
  const view = new DataView(fixed.buffer, fixed.byteOffset);
  let writeNext = (at: number) => view.setUint32(capOffsetAt, at, true);
  for (const { id, version = 1, body } of capabilities) {
    const at = Math.ceil(end / 4) * 4;
    const bytes = new Uint8Array(InfoCapHeader.size + body.length + (at - end));
    InfoCapHeader.write(bytes, { id, version }, at - end);
    bytes.set(body, at - end + InfoCapHeader.size);
    writeNext(at);
    const header = at - end;
    writeNext = (next) => InfoCapHeader.write(bytes, { next }, header);
    parts.push(bytes);
    end += bytes.length;
  }
  return new Uint8Array(Buffer.concat(parts));
}

/** Answers an info ioctl: all of it if it fits, else the fixed part without a chain; `argsz` tells what is needed. */
export function answerInfo(bytes: Uint8Array, least: number, full: Uint8Array, capOffsetAt: number): number {
  const argsz = argszOf(bytes, least);
  const answer = full.slice();
  const view = new DataView(answer.buffer);
  view.setUint32(0, full.length, true);
  if (argsz < full.length && capOffsetAt + 4 <= argsz) view.setUint32(capOffsetAt, 0, true);
  bytes.set(answer.subarray(0, Math.min(argsz, full.length)));
  return 0;
}

/** A container with a type1 IOMMU. */
export class FakeContainer implements FakeObject {
  type: number | undefined;
  readonly #kernel: FakeKernel;
  readonly #groups = new Set<FakeGroup>();
  #maps: { readonly iova: bigint; readonly size: bigint }[] = [];

  constructor(kernel: FakeKernel) {
    this.#kernel = kernel;
  }

  attach(group: FakeGroup): void {
    for (const other of this.#groups) if (other.isNoiommu !== group.isNoiommu) refuse('EPERM');
    this.#groups.add(group);
  }

  detach(group: FakeGroup): void {
    this.#groups.delete(group);
    if (this.#groups.size > 0) return;
    this.type = undefined;
    this.#maps = [];
  }

  ioctl(number: number, argument: number | Uint8Array): number {
    switch (number) {
      case VFIO_GET_API_VERSION.number:
        return 0;
      case VFIO_CHECK_EXTENSION.number:
        return argument === VFIO_UNMAP_ALL || this.#kernel.iommuTypes.includes(Number(argument)) ? 1 : 0;
      case VFIO_SET_IOMMU.number: {
        const [group] = this.#groups;
        if (group === undefined || this.type !== undefined) refuse('EINVAL');
        // type1 claims the number, and then it is none of its types.
        if (argument === VFIO_UNMAP_ALL) refuse('EINVAL');
        if (!this.#kernel.takesType(Number(argument), group.isNoiommu)) refuse('ENODEV');
        this.type = Number(argument);
        return 0;
      }
    }
    if (this.type === undefined) refuse('EINVAL');
    switch (number) {
      case VFIO_IOMMU_GET_INFO.number:
        return answerInfo(structure(argument), 16, this.#info(), Type1Info.offsets.cap_offset);
      case VFIO_IOMMU_MAP_DMA.number:
        return this.#map(structure(argument));
      case VFIO_IOMMU_UNMAP_DMA.number:
        return this.#unmap(structure(argument));
      default:
        return refuse('ENOTTY');
    }
  }

  #info(): Uint8Array {
    const flags = VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS;
    const head = InfoCapHeader.size;
    const avail = CapDmaAvail.encode({ avail: this.#kernel.dmaEntryLimit - this.#maps.length });
    const ranges = CapIovaRange.encode({ nr_iovas: IOVA_RANGES.length }, IOVA_RANGES.length * IovaRange.size);
    for (const [i, range] of IOVA_RANGES.entries())
      IovaRange.write(ranges, range, CapIovaRange.size + i * IovaRange.size);
    return chain(Type1Info.encode({ flags, iova_pgsizes: PAGE_SIZES }), Type1Info.offsets.cap_offset, [
      { id: VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION, body: new Uint8Array(24) },
      { id: VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, body: avail.subarray(head) },
      { id: VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, body: ranges.subarray(head) },
    ]);
  }

  #map(bytes: Uint8Array): number {
    argszOf(bytes, DmaMapStruct.size);
    const { flags, vaddr, iova, size } = DmaMapStruct.decode(bytes);
    const known = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
    if ((flags & ~known) !== 0 || (flags & known) === 0) refuse('EINVAL');
    if (size === 0n || (size | vaddr | iova) % PAGE !== 0n || iova + size > 1n << 64n) refuse('EINVAL');
    if (this.#maps.some((map) => iova < map.iova + map.size && map.iova < iova + size)) refuse('EEXIST');
    if (this.#maps.length >= this.#kernel.dmaEntryLimit) refuse('ENOSPC');
    const isInside = IOVA_RANGES.some(({ start, end }) => iova >= start && iova + size - 1n <= end);
    if (!isInside) refuse('EINVAL');
    const locked = this.#maps.reduce((sum, map) => sum + map.size, 0n);
    if (Number(locked + size) > this.#kernel.memlock) refuse('ENOMEM');
    this.#maps.push({ iova, size });
    return 0;
  }

  #unmap(bytes: Uint8Array): number {
    argszOf(bytes, DmaUnmapStruct.size);
    const { flags, iova, size } = DmaUnmapStruct.decode(bytes);
    const isAll = flags === VFIO_DMA_UNMAP_FLAG_ALL;
    if (flags !== 0 && !isAll) refuse('EINVAL');
    if (isAll ? size !== 0n || iova !== 0n : size === 0n || (size | iova) % PAGE !== 0n) refuse('EINVAL');
    const [from, to] = isAll ? [0n, 1n << 64n] : [iova, iova + size];
    const touched = this.#maps.filter((map) => map.iova < to && from < map.iova + map.size);
    if (touched.some((map) => map.iova < from || map.iova + map.size > to)) refuse('EINVAL');
    this.#maps = this.#maps.filter((map) => !touched.includes(map));
    DmaUnmapStruct.write(bytes, { size: touched.reduce((sum, map) => sum + map.size, 0n) });
    return 0;
  }
}
