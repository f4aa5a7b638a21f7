/**
 * Checks of ranges to map and unmap, shared by all IOMMUs of this package. After vfio_dma_do_map and
 * vfio_dma_do_unmap. They return a problem as the error's hint; the caller adds the errno, which differs between them.
 */
import { PAGE_SIZE } from '../sys/address.js';
import { dmaProt } from './dma-table.js';
import { type DmaMap, VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE } from './uapi.js';

export const IOMMU_PAGE = PAGE_SIZE;
/** End of the I/O address space. */
export const U64_END = 1n << 64n;

/** iova_pgsizes of VFIO_IOMMU_TYPE1_INFO: every multiple of a page can be mapped. */
export const IOVA_PAGE_SIZES = U64_END - IOMMU_PAGE;

export interface DmaRange {
  readonly iova: bigint;
  readonly size: bigint;
}

export const wraps = (start: bigint, size: bigint): boolean => start + size > U64_END;

export const overlaps = (a: DmaRange, b: DmaRange): boolean =>
  a.iova < b.iova + b.size && b.iova < a.iova + a.size;

/** Whether `outer` contains all of `inner`. */
export const holds = (outer: DmaRange, inner: DmaRange): boolean =>
  outer.iova <= inner.iova && inner.iova + inner.size <= outer.iova + outer.size;

/**
 * The problem with a map's flags or alignment; undefined if there is none. Callers check with {@link wraps} separately.
 * @param map has no IOVA if the IOMMU is to choose it
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

/** The problem with a range of pages; undefined if there is none. */
export function rangeProblem({ iova, size }: DmaRange): string | undefined {
  if (size <= 0n || (size | iova) % IOMMU_PAGE !== 0n) return 'the range is misaligned or empty';
  return wraps(iova, size) ? 'the range wraps' : undefined;
}

/** Converts VFIO_DMA_MAP_FLAG_ bits to PROT_ bits. */
export const mapProt = (flags: number): number =>
  dmaProt((flags & VFIO_DMA_MAP_FLAG_READ) !== 0, (flags & VFIO_DMA_MAP_FLAG_WRITE) !== 0);
