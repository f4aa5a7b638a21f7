/** A driver's access to guest memory. After the pin and rw part of vfio_main.c and iommufd's access objects. */
import type { Iova } from '../../sys/address.js';
import { PROT_WRITE } from '../../sys/mapping.js';
import { IOMMU_PAGE } from '../dma-range.js';
import { createDmaTable, type DmaTableBuffer, DmaTableWriter } from '../dma-table.js';
import type { DeviceDma, VfioDeviceOps } from '../driver.js';
import type { UnmappedMemory } from '../uapi.js';
import { vfioError } from '../vfio-error.js';
import { DMA_ENTRY_LIMIT, type DmaClient, type DmaSpace, markDirty } from './dma-space.js';
import type { CoreEnvironment } from './environment.js';

/** Pages one call can pin (VFIO_PIN_PAGES_MAX_ENTRIES). */
const PIN_PAGES_MAX_ENTRIES = 512;

/** The device behind a {@link DeviceDmaAccess}. */
export interface DmaMaster {
  readonly name: string;
  readonly ops: Pick<VfioDeviceOps, 'dmaUnmap'>;
  readonly environment: CoreEnvironment;
  /** Whether the IOMMU can distinguish its DMA from any other device's. @throws SysError ENODEV unless registered */
  readonly isAloneInGroup: boolean;
}

/** One device's access to the maps of its container or IOAS. Valid while the device is open. Machine thread only. */
export class DeviceDmaAccess implements DeviceDma, DmaClient {
  readonly #device: DmaMaster;
  #space: DmaSpace | undefined;
  #table: DmaTableWriter | undefined;
  #published: Disposable | undefined;
  /** Pin counts by the page's IOVA. */
  readonly #pins = new Map<bigint, number>();

  constructor(device: DmaMaster) {
    this.#device = device;
  }

  /** Name of the device, for messages. @internal */
  get name(): string {
    return this.#device.name;
  }

  /** Whether it is attached to an address space. */
  get isAttached(): boolean {
    return this.#space !== undefined;
  }

  /** @see DeviceDma.table. Created on first use, so that a device without a data path of its own has none. */
  get table(): DmaTableBuffer {
    this.#table ??= new DmaTableWriter(createDmaTable(DMA_ENTRY_LIMIT));
    this.#publish();
    return this.#table.buffer;
  }

  #publish(): void {
    if (this.#space === undefined || this.#table === undefined) return;
    this.#published ??= this.#space.publish(this.#table);
  }

  /** Attaches to the address space of a container or an IOAS; undefined attaches to none. @internal */
  attach(space: DmaSpace | undefined): void {
    this.#space = space;
    this.#space?.clients.add(this);
    this.#publish();
  }

  /** Detaches from the address space, and unpins what the driver left pinned. @internal */
  detach(): void {
    if (this.#pins.size > 0) {
      this.#device.environment.warn(`${this.name} is detached with ${this.#pins.size} pages pinned`);
      for (const [iova, count] of [...this.#pins]) {
        for (let i = 0; i < count; i++) this.unpinPages(iova as Iova, 1);
      }
    }
    this.#published?.[Symbol.dispose]();
    this.#published = undefined;
    this.#space?.clients.delete(this);
    this.#space = undefined;
  }

  /** Detaches, and drops the table: the device is closed, and its data path has ended. @internal */
  forget(): void {
    this.detach();
    this.#table = undefined;
  }

  /** Forwards to the driver. @internal */
  dmaUnmap(iova: Iova, size: bigint): void {
    this.#device.ops.dmaUnmap?.(iova, size);
  }

  /** @see DeviceDma.unmapped */
  get unmapped(): UnmappedMemory | undefined {
    return this.#space?.unmapped;
  }

  /** @see DeviceDma.rw */
  rw(iova: Iova, data: Uint8Array, isWrite: boolean): void {
    this.#require('vfio_dma_rw').rw(iova, data, isWrite);
  }

  /**
   * Pins pages of guest memory: they stay mapped until {@link unpinPages}, which the driver must call when the core
   * calls its `dmaUnmap`. Returns each page's bytes.
   * @param iova first page, page-aligned
   * @param prot PROT_ bits: how the device accesses the pages; with PROT_WRITE they count as dirty
   * @throws SysError EINVAL for no pages, an unaligned or unmapped IOVA, a group of several devices, or a driver
   *   without dmaUnmap; E2BIG for more than 512 pages; EPERM if the map does not allow `prot`; EFAULT while detached
   */
  pinPages(iova: Iova, count: number, prot: number): Uint8Array<ArrayBuffer>[] {
    const call = 'vfio_pin_pages';
    const fail = (hint: string) => vfioError(call, this.name, 'EINVAL', hint);
    const { ops, isAloneInGroup } = this.#device;
    if (count <= 0 || iova % IOMMU_PAGE !== 0n) throw fail('the range must be whole pages, at least one');
    if (count > PIN_PAGES_MAX_ENTRIES)
      throw vfioError(call, this.name, 'E2BIG', `at most ${PIN_PAGES_MAX_ENTRIES} pages`);
    if (!isAloneInGroup) throw fail('the IOMMU cannot isolate the devices of its group');
    if (ops.dmaUnmap === undefined) throw fail('a driver that pins pages must implement dmaUnmap');
    const space = this.#require(call);
    const pages = Array.from({ length: count }, (_, i) => {
      const at = iova + BigInt(i) * IOMMU_PAGE;
      const dma = space.find(at, IOMMU_PAGE);
      if (dma === undefined) throw fail(`0x${at.toString(16)} is not mapped`);
      if ((dma.prot & prot) !== prot)
        throw vfioError(call, this.name, 'EPERM', 'the map does not allow this direction');
      const offset = Number(at - dma.iova);
      return {
        dma,
        page: Number((at - dma.iova) / IOMMU_PAGE),
        bytes: space.bytes(call, dma, offset, Number(IOMMU_PAGE)),
      };
    });
    for (const [i, { dma, page }] of pages.entries()) {
      dma.pins.set(page, (dma.pins.get(page) ?? 0) + 1);
      const at = iova + BigInt(i) * IOMMU_PAGE;
      this.#pins.set(at, (this.#pins.get(at) ?? 0) + 1);
      if ((prot & PROT_WRITE) !== 0) markDirty(dma, page * Number(IOMMU_PAGE), 1);
    }
    return pages.map(({ bytes }) => bytes);
  }

  /** Unpins pages; skips those that this device has not pinned. Returns how many it unpinned. */
  unpinPages(iova: Iova, count: number): number {
    const space = this.#require('vfio_unpin_pages');
    let unpinned = 0;
    for (let i = 0; i < count; i++) {
      const at = iova + BigInt(i) * IOMMU_PAGE;
      if (!dropOne(this.#pins, at)) continue;
      const dma = space.find(at, IOMMU_PAGE);
      if (dma !== undefined) dropOne(dma.pins, Number((at - dma.iova) / IOMMU_PAGE));
      unpinned++;
    }
    return unpinned;
  }

  #require(call: string): DmaSpace {
    if (this.#space !== undefined) return this.#space;
    throw vfioError(call, this.name, 'EFAULT', 'the device is attached to no address space');
  }
}

/** Decrements the count of `key`; false if there is none. */
function dropOne<K>(counts: Map<K, number>, key: K): boolean {
  const count = counts.get(key);
  if (count === undefined) return false;
  if (count === 1) counts.delete(key);
  else counts.set(key, count - 1);
  return true;
}
