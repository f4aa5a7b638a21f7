import { formatRange, type Iova, iova } from '../../sys/address.js';
import type { SysError } from '../../sys/error.js';
import { type DmaMap, VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE } from '../uapi.js';
import { attachStep } from './attach-step.js';
import type { MemoryListener, MemoryRegion } from './guest-memory.js';

/** Translates devices' DMA: a container, or an IOAS. */
export interface DmaTarget {
  map(map: DmaMap): void;
  /** @see ContainerFile.mapDmas */
  mapEach?(maps: readonly DmaMap[]): (SysError | undefined)[];
  unmap(iova: Iova, bytes: bigint): void;
}

/** Maps each region of guest memory at IOVA = guest physical address, and unmaps it when the region is removed. */
export class DmaMaps implements MemoryListener {
  readonly space: string;
  readonly #target: DmaTarget;
  readonly #mapped = new Set<MemoryRegion>();
  /** @see MemoryListener.addedAll */
  readonly addedAll?: (regions: readonly MemoryRegion[]) => void;

  /** @param space names the I/O address space */
  constructor(target: DmaTarget, space: string) {
    this.#target = target;
    this.space = space;
    const { mapEach } = target;
    if (mapEach !== undefined) this.addedAll = (regions) => this.#addAll(regions, mapEach);
  }

  iovaOf(region: MemoryRegion): Iova | undefined {
    return this.#mapped.has(region) ? iova(region.gpa) : undefined;
  }

  added(region: MemoryRegion): void {
    try {
      this.#target.map(toMap(region));
    } catch (error) {
      this.#refused(region, error);
      return;
    }
    this.#isMapped(region);
  }

  #addAll(regions: readonly MemoryRegion[], mapEach: NonNullable<DmaTarget['mapEach']>): void {
    const errors = mapEach(regions.map(toMap));
    for (const [i, region] of regions.entries()) if (errors[i] === undefined) this.#mapped.add(region);
    try {
      for (const [i, region] of regions.entries()) {
        if (errors[i] === undefined) this.#isMapped(region);
        else this.#refused(region, errors[i]);
      }
    } catch (error) {
      for (const region of regions) this.removed(region);
      throw error;
    }
  }

  #isMapped(region: MemoryRegion): void {
    this.#mapped.add(region);
    attachStep(`DMA map ${rangeOf(region)} (${region.name})`);
  }

  /** Without RAM the device cannot work; without another device's BAR it only lacks peer-to-peer DMA. */
  #refused(region: MemoryRegion, error: unknown): void {
    if (region.kind === 'ram') throw error;
    attachStep(
      `no DMA map ${rangeOf(region)} (${region.name}), so no peer-to-peer DMA to it: ${(error as Error).message}`,
    );
  }

  removed(region: MemoryRegion): void {
    if (this.#mapped.delete(region)) this.#target.unmap(iova(region.gpa), region.bytes);
  }
}

const toMap = ({ gpa, hva, bytes }: MemoryRegion): DmaMap => ({
  flags: VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
  vaddr: hva,
  iova: iova(gpa),
  size: bytes,
});

const rangeOf = ({ gpa, bytes }: MemoryRegion): string => formatRange(gpa, bytes);
