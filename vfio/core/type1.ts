/** The type1 IOMMU driver: x86 IOMMUs and mediated devices. After drivers/vfio/vfio_iommu_type1.c. */
import { type Iova, iova as toIova } from '../../sys/address.js';
import { IOVA_PAGE_SIZES, mapProblem, mapProt, rangeProblem, U64_END, wraps } from '../dma-range.js';
import {
  type DmaMap,
  type DmaUnmap,
  type IommuInfo,
  VFIO_DMA_CC_IOMMU,
  VFIO_DMA_UNMAP_FLAG_ALL,
  VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP,
  VFIO_TYPE1_IOMMU,
  VFIO_TYPE1v2_IOMMU,
  VFIO_UNMAP_ALL,
} from '../uapi.js';
import { vfioError } from '../vfio-error.js';
import { DirtyPages, type DirtyRange } from './dirty-pages.js';
import { DMA_ENTRY_LIMIT, type Dma, DmaSpace } from './dma-space.js';
import type { CoreEnvironment } from './environment.js';
import {
  type DmaUnmapEvent,
  type IommuBackend,
  type IommuDriver,
  VFIO_IOMMU_NOTIFY_DMA_UNMAP,
} from './iommu-driver.js';
import type { IommuGroup } from './iommu-group.js';
import { intersectRanges, isInRanges } from './iova-ranges.js';
import { Mutex } from './locks.js';
import { BlockingNotifierChain, type NotifierBlock } from './notifier.js';
import type { Steps } from './steps.js';

export const type1Driver: IommuDriver = {
  name: 'vfio-iommu-type1',
  isNoiommu: false,
  checkExtension: (extension) => (extensions.includes(extension) ? 1 : 0),
  open(environment, type) {
    if (type !== VFIO_TYPE1_IOMMU && type !== VFIO_TYPE1v2_IOMMU)
      throw vfioError('VFIO_SET_IOMMU', 'container (core)', 'EINVAL', `${type} is an extension, not a type`);
    environment.allocate('vfio-iommu-type1');
    return new Type1(environment, type === VFIO_TYPE1v2_IOMMU);
  },
};

/** What needs no groups to answer; VFIO_DMA_CC_IOMMU depends on them, so before SET_IOMMU it is 0. */
const extensions: readonly number[] = [VFIO_TYPE1_IOMMU, VFIO_TYPE1v2_IOMMU, VFIO_UNMAP_ALL];

/** Argument of the core's UNMAP_DMA, which supports VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP. */
export interface DmaUnmapDirty extends DmaUnmap {
  readonly dirty?: Omit<DirtyRange, 'iova' | 'size'>;
}

class Type1 implements IommuBackend {
  readonly name = 'vfio-iommu-type1';
  readonly space: DmaSpace;
  readonly #environment: CoreEnvironment;
  readonly #isV2: boolean;
  readonly #tracking: DirtyPages;
  readonly #lock: Mutex;
  readonly #notifier: BlockingNotifierChain<DmaUnmapEvent>;
  readonly #groups = new Set<IommuGroup>();
  #iovaRanges: IommuInfo['iovaRanges'] = [];
  #dmaAvail = DMA_ENTRY_LIMIT;

  constructor(environment: CoreEnvironment, isV2: boolean) {
    this.#environment = environment;
    this.#isV2 = isV2;
    this.space = new DmaSpace(environment, 'container (core)');
    this.#tracking = new DirtyPages(this.space);
    this.#lock = new Mutex(environment, 'iommu->lock');
    this.#notifier = new BlockingNotifierChain(environment, 'iommu notifier', 'type1');
  }

