/** The layout of regions in a device file, and their mappable parts. */
import { PAGE_SIZE } from '../sys/address.js';
import {
  type RegionArea,
  type RegionInfo,
  VFIO_REGION_INFO_CAP_SPARSE_MMAP,
  VFIO_REGION_INFO_FLAG_MMAP,
} from './uapi.js';

const PAGE = Number(PAGE_SIZE);
/**
 * Bytes from one region's start to the next one's: vfio-pci's `index << 40`. Kernel devices report their own offsets.
 */
const REGION_STRIDE = 2 ** 40;

/** Offset of a region in its device file. */
export const regionOffset = (index: number): number => index * REGION_STRIDE;

/** Converts an offset in the device file to a region's index and an offset in that region. */
export function regionPlace(offset: number): { readonly index: number; readonly at: number } {
  const index = Math.floor(offset / REGION_STRIDE);
  return { index, at: offset - regionOffset(index) };
}

/** The areas of VFIO_REGION_INFO_CAP_SPARSE_MMAP; undefined without that capability. */
export function sparseAreas({
  capabilities,
}: Pick<RegionInfo, 'capabilities'>): readonly RegionArea[] | undefined {
  for (const capability of capabilities)
    if (capability.id === VFIO_REGION_INFO_CAP_SPARSE_MMAP) return capability.areas;
  return undefined;
}

/** Bytes of a region that can be mapped: its last page may be used only in part. */
export const mappableBytes = (size: number): number => Math.ceil(size / PAGE) * PAGE;

/** The mappable areas of a region with VFIO_REGION_INFO_FLAG_MMAP. */
export const mappableAreas = (info: Pick<RegionInfo, 'capabilities' | 'size'>): readonly RegionArea[] =>
  sparseAreas(info) ?? [{ offset: 0, size: mappableBytes(info.size) }];

/** Why bytes of a region cannot be mapped; undefined if they can. */
export function mmapProblem(info: RegionInfo, at: number, bytes: number): string | undefined {
  if ((info.flags & VFIO_REGION_INFO_FLAG_MMAP) === 0) return `region ${info.index} cannot be mapped`;
  if (bytes <= 0 || bytes % PAGE !== 0 || at % PAGE !== 0)
    return 'offset and size must be multiples of a page';
  if (mappableAreas(info).some((area) => at >= area.offset && at + bytes <= area.offset + area.size))
    return undefined;
  return `bytes 0x${at.toString(16)}..0x${(at + bytes).toString(16)} of region ${info.index} cannot be mapped`;
}

/** The same info without the flag and capabilities that allow mmap: every access to the region traps. */
export const trapped = <T extends Pick<RegionInfo, 'flags' | 'capabilities'>>(info: T): T => ({
  ...info,
  flags: info.flags & ~VFIO_REGION_INFO_FLAG_MMAP,
  capabilities: info.capabilities.filter(({ id }) => id !== VFIO_REGION_INFO_CAP_SPARSE_MMAP),
});
