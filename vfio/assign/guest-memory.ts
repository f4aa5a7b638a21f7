/** Port: the guest's physical memory, as whoever maps it for DMA has to know it. */
import type { Gpa, Hva } from '../../sys/address.js';

/** Host memory at a guest physical address. */
export interface MemoryRegion {
  /** `ram`: the guest's own memory. `device`: part of an assigned device's BAR. */
  readonly kind: 'ram' | 'device';
  /** For messages: `ram`, `00:03.0 virtio-net BAR4`. */
  readonly name: string;
  /** First byte as the guest addresses it, page-aligned. */
  readonly gpa: Gpa;
  /** First byte in this process; stays mapped until the listeners have heard `removed`. */
  readonly hva: Hva;
  /** Whole pages. */
  readonly bytes: bigint;
}

/** Follows guest memory: an IOMMU's maps do. */
export interface MemoryListener {
  /** @throws SysError if the listener cannot do without the region; the change is then undone */
  added(region: MemoryRegion): void;
  /** Called before the region is unmapped. */
  removed(region: MemoryRegion): void;
}

/** The guest's physical memory. The thread that owns the VM calls it. */
export interface GuestMemory {
  /**
   * Reports every region there is to `listener`, then each change. Disposing the result reports all of them removed,
   * and nothing after that.
   * @throws what the listener throws for a region; it has then seen the others removed
   */
  listen(listener: MemoryListener): Disposable;
}

/** Token of the port {@link GuestMemory}. */
export const GuestMemory = Symbol('GuestMemory');
