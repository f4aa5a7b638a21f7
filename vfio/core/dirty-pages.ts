/** VFIO_IOMMU_DIRTY_PAGES: reports the pages that devices have written since the last report. */
import type { Iova } from '../../sys/address.js';
import { IOMMU_PAGE, rangeProblem } from '../dma-range.js';
import { vfioError } from '../vfio-error.js';
import { type Dma, type DmaSpace, newBitmap } from './dma-space.js';

/** Bytes of the largest bitmap: DIRTY_BITMAP_SIZE_MAX. */
const BITMAP_LIMIT = 2 ** 28;

/** A range to report; one bit per page, lowest bit first. */
export interface DirtyRange {
  readonly iova: Iova;
  readonly size: bigint;
  /** Bytes; must be the IOMMU's smallest page size. */
  readonly pageSize: bigint;
  /** Receives the bits of dirty pages; no bit is cleared. Whole units of 8 bytes: DIRTY_BITMAP_BYTES. */
  readonly bitmap: Uint8Array;
}

/** Dirty page tracking of one type1v2 container. */
export class DirtyPages {
  readonly #space: DmaSpace;

  constructor(space: DmaSpace) {
    this.#space = space;
  }

  /** FLAG_START. Pinned pages count as dirty. */
  start(): void {
    if (!this.#space.isTracking) this.#space.startTracking();
  }

  /** FLAG_STOP. */
  stop(): void {
    if (this.#space.isTracking) this.#space.stopTracking();
  }

  /**
   * FLAG_GET_BITMAP: sets the bits of dirty pages, and marks these pages clean.
   * @throws SysError EINVAL if tracking is off, the range is empty, misaligned, wraps or would split a map, or the
   *   bitmap is too short
   */
  getBitmap(range: DirtyRange): void {
    this.check(range);
    if (!this.#space.isTracking) throw this.#invalid('dirty page tracking is off');
    const { iova, size } = range;
    const end = iova + size;
    const first = this.#space.find(iova, 1n);
    const lastMap = this.#space.find(end - 1n, 1n);
    if (first !== undefined && first.iova !== iova) throw this.#invalid('the range starts inside a map');
    if (lastMap !== undefined && lastMap.iova + lastMap.size !== end)
      throw this.#invalid('the range ends inside a map');
    for (let at: bigint = iova; at < end; ) {
      const dma = this.#space.find(at, end - at);
      if (dma === undefined) return;
      this.take(dma, range);
      at = dma.iova + dma.size;
    }
  }

  /** @throws SysError EINVAL for a wrong page size, an invalid range, or a bitmap that is too short or too long */
  check({ iova, size, pageSize, bitmap }: DirtyRange): void {
    if (pageSize !== IOMMU_PAGE) throw this.#invalid(`the page size must be ${IOMMU_PAGE}`);
    const problem = rangeProblem({ iova, size });
    if (problem !== undefined) throw this.#invalid(problem);
    const units = (size / pageSize + 63n) / 64n;
    if (BigInt(bitmap.length) < units * 8n)
      throw this.#invalid(`the bitmap is too short for the range, which takes ${units} times 8 bytes`);
    if (bitmap.length > BITMAP_LIMIT) throw this.#invalid(`a bitmap has ${BITMAP_LIMIT} bytes at most`);
  }

  /** Moves a map's dirty bits into the range's bitmap. */
  take(dma: Dma, { iova, bitmap }: DirtyRange): void {
    const { dirty } = dma;
    if (dirty === undefined) return;
    const shift = Number((dma.iova - iova) / IOMMU_PAGE);
    for (let page = 0; page < Number(dma.size / IOMMU_PAGE); page++) {
      if (((dirty[page >>> 3] as number) & (1 << (page & 7))) === 0) continue;
      const bit = shift + page;
      bitmap[bit >>> 3] = (bitmap[bit >>> 3] as number) | (1 << (bit & 7));
    }
    dma.dirty = newBitmap(dma);
  }

  #invalid(hint: string) {
    return vfioError('VFIO_IOMMU_DIRTY_PAGES', this.#space.target, 'EINVAL', hint);
  }
}
