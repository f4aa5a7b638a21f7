import { formatRange, type Iova, iova } from '../../sys/address.js';
import { type DmaMap, VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE } from '../uapi.js';
import { attachStep } from './attach-step.js';
import type { MemoryListener, MemoryRegion } from './guest-memory.js';

/** Translates devices' DMA: a container, or an IOAS. */
export interface DmaTarget {
  map(map: DmaMap): void;
  unmap(iova: Iova, bytes: bigint): void;
}

/** Maps each region of guest memory at IOVA = guest physical address, and unmaps it when the region is removed. */
export class DmaMaps implements MemoryListener {
  readonly space: string;
  readonly #target: DmaTarget;
  readonly #mapped = new Set<MemoryRegion>();

  /** @param space names the I/O address space */
  constructor(target: DmaTarget, space: string) {
    this.#target = target;
    this.space = space;
  }

  iovaOf(region: MemoryRegion): Iova | undefined {
    return this.#mapped.has(region) ? iova(region.gpa) : undefined;
  }

  added(region: MemoryRegion): void {
    const range = formatRange(region.gpa, region.bytes);
    try {
      this.#target.map({
        flags: VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
        vaddr: region.hva,
        iova: iova(region.gpa),
        size: region.bytes,
      });
      this.#mapped.add(region);
      attachStep(`DMA map ${range} (${region.name})`);
    } catch (error) {
      // Without RAM the device cannot work; without another device's BAR it only lacks peer-to-peer DMA.
      if (region.kind === 'ram') throw error;
      attachStep(
        `no DMA map ${range} (${region.name}), so no peer-to-peer DMA to it: ${(error as Error).message}`,
      );
    }
  }

  removed(region: MemoryRegion): void {
    if (this.#mapped.delete(region)) this.#target.unmap(iova(region.gpa), region.bytes);
  }
}
