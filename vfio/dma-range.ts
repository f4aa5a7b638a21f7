/**
 * What every IOMMU of ours demands of the ranges that are mapped and unmapped, after vfio_dma_do_map and
 * vfio_dma_do_unmap. A problem is returned as the hint of the error; its errno is the caller's, as the kernel's differ.
 */
import { PAGE_SIZE } from '../sys/address.js';
import { dmaProt } from './dma-table.js';
import { type DmaMap, VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE } from './uapi.js';

export const IOMMU_PAGE = PAGE_SIZE;
/** End of the I/O address space. */
export const U64_END = 1n << 64n;

/** VFIO_IOMMU_TYPE1_INFO's iova_pgsizes: any multiple of a page. */
export const IOVA_PAGE_SIZES = U64_END - IOMMU_PAGE;

export interface DmaRange {
  readonly iova: bigint;
  readonly size: bigint;
}

export const wraps = (start: bigint, size: bigint): boolean => start + size > U64_END;

export const overlaps = (a: DmaRange, b: DmaRange): boolean =>
  a.iova < b.iova + b.size && b.iova < a.iova + a.size;

/** Whether all of `inner` lies in `outer`. */
export const holds = (outer: DmaRange, inner: DmaRange): boolean =>
  outer.iova <= inner.iova && inner.iova + inner.size <= outer.iova + outer.size;

/**
 * What is wrong with a map's flags or alignment, undefined if nothing is. Whether it wraps is for the caller to ask.
 * @param map without an IOVA if that is still to be chosen
 */
export function mapProblem(
  map: Pick<DmaMap, 'flags' | 'size'> & {
    readonly iova?: bigint | undefined;
    readonly vaddr?: bigint | undefined;
  },
): string | undefined {
  const { flags, iova = 0n, vaddr = 0n, size } = map;
  const known = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
  if ((flags & ~known) !== 0 || (flags & known) === 0) return `flags 0x${flags.toString(16)}`;
  if (size > 0n && (size | iova | vaddr) % IOMMU_PAGE === 0n) return undefined;
  return 'address, IOVA and size must be multiples of the page size, and the size more than 0';
}

/** What is wrong with a range of pages, undefined if nothing is. */
export function rangeProblem({ iova, size }: DmaRange): string | undefined {
  if (size <= 0n || (size | iova) % IOMMU_PAGE !== 0n) return 'the range is misaligned or empty';
  return wraps(iova, size) ? 'the range wraps' : undefined;
}

/** VFIO_DMA_MAP_FLAG_ bits as PROT_ bits. */
export const mapProt = (flags: number): number =>
  dmaProt((flags & VFIO_DMA_MAP_FLAG_READ) !== 0, (flags & VFIO_DMA_MAP_FLAG_WRITE) !== 0);
