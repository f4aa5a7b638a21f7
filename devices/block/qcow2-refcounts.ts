import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { ImageFile } from './image-file.js';
import type { Qcow2Header } from './qcow2-header.js';

const MOST_REFCOUNT = 0xffff;

interface Block {
  readonly offset: number;
  readonly bytes: Uint8Array;
  readonly view: DataView;
  isDirty: boolean;
}

/**
 * Refcounts of an image's clusters, 16 bits each, and with them the free ones. Changes are kept until {@link write}: what
 * an entry of a table refers to has its refcount in the file before that entry is written, so that an image whose writer was
 * killed has clusters too many, and never too few.
 */
export class Refcounts {
  readonly #file: ImageFile;
  readonly #clusterBytes: number;
  readonly #tableOffset: number;
  readonly #table: DataView;
  readonly #perBlock: number;
  readonly #blocks = new Map<number, Block>();
  #isTableDirty = false;
  /** No cluster before this one is free. */
  #hint = 0;

  /** @throws SysError of the host */
  constructor(file: ImageFile, header: Qcow2Header) {
    this.#file = file;
    this.#clusterBytes = header.clusterBytes;
    this.#tableOffset = header.refcountTableOffset;
    this.#perBlock = header.clusterBytes / 2;
    const table = new Uint8Array(header.refcountTableBytes);
    file.read([table], header.refcountTableOffset);
    this.#table = new DataView(table.buffer);
  }

  /**
   * Takes a free cluster. Returns its offset in the file.
   * @throws SysError ENOSPC if the refcount table has no room for more; EIO if it is not valid
   */
  allocate(): number {
    const most = (this.#table.byteLength / 8) * this.#perBlock;
    for (let cluster = this.#hint; cluster < most; cluster++) {
      const block = this.#blockOf(cluster) ?? this.#newBlock(cluster);
      const at = 2 * (cluster % this.#perBlock);
      if (block.view.getUint16(at) !== 0) continue;
      block.view.setUint16(at, 1);
      block.isDirty = true;
      this.#hint = cluster + 1;
      return cluster * this.#clusterBytes;
    }
    const hint = 'its refcount table is full: give an overlay=, or qemu-img convert';
    throw new SysError({ call: 'pwritev', target: this.#file.path, errno: errno.ENOSPC, hint });
  }

  /** Takes one use away from the cluster at an offset. Returns whether it is free now. */
  release(offset: number): boolean {
    const cluster = Math.floor(offset / this.#clusterBytes);
    const block = this.#blockOf(cluster);
    const at = 2 * (cluster % this.#perBlock);
    const count = block?.view.getUint16(at) ?? 0;
    // A corrupt image, or a cluster with more uses than can be counted.
    if (block === undefined || count === 0 || count === MOST_REFCOUNT) return false;
    block.view.setUint16(at, count - 1);
    block.isDirty = true;
    if (count > 1) return false;
    this.#hint = Math.min(this.#hint, cluster);
    return true;
  }

  /** Whether something is to be written. */
  get isDirty(): boolean {
    return this.#isTableDirty || [...this.#blocks.values()].some((block) => block.isDirty);
  }

  /** Writes what has changed: blocks, then the table that leads to them. @throws SysError */
  write(): void {
    for (const block of this.#blocks.values()) {
      if (!block.isDirty) continue;
      this.#file.write([block.bytes], block.offset);
      block.isDirty = false;
    }
    if (!this.#isTableDirty) return;
    this.#file.write([new Uint8Array(this.#table.buffer)], this.#tableOffset);
    this.#isTableDirty = false;
  }

  /** Undefined if all of its clusters are free. */
  #blockOf(cluster: number): Block | undefined {
    const index = Math.floor(cluster / this.#perBlock);
    const known = this.#blocks.get(index);
    if (known !== undefined) return known;
    if (8 * index >= this.#table.byteLength) return undefined;
    const offset = this.#table.getUint32(8 * index) * 2 ** 32 + this.#table.getUint32(8 * index + 4);
    if (offset === 0) return undefined;
    if (offset % this.#clusterBytes !== 0 || offset >= this.#file.bytes) {
      const hint = `it is not valid: a refcount block at 0x${offset.toString(16)}: qemu-img check`;
      throw new SysError({ call: 'preadv', target: this.#file.path, errno: errno.EIO, hint });
    }
    const bytes = new Uint8Array(this.#clusterBytes);
    this.#file.read([bytes], offset);
    return this.#keep(index, offset, bytes);
  }

  /** A block lies in the first of the clusters that it counts. */
  #newBlock(cluster: number): Block {
    const index = Math.floor(cluster / this.#perBlock);
    const offset = index * this.#perBlock * this.#clusterBytes;
    const block = this.#keep(index, offset, new Uint8Array(this.#clusterBytes));
    block.view.setUint16(0, 1);
    block.isDirty = true;
    this.#table.setBigUint64(8 * index, BigInt(offset));
    this.#isTableDirty = true;
    return block;
  }

  #keep(index: number, offset: number, bytes: Uint8Array<ArrayBuffer>): Block {
    const block = { offset, bytes, view: new DataView(bytes.buffer), isDirty: false };
    this.#blocks.set(index, block);
    return block;
  }
}
