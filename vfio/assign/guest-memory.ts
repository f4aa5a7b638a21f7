/** Port: the guest's physical memory, for those who map it for DMA. */
import type { Gpa, Hva, Iova } from '../../sys/address.js';

/** Host memory at a guest physical address. */
export interface MemoryRegion {
  /** `ram`: guest RAM. `device`: a mapped part of an assigned device's BAR. */
  readonly kind: 'ram' | 'device';
  /** Its name in messages: `ram`, `00:03.0 virtio-net BAR4`. */
  readonly name: string;
  /** First byte in the guest, page-aligned. */
  readonly gpa: Gpa;
  /** First byte in this process; stays mapped until every listener's `removed` has returned. */
  readonly hva: Hva;
  /** Whole pages. */
  readonly bytes: bigint;
}

/** Receives the changes of guest memory; IOMMU maps follow it this way. */
export interface MemoryListener {
  /**
   * Called after the region is mapped into the guest.
   * @throws SysError if the listener needs the region and fails to map it; the change is then reverted
   */
  added(region: MemoryRegion): void;
  /**
   * Called in place of {@link added} with all regions that are there when it begins to listen, where that is quicker.
   * @throws SysError as {@link added}; it has then none of the regions
   */
  addedAll?(regions: readonly MemoryRegion[]): void;
  /** Called before the region is unmapped from the guest. */
  removed(region: MemoryRegion): void;
  /** Name of the I/O address space in which it maps the regions: `host container`; absent if it maps none. */
  readonly space?: string;
  /** Where it has mapped a region; undefined if it has not. */
  iovaOf?(region: MemoryRegion): Iova | undefined;
  /** How many milliseconds the map took, if it was made later than the call that reported the region; else undefined. */
  mapMs?(region: MemoryRegion): number | undefined;
}

/** The guest's physical memory. The thread that owns the VM calls it. */
export interface GuestMemory {
  /**
   * Reports every current region to `listener`, then each change. Disposing the result reports all regions removed and
   * unregisters the listener.
   * @throws the listener's error for a current region; those reported before it are then reported removed
   */
  listen(listener: MemoryListener): Disposable;
}

/** Token of the port {@link GuestMemory}. */
export const GuestMemory = Symbol('GuestMemory');
