import { formatRange, type Iova, iova } from '../sys/address.js';
import { trace } from '../sys/trace.js';
import { type DmaMap, VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE } from '../vfio/uapi.js';
import type { MemoryListener, MemoryRegion } from './memory-map.js';

/** Tells a person, and whoever else listens, about one step of attaching a device. */
export function attachStep(text: string): void {
  if (trace.vfio.hasSubscribers) trace.vfio.publish({ what: 'attach', text });
}

/** What devices see as memory: a container, or an IOAS. */
export interface DmaTarget {
  map(map: DmaMap): void;
  unmap(iova: Iova, bytes: bigint): void;
}

/** Keeps a target's maps equal to the guest's memory: every region once, IOVA = guest physical address. */
export class DmaMaps implements MemoryListener {
  readonly #target: DmaTarget;
  readonly #mapped = new Set<MemoryRegion>();

  constructor(target: DmaTarget) {
    this.#target = target;
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
      // Without its RAM a device is useless; without another device's BAR it only cannot do peer-to-peer DMA.
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
