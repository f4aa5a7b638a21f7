/** The maps of one I/O address space, which is a type1 container's or an IOAS. */
import { type Hva, type Iova, iova as toIova } from '../../sys/address.js';
import { PROT_READ, PROT_WRITE } from '../../sys/mapping.js';
import { IOMMU_PAGE } from '../dma-range.js';
import { type DmaTableWriter, dmaProt } from '../dma-table.js';
import type { RemoteMemory, UnmappedMemory } from '../uapi.js';
import { vfioError } from '../vfio-error.js';
import type { CoreEnvironment } from './environment.js';

/** Maximum number of maps of an address space (the module's dma_entry_limit). */
export const DMA_ENTRY_LIMIT = 65_535;

/** One map: struct vfio_dma. */
export interface Dma {
  readonly iova: bigint;
  readonly size: bigint;
  /** IOVA of its last byte, the key of lookups. */
  readonly last: bigint;
  /** 0 for memory of another process. */
  readonly vaddr: bigint;
  readonly remote: RemoteMemory | undefined;
  /** PROT_ bits: the accesses that devices are allowed. */
  readonly prot: number;
  /** Whether a copy of it may be written, which a copy that only reads leaves as it is. */
  readonly isWritable: boolean;
  /** Pin counts by page number within the map. */
  readonly pins: Map<number, number>;
  /** One bit per page while dirty pages are tracked; undefined otherwise. */
  dirty: Uint8Array | undefined;
  /** Whether it is unmapped; until {@link DmaSpace.sweep} the devices' tables still have it. */
  isUnlinked: boolean;
}

/** A device that uses the address space. */
export interface DmaClient {
  readonly name: string;
  /** The range is about to be unmapped: unpin its pages before returning. */
  dmaUnmap(iova: Iova, size: bigint): void;
}

/** The maps, sorted by IOVA; none overlaps another. */
export class DmaSpace {
  /** Name for messages: `container (core)`, `IOAS`. */
  readonly target: string;
  readonly #environment: CoreEnvironment;
  #maps: Dma[] = [];
  /** IOVAs of the first and the last unlinked map that is still in the list. */
  #unlinked: { readonly first: bigint; readonly last: bigint } | undefined;
  readonly #tables = new Set<DmaTableWriter>();
  readonly clients = new Set<DmaClient>();
  /** Whom devices may ask for what is not mapped. @see ContainerFile.setUnmapped */
  unmapped: UnmappedMemory | undefined;
  #isTracking = false;

  constructor(environment: CoreEnvironment, target: string) {
    this.#environment = environment;
    this.target = target;
  }

  get maps(): readonly Dma[] {
    this.sweep();
    return this.#maps;
  }

  /** The first map that overlaps the range. O(log n). */
  find(iova: bigint, size: bigint): Dma | undefined {
    for (let index = this.#indexAfter(iova); ; index++) {
      const dma = this.#maps[index];
      if (dma === undefined || dma.iova >= iova + size) return undefined;
      if (!dma.isUnlinked) return dma;
    }
  }

  /** Index of the first map that ends at or after `iova`. */
  #indexAfter(iova: bigint): number {
    let low = 0;
    let high = this.#maps.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#maps[middle] as Dma).last < iova) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /**
   * Adds a map, which must overlap none, and publishes it to the devices' tables.
   * @throws SysError EFAULT unless one live mapping of this process holds the memory; ENOMEM
   */
  insert(
    call: string,
    iova: bigint,
    size: bigint,
    at: Hva | RemoteMemory,
    prot: number,
    isWritable = (prot & PROT_WRITE) !== 0,
  ): Dma {
    const remote = typeof at === 'bigint' ? undefined : at;
    const vaddr = typeof at === 'bigint' ? at : 0n;
    if (remote === undefined) this.#checkMemory(call, vaddr as Hva, size, prot);
    this.#environment.allocate('vfio_dma');
    const last = iova + size - 1n;
    const isUnlinked = false;
    const pins = new Map<number, number>();
    const dirty = undefined;
    const dma: Dma = { iova, size, last, vaddr, remote, prot, isWritable, pins, dirty, isUnlinked };
    if (this.#isTracking) dma.dirty = newBitmap(dma);
    this.sweep();
    const index = this.#indexAfter(iova);
    this.#maps.splice(index, 0, dma);
    for (const table of this.#tables) table.splice(index, 0, [entryOf(dma)]);
    return dma;
  }

  #checkMemory(call: string, vaddr: Hva, size: bigint, prot: number): void {
    const memory = this.#environment.ports.findMemory(vaddr, size);
    if (memory === undefined) {
      const hint = `host address 0x${vaddr.toString(16)}, 0x${size.toString(16)} bytes: not in one live Mapping`;
      throw vfioError(call, this.target, 'EFAULT', hint);
    }
    if (!memory.isWritable && (prot & PROT_WRITE) !== 0) {
      throw vfioError(call, this.target, 'EFAULT', 'the memory is read-only: map it for reading only');
    }
  }

  /** Notifies the devices that a range is about to be unmapped. */
  release(iova: Iova, size: bigint): void {
    for (const client of [...this.clients]) client.dmaUnmap(iova, size);
  }

  /**
   * Removes a map from lookups. {@link sweep} removes it from the devices' tables: a table moves all entries behind
   * one that goes, so an unmap of many does that once, at its end.
   */
  unlink(dma: Dma): void {
    if (dma.isUnlinked) return;
    dma.isUnlinked = true;
    const { first, last } = this.#unlinked ?? { first: dma.iova, last: dma.iova };
    this.#unlinked = { first: dma.iova < first ? dma.iova : first, last: dma.iova > last ? dma.iova : last };
    if (dma.pins.size > 0) {
      this.#environment.warn(
        `${this.target}: 0x${dma.iova.toString(16)} is unmapped with ${dma.pins.size} pages pinned`,
      );
    }
    this.#environment.free('vfio_dma');
  }