  /** @throws SysError EACCES with VFIO_TYPE1_IOMMU: tracking requires version 2 */
  get dirtyPages(): DirtyPages {
    if (!this.#isV2) throw vfioError('VFIO_IOMMU_DIRTY_PAGES', this.space.target, 'EACCES', 'use type1v2');
    return this.#tracking;
  }

  checkExtension(extension: number): number {
    if (extension !== VFIO_DMA_CC_IOMMU) return type1Driver.checkExtension(extension);
    return [...this.#groups].every(({ capabilities }) => capabilities.isCoherent) ? 1 : 0;
  }

  *attachGroup(group: IommuGroup): Steps<void> {
    using _held = yield* this.#lock.acquire();
    const call = 'VFIO_GROUP_SET_CONTAINER';
    const ranges = intersectRanges(this.#iovaRanges, group.capabilities.iovaRanges);
    if (ranges === undefined)
      throw vfioError(call, group.target, 'EINVAL', 'no IOVA that all groups can reach');
    const conflict = this.space.maps.find(({ iova, size }) => !isInRanges(ranges, iova, size));
    if (conflict !== undefined) {
      const hint = `its IOMMU cannot reach 0x${conflict.iova.toString(16)}, which is mapped`;
      throw vfioError(call, group.target, 'EINVAL', hint);
    }
    this.#groups.add(group);
    this.#iovaRanges = ranges;
  }

  *detachGroup(group: IommuGroup): Steps<void> {
    using _held = yield* this.#lock.acquire();
    this.#groups.delete(group);
    if (group.capabilities.iovaRanges.length > 0) {
      const ranges = [...this.#groups].map(({ capabilities }) => capabilities.iovaRanges);
      this.#iovaRanges = ranges.reduce((all, next) => intersectRanges(all, next) ?? all, []);
    }
    if (this.#groups.size === 0) this.space.clear();
  }

  release(): void {
    const listeners = this.#notifier.blocks.map(({ name }) => name);
    if (listeners.length > 0) {
      this.#environment.warn(`${this.space.target} loses its IOMMU with listeners: ${listeners.join(', ')}`);
    }
    this.#environment.free('vfio-iommu-type1');
  }

  getInfo(): IommuInfo {
    return { pageSizes: IOVA_PAGE_SIZES, iovaRanges: this.#iovaRanges, dmaAvailable: this.#dmaAvail };
  }

  /** @see vfio_dma_do_map */
  *mapDma({ flags, iova, size, ...memory }: DmaMap): Steps<void> {
    const vaddr = memory.vaddr ?? 0n;
    const call = 'VFIO_IOMMU_MAP_DMA';
    const fail = (hint: string) => vfioError(call, this.space.target, 'EINVAL', hint);
    const problem = mapProblem({ flags, iova, vaddr, size });
    if (problem !== undefined) throw fail(problem);
    if (wraps(iova, size) || wraps(vaddr, size)) throw fail('the range wraps');
    using _held = yield* this.#lock.acquire();
    if (this.space.find(iova, size) !== undefined) {
      throw vfioError(call, this.space.target, 'EEXIST', `0x${iova.toString(16)} overlaps a map`);
    }
    if (this.#dmaAvail === 0)
      throw vfioError(call, this.space.target, 'ENOSPC', `${DMA_ENTRY_LIMIT} maps are the limit`);
    if (!isInRanges(this.#iovaRanges, iova, size)) throw fail('outside the IOVA ranges of GET_INFO');
    const prot = mapProt(flags);
    this.space.insert(call, iova, size, memory.remote ?? memory.vaddr, prot);
    this.#dmaAvail--;
    this.#environment.log.event('map_dma', { iova, size, vaddr, prot });
  }

  /**
   * Unmaps upwards: a driver that is notified of one map finds those below it unmapped already. Linux notifies only of
   * maps with pinned pages; here a driver may use pages that it has not pinned, so it is of each.
   * @see vfio_dma_do_unmap
   */
  *unmapDma({ flags, iova, size, dirty }: DmaUnmapDirty): Steps<bigint> {
    const range = this.#checkUnmap(flags, iova, size);
    const wanted = this.#checkDirty(flags, range, dirty);
    const end = range.iova + range.size;
    let unmapped = 0n;
    try {
      for (let from = range.iova; ; ) {
        const dma = yield* this.#firstOf(from, end);
        // Version 1 skips a map that begins before the range.
        if (dma === undefined || (!this.#isV2 && dma.iova < range.iova)) break;
        from = dma.last + 1n;
        yield* this.#letGo(dma);
        using _held = yield* this.#lock.acquire();
        if (dma.isUnlinked) continue;
        if (wanted !== undefined) this.#tracking.take(dma, wanted);
        this.space.unlink(dma);
        this.#dmaAvail++;
        unmapped += dma.size;
      }
    } finally {
      this.space.sweep();
    }
    this.#environment.log.event('unmap_dma', { iova, size, unmapped });
    return unmapped;
  }

  #checkUnmap(flags: number, iova: Iova, size: bigint): { iova: bigint; size: bigint } {
    const call = 'VFIO_IOMMU_UNMAP_DMA';
    const fail = (hint: string) => vfioError(call, this.space.target, 'EINVAL', hint);
    const known = VFIO_DMA_UNMAP_FLAG_ALL | VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP;
    if ((flags & ~known) !== 0 || (flags & known) === known) throw fail(`flags 0x${flags.toString(16)}`);
    if ((flags & VFIO_DMA_UNMAP_FLAG_ALL) !== 0) {
      if (iova !== 0n || size !== 0n) throw fail('UNMAP_ALL takes iova 0 and size 0');
      return { iova: 0n, size: U64_END };
    }
    const problem = rangeProblem({ iova, size });
    if (problem !== undefined) throw fail(problem);
    if (!this.#isV2) return { iova, size };
    const first = this.space.find(iova, 1n);
    const final = this.space.find(iova + size - 1n, 1n);
    if (first !== undefined && first.iova !== iova) throw fail('the range starts inside a map');
    if (final !== undefined && final.iova + final.size !== iova + size)
      throw fail('the range ends inside a map');
    return { iova, size };
  }

  #checkDirty(
    flags: number,
    range: { readonly iova: bigint; readonly size: bigint },
    dirty: DmaUnmapDirty['dirty'],
  ): DirtyRange | undefined {
    if ((flags & VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP) === 0) return undefined;
    if (dirty === undefined) {
      throw vfioError('VFIO_IOMMU_UNMAP_DMA', this.space.target, 'EINVAL', 'no bitmap for the dirty pages');
    }
    const wanted = { iova: toIova(range.iova), size: range.size, ...dirty };
    this.#tracking.check(wanted);
    if (!this.space.isTracking) {
      // Unmapping all the same would lose the pages of a migration.
      const hint = 'dirty page tracking is off';
      throw vfioError('VFIO_IOMMU_UNMAP_DMA', this.space.target, 'EINVAL', hint);
    }
    return wanted;
  }

  *#firstOf(from: bigint, end: bigint): Steps<Dma | undefined> {
    using _held = yield* this.#lock.acquire();
    return this.space.find(from, end - from);
  }

  /** Runs without the lock, because listeners unpin their pages, which takes the lock. */
  *#letGo(dma: Dma): Steps<void> {
    const range = { iova: toIova(dma.iova), size: dma.size };
    yield* this.#notifier.call(VFIO_IOMMU_NOTIFY_DMA_UNMAP, range);
    this.space.release(range.iova, range.size);
  }

  *registerNotifier(events: { mask: number }, block: NotifierBlock<DmaUnmapEvent>): Steps<void> {
    events.mask &= ~VFIO_IOMMU_NOTIFY_DMA_UNMAP;
    if (events.mask !== 0) {
      const hint = `unknown events 0x${events.mask.toString(16)}`;
      throw vfioError('vfio_register_notifier', this.space.target, 'EINVAL', hint);
    }
    yield* this.#notifier.register(block);
  }

  *unregisterNotifier(block: NotifierBlock<DmaUnmapEvent>): Steps<void> {
    yield* this.#notifier.unregister(block);
  }
}
