import { formatRange, type Iova, iova } from '../../sys/address.js';
import type { SysError } from '../../sys/error.js';
import type { EventThread } from '../../sys/event-task.js';
import { IoctlCalls } from '../../sys/ioctl-calls.js';
import type { IoctlCall, IoctlResult } from '../../sys/ioctl-task.js';
import { monotonicMs } from '../../sys/monotonic.js';
import { disposable } from '../../sys/scope.js';
import { type DmaMap, VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE } from '../uapi.js';
import { attachStep } from './attach-step.js';
import type { MemoryListener, MemoryRegion } from './guest-memory.js';

/** Translates devices' DMA: a container, or an IOAS. */
export interface DmaTarget {
  map(map: DmaMap): void;
  /** @see ContainerFile.mapDmas */
  mapEach?(maps: readonly DmaMap[]): (SysError | undefined)[];
  /** @see ContainerFile.mapDmaCall */
  mapCall?(map: DmaMap): IoctlCall;
  unmap(iova: Iova, bytes: bigint): void;
}

/** Maps of RAM that another thread makes. */
interface Pinning {
  readonly calls: IoctlCalls;
  /** For each call. */
  readonly rams: readonly MemoryRegion[];
}

/** A thread of its own costs about 30 ms; in the shared one, other tasks wait meanwhile, up to 0.3 s for so much. */
const MOST_SHARED_BYTES = 1n << 30n;

/**
 * Maps each region of guest memory at IOVA = guest physical address, and unmaps it when the region is removed.
 *
 * It may be told to hold: then another thread maps RAM, which pins it, and BARs wait, as the kernel makes one map of a container at a
 * time; {@link settle} returns once all is mapped.
 */
export class DmaMaps implements MemoryListener {
  readonly space: string;
  readonly #target: DmaTarget;
  /** With the milliseconds that it took, if that was not when the region was added. */
  readonly #mapped = new Map<MemoryRegion, number | undefined>();
  /** Regions that are not mapped yet, as no device needs them, in the order in which they were added. */
  #held: Set<MemoryRegion> | undefined;
  #pinning: Pinning | undefined;
  #failure: { readonly error: unknown } | undefined;
  /** @see MemoryListener.addedAll */
  readonly addedAll?: (regions: readonly MemoryRegion[]) => void;

  /**
   * @param space names the I/O address space
   * @param isHeld whether it maps nothing until {@link begin} or {@link settle}; a target without `mapCall` maps at once
   */
  constructor(target: DmaTarget, space: string, isHeld = false) {
    this.#target = target;
    this.space = space;
    const { mapEach, mapCall } = target;
    if (isHeld && mapCall !== undefined) this.#held = new Set();
    else if (mapEach !== undefined) this.addedAll = (regions) => this.#addAll(regions, mapEach);
  }

  iovaOf(region: MemoryRegion): Iova | undefined {
    return this.#mapped.has(region) ? iova(region.gpa) : undefined;
  }

  mapMs(region: MemoryRegion): number | undefined {
    return this.#mapped.get(region);
  }

  added(region: MemoryRegion): void {
    if (this.#held === undefined) this.#map(region);
    else this.#held.add(region);
  }

  /**
   * Begins to map the RAM that is held, in another thread; a failure is thrown where that thread's messages are heard. Does nothing if
   * nothing is held, or it has begun.
   * @throws as {@link EventThread.run}
   */
  begin(thread: EventThread): void {
    const held = this.#held;
    const call = this.#target.mapCall;
    if (held === undefined || call === undefined || this.#pinning !== undefined) return;
    const rams = [...held].filter(({ kind }) => kind === 'ram');
    const bytes = rams.reduce((sum, ram) => sum + ram.bytes, 0n);
    const where = bytes > MOST_SHARED_BYTES ? 'own' : 'shared';
    const calls = rams.map((ram) => call(toMap(ram)));
    const made = (): void => {
      using _ends = disposable(() => this.#endPinning());
      this.settle();
    };
    this.#pinning = { rams, calls: new IoctlCalls(thread, where, calls, made) };
  }

  /**
   * Returns once everything is mapped: waits for the other thread, or maps what it has not begun with.
   * @throws SysError if RAM cannot be mapped, and again whenever it is called
   */
  settle(): void {
    if (this.#failure !== undefined) throw this.#failure.error;
    const held = this.#held;
    if (held === undefined) return;
    try {
      if (this.#pinning !== undefined) this.#take(this.#pinning, this.#pinning.calls.finish());
      this.#held = undefined;
      // Of what another thread failed to map, this says why.
      for (const region of held) this.#map(region, monotonicMs());
    } catch (error) {
      this.#failure = { error };
      throw error;
    }
  }

  /** What another thread has mapped is not held any more. */
  #take({ rams }: Pinning, results: readonly IoctlResult[]): void {
    for (const [i, { result, ms }] of results.entries()) {
      const ram = rams[i] as MemoryRegion;
      if (result === 0 && this.#held?.delete(ram) === true) this.#isMapped(ram, ms);
    }
  }

  #endPinning(): void {
    const pinning = this.#pinning;
    this.#pinning = undefined;
    pinning?.calls[Symbol.dispose]();
  }

  /** @param begun of a region that was added before: the time now, in milliseconds */
  #map(region: MemoryRegion, begun?: number): void {
    try {
      this.#target.map(toMap(region));
    } catch (error) {
      this.#refused(region, error);
      return;
    }
    this.#isMapped(region, begun === undefined ? undefined : monotonicMs() - begun);
  }

  #addAll(regions: readonly MemoryRegion[], mapEach: NonNullable<DmaTarget['mapEach']>): void {
    const errors = mapEach(regions.map(toMap));
    for (const [i, region] of regions.entries())
      if (errors[i] === undefined) this.#mapped.set(region, undefined);
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

  #isMapped(region: MemoryRegion, ms?: number): void {
    this.#mapped.set(region, ms);
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
    const pinning = this.#pinning;
    if (pinning?.rams.includes(region)) this.#interrupt(pinning, region);
    if (this.#held?.delete(region)) return;
    if (this.#mapped.delete(region)) this.#target.unmap(iova(region.gpa), region.bytes);
  }

  /** Takes what another thread has mapped by now, before `region` is removed; it maps no more. */
  #interrupt(pinning: Pinning, region: MemoryRegion): void {
    using _ends = disposable(() => this.#endPinning());
    try {
      this.#take(pinning, pinning.calls.results());
    } catch (error) {
      this.#failure = { error }; // what was mapped is not known
      this.#held?.delete(region);
      throw error;
    }
  }
}

const toMap = ({ gpa, hva, bytes }: MemoryRegion): DmaMap => ({
  flags: VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
  vaddr: hva,
  iova: iova(gpa),
  size: bytes,
});

const rangeOf = ({ gpa, bytes }: MemoryRegion): string => formatRange(gpa, bytes);