  /** When this returns, no data path in another thread can access the memory of an unlinked map. */
  sweep(): void {
    if (this.#unlinked === undefined) return;
    const from = this.#indexAfter(this.#unlinked.first);
    const to = this.#indexAfter(this.#unlinked.last) + 1;
    this.#unlinked = undefined;
    const kept = this.#maps.slice(from, to).filter(({ isUnlinked }) => !isUnlinked);
    for (const table of this.#tables) table.splice(from, to - from, kept.map(entryOf));
    if (kept.length === 0) this.#maps.splice(from, to - from);
    else this.#maps = [...this.#maps.slice(0, from), ...kept, ...this.#maps.slice(to)];
  }

  /** Unmaps everything, from the lowest map to the highest. */
  clear(): void {
    for (const dma of [...this.maps]) {
      this.release(toIova(dma.iova), dma.size);
      this.unlink(dma);
    }
    this.sweep();
  }

  /** Keeps `table` equal to the maps until the result is disposed; that empties the table. */
  publish(table: DmaTableWriter): Disposable {
    this.sweep();
    table.splice(0, 0, this.#maps.map(entryOf));
    this.#tables.add(table);
    return {
      [Symbol.dispose]: () => {
        this.#tables.delete(table);
        table.replace([]);
      },
    };
  }

  /**
   * Copies between `data` and IOVA, either all of it or nothing. @see vfio_dma_rw
   * @throws SysError EFAULT if part of the range is not mapped; EPERM if a map does not allow the direction
   */
  rw(iova: Iova, data: Uint8Array, isWrite: boolean): void {
    const wanted = isWrite ? PROT_WRITE : PROT_READ;
    const call = 'vfio_dma_rw';
    const pieces: { readonly dma: Dma; readonly at: number; readonly length: number }[] = [];
    for (let at = 0; at < data.length; ) {
      const dma = this.find(iova + BigInt(at), 1n);
      if (dma === undefined)
        throw vfioError(call, this.target, 'EFAULT', `0x${(iova + BigInt(at)).toString(16)} is not mapped`);
      if ((dma.prot & wanted) === 0)
        throw vfioError(call, this.target, 'EPERM', 'the map does not allow this direction');
      const length = Math.min(data.length - at, Number(dma.iova + dma.size - (iova + BigInt(at))));
      pieces.push({ dma, at, length });
      at += length;
    }
    for (const { dma, at, length } of pieces) {
      const offset = Number(iova - dma.iova) + at;
      const piece = data.subarray(at, at + length);
      if (dma.remote !== undefined) dma.remote.rw((iova + BigInt(at)) as Iova, piece, isWrite);
      else if (isWrite) this.bytes(call, dma, offset, length).set(piece);
      else piece.set(this.bytes(call, dma, offset, length));
      if (isWrite) markDirty(dma, offset, length);
    }
  }

  /** A view of a map's memory. @throws SysError EFAULT if its owner has unmapped it in the meantime */
  bytes(call: string, dma: Dma, offset: number, length: number): Uint8Array<ArrayBuffer> {
    if (dma.remote !== undefined)
      throw vfioError(
        call,
        this.target,
        'EFAULT',
        'the memory is in another process, which does not share it',
      );
    const address = (dma.vaddr + BigInt(offset)) as Hva;
    const memory = this.#environment.ports.findMemory(address, BigInt(length));
    if (memory === undefined)
      throw vfioError(call, this.target, 'EFAULT', 'the memory has been unmapped by its owner');
    return memory.view.slice(Number(address - memory.hva), length);
  }

  get isTracking(): boolean {
    return this.#isTracking;
  }

  startTracking(): void {
    this.#isTracking = true;
    for (const dma of this.#maps) dma.dirty = newBitmap(dma);
  }

  stopTracking(): void {
    this.#isTracking = false;
    for (const dma of this.#maps) dma.dirty = undefined;
  }
}

/** In the tables, memory of another process has no rights: a data path in another thread cannot reach its owner. */
const entryOf = ({ iova, size, vaddr, remote, prot }: Dma) => ({
  iova: Number(iova),
  bytes: Number(size),
  address: Number(vaddr),
  prot: remote === undefined ? dmaProt((prot & PROT_READ) !== 0, (prot & PROT_WRITE) !== 0) : 0,
});

/** A map's bitmap at the start of tracking: pinned pages can be written at any time, so they are dirty. */
export function newBitmap(dma: Dma): Uint8Array {
  const bitmap = new Uint8Array(Number((dma.size / IOMMU_PAGE + 7n) / 8n));
  for (const page of dma.pins.keys()) setBit(bitmap, page);
  return bitmap;
}

const setBit = (bitmap: Uint8Array, bit: number): void => {
  bitmap[bit >>> 3] = (bitmap[bit >>> 3] as number) | (1 << (bit & 7));
};

/** Records that a device wrote bytes of a map. */
export function markDirty(dma: Dma, offset: number, length: number): void {
  if (dma.dirty === undefined) return;
  const page = Number(IOMMU_PAGE);
  for (let at = Math.floor(offset / page); at * page < offset + length; at++) setBit(dma.dirty, at);
}
