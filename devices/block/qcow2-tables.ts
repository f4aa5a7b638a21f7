import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { SECTOR_BYTES } from './image.js';
import type { ImageFile } from './image-file.js';
import type { Qcow2Header } from './qcow2-header.js';

const ENTRY_BYTES = 8;
/** Memory for L2 tables. */
const CACHE_BYTES = 8 << 20;
const LEAST_TABLES = 4;

/** QCOW_OFLAG_COPIED: only this entry refers to the cluster, which can be written. */
export const COPIED = 1n << 63n;
export const COMPRESSED = 1n << 62n;
/** QCOW_OFLAG_ZERO: the cluster reads 0. */
export const ZERO = 1n;
const OFFSET_MASK = 0x00ff_ffff_ffff_fe00n;

export const offsetOf = (entry: bigint): number => Number(entry & OFFSET_MASK);

interface Table {
  readonly offset: number;
  readonly bytes: Uint8Array;
  readonly view: DataView;
  /** What is not yet in the file. */
  dirtyFrom: number;
  dirtyTo: number;
}

/** L1 and L2 tables of an image: where each cluster of the disk is. Changes are kept until they are written. */
export class Tables {
  readonly #file: ImageFile;
  readonly #header: Qcow2Header;
  readonly #perTable: number;
  readonly #l1: DataView;
  readonly #dirtyL1 = new Set<number>();
  /** By index in L1; the one that was used last comes last. */
  readonly #cache = new Map<number, Table>();
  readonly #mostTables: number;

  /** @throws SysError of the host */
  constructor(file: ImageFile, header: Qcow2Header) {
    this.#file = file;
    this.#header = header;
    this.#perTable = header.clusterBytes / ENTRY_BYTES;
    this.#mostTables = Math.max(LEAST_TABLES, CACHE_BYTES / header.clusterBytes);
    const l1 = new Uint8Array(header.l1Entries * ENTRY_BYTES);
    file.read([l1], header.l1Offset);
    this.#l1 = new DataView(l1.buffer);
  }

  /** Entry of a cluster of the disk; 0 if it has none. @throws SysError EIO for a table that is not valid */
  get(cluster: number): bigint {
    const table = this.#table(Math.floor(cluster / this.#perTable));
    return table?.view.getBigUint64(ENTRY_BYTES * (cluster % this.#perTable)) ?? 0n;
  }

  /**
   * Sets the entry of a cluster. @param allocate a cluster for a table that is missing
   * @throws SysError as {@link get}, and what `allocate` throws
   */
  set(cluster: number, entry: bigint, allocate: () => number): void {
    const index = Math.floor(cluster / this.#perTable);
    const table = this.#table(index) ?? this.#add(index, allocate());
    const at = ENTRY_BYTES * (cluster % this.#perTable);
    table.view.setBigUint64(at, entry);
    table.dirtyFrom = Math.min(table.dirtyFrom, at);
    table.dirtyTo = Math.max(table.dirtyTo, at + ENTRY_BYTES);
  }

  /** Whether there is no room for a further table until {@link writeL2}. */
  get isFull(): boolean {
    return this.#cache.size >= this.#mostTables && ![...this.#cache.values()].some(isClean);
  }

  get isDirty(): boolean {
    return this.#dirtyL1.size > 0 || [...this.#cache.values()].some((table) => !isClean(table));
  }

  /** Writes the L2 tables that have changed. Returns whether {@link writeL1} is to follow, once they last. @throws SysError */
  writeL2(): boolean {
    for (const table of this.#cache.values()) {
      if (isClean(table)) continue;
      const from = table.dirtyFrom - (table.dirtyFrom % SECTOR_BYTES);
      const to = SECTOR_BYTES * Math.ceil(table.dirtyTo / SECTOR_BYTES);
      this.#file.write([table.bytes.subarray(from, to)], table.offset + from);
      table.dirtyFrom = Number.POSITIVE_INFINITY;
      table.dirtyTo = 0;
    }
    return this.#dirtyL1.size > 0;
  }

  /** Writes the entries of the L1 table that have changed. @throws SysError */
  writeL1(): void {
    for (const index of this.#dirtyL1) {
      const entry = new Uint8Array(this.#l1.buffer, ENTRY_BYTES * index, ENTRY_BYTES);
      this.#file.write([entry], this.#header.l1Offset + ENTRY_BYTES * index);
    }
    this.#dirtyL1.clear();
  }

  #table(index: number): Table | undefined {
    const known = this.#cache.get(index);
    if (known !== undefined) {
      this.#cache.delete(index);
      this.#cache.set(index, known);
      return known;
    }
    const entry = this.#l1.getBigUint64(ENTRY_BYTES * index);
    const offset = offsetOf(entry);
    if (offset === 0) return undefined;
    if (offset % this.#header.clusterBytes !== 0 || offset >= this.#file.bytes)
      throw notValid(this.#file.path, `an L2 table at 0x${offset.toString(16)}`);
    const bytes = new Uint8Array(this.#header.clusterBytes);
    this.#file.read([bytes], offset);
    return this.#keep(index, offset, bytes);
  }

  #add(index: number, offset: number): Table {
    const table = this.#keep(index, offset, new Uint8Array(this.#header.clusterBytes));
    table.dirtyFrom = 0;
    table.dirtyTo = this.#header.clusterBytes;
    this.#l1.setBigUint64(ENTRY_BYTES * index, BigInt(offset) | COPIED);
    this.#dirtyL1.add(index);
    return table;
  }

  #keep(index: number, offset: number, bytes: Uint8Array<ArrayBuffer>): Table {
    if (this.#cache.size >= this.#mostTables) {
      const clean = [...this.#cache].find(([, table]) => isClean(table));
      if (clean !== undefined) this.#cache.delete(clean[0]);
    }
    const table: Table = {
      ...{ offset, bytes, view: new DataView(bytes.buffer) },
      ...{ dirtyFrom: Number.POSITIVE_INFINITY, dirtyTo: 0 },
    };
    this.#cache.set(index, table);
    return table;
  }
}

const isClean = (table: Table): boolean => table.dirtyTo === 0;

/** An image that contradicts itself. */
export const notValid = (path: string, what: string): SysError =>
  new SysError({
    ...{ call: 'preadv', target: path, errno: errno.EIO },
    hint: `it is not valid: ${what}: qemu-img check`,
  });
