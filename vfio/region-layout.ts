/** Where regions lie in a device file, and which parts of them can be mapped. */
import { PAGE_SIZE } from '../sys/address.js';
import {
  type RegionArea,
  type RegionInfo,
  VFIO_REGION_INFO_CAP_SPARSE_MMAP,
  VFIO_REGION_INFO_FLAG_MMAP,
} from './uapi.js';

const PAGE = Number(PAGE_SIZE);
/** Bytes from the start of one region to that of the next: vfio-pci's `index << 40`. The kernel's own come with its answers. */
const REGION_STRIDE = 2 ** 40;

/** Where a region starts in its device file. */
export const regionOffset = (index: number): number => index * REGION_STRIDE;

/** The region that an offset of the device file is in, if there is one, and where. */
export function regionPlace(offset: number): { readonly index: number; readonly at: number } {
  const index = Math.floor(offset / REGION_STRIDE);
  return { index, at: offset - regionOffset(index) };
}

/** Areas that can be mapped, if only parts can be: undefined without VFIO_REGION_INFO_CAP_SPARSE_MMAP. */
export function sparseAreas({
  capabilities,
}: Pick<RegionInfo, 'capabilities'>): readonly RegionArea[] | undefined {
  for (const capability of capabilities)
    if (capability.id === VFIO_REGION_INFO_CAP_SPARSE_MMAP) return capability.areas;
  return undefined;
}

/** Bytes that maps of a region can cover: it may use its last page only in part. */
export const mappableBytes = (size: number): number => Math.ceil(size / PAGE) * PAGE;

/** Areas of a region with VFIO_REGION_INFO_FLAG_MMAP that can be mapped. */
export const mappableAreas = (info: Pick<RegionInfo, 'capabilities' | 'size'>): readonly RegionArea[] =>
  sparseAreas(info) ?? [{ offset: 0, size: mappableBytes(info.size) }];

/** Why bytes of a region cannot be mapped; undefined if they can be. */
export function mmapProblem(info: RegionInfo, at: number, bytes: number): string | undefined {
  if ((info.flags & VFIO_REGION_INFO_FLAG_MMAP) === 0) return `region ${info.index} cannot be mapped`;
  if (bytes <= 0 || bytes % PAGE !== 0 || at % PAGE !== 0)
    return 'offset and size must be multiples of a page';
  if (mappableAreas(info).some((area) => at >= area.offset && at + bytes <= area.offset + area.size))
    return undefined;
  return `bytes 0x${at.toString(16)}..0x${(at + bytes).toString(16)} of region ${info.index} cannot be mapped`;
}

/** The region as one that cannot be mapped. */
export const trapped = <T extends Pick<RegionInfo, 'flags' | 'capabilities'>>(info: T): T => ({
  ...info,
  flags: info.flags & ~VFIO_REGION_INFO_FLAG_MMAP,
  capabilities: info.capabilities.filter(({ id }) => id !== VFIO_REGION_INFO_CAP_SPARSE_MMAP),
});
