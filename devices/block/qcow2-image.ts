import { type BlockImage, fillParts, lengthOf, sliceParts } from './image.js';
import type { ImageFile } from './image-file.js';
import { compressedRange, decompress } from './qcow2-compressed.js';
import { AUTOCLEAR_AT, invalid, type Qcow2Header } from './qcow2-header.js';
import { Refcounts } from './qcow2-refcounts.js';
import { COMPRESSED, COPIED, notValid, offsetOf, Tables, ZERO } from './qcow2-tables.js';

/** What a range within one cluster of the disk is made of. */
type Source =
  | { readonly kind: 'backing' }
  | { readonly kind: 'zero' }
  | { readonly kind: 'data'; readonly offset: number }
  | { readonly kind: 'compressed'; readonly entry: bigint };

/** Adjacent pieces of a write. */
interface Run {
  readonly offset: number;
  readonly parts: Uint8Array[];
  bytes: number;
}

/**
 * A qcow2 image, version 2 or 3, over an image that it is an overlay of, if any. Owns both.
 *
 * A writer that is killed leaves an image without corruption, and with all that was flushed: data and refcounts are in the
 * file before the table that refers to them, and a cluster is used again only once no table in the file refers to it.
 */
export class Qcow2Image implements BlockImage {
  readonly bytes: number;
  readonly isReadOnly: boolean;
  readonly discardBytes: number;
  readonly #file: ImageFile;
  readonly #header: Qcow2Header;
  readonly #backing: BlockImage | undefined;
  readonly #tables: Tables;
  readonly #refcounts: Refcounts | undefined;
  /** Offsets of clusters that tables in the file may still refer to. */
  readonly #leaving: number[] = [];
  #decompressed: { readonly entry: bigint; readonly bytes: Uint8Array } | undefined;

  /** @throws SysError EINVAL for an image that cannot be used so */
  constructor(file: ImageFile, header: Qcow2Header, backing: BlockImage | undefined) {
    this.#file = file;
    this.#header = header;
    this.#backing = backing;
    this.bytes = header.bytes;
    this.isReadOnly = file.isReadOnly;
    this.discardBytes = header.clusterBytes;
    if (!this.isReadOnly && header.writeProblem !== undefined)
      throw invalid(file.path, `it cannot be written: ${header.writeProblem}`);
    this.#tables = new Tables(file, header);
    this.#refcounts = this.isReadOnly ? undefined : new Refcounts(file, header);
    // Who wrote these relies on nobody writing without knowledge of them.
    if (!this.isReadOnly && header.hasAutoclear) file.write([new Uint8Array(8)], AUTOCLEAR_AT);
  }

  read(parts: readonly Uint8Array[], offset: number): void {
    this.#eachCluster(offset, lengthOf(parts), (cluster, within, bytes, done) => {
      this.#readFrom(this.#source(cluster), sliceParts(parts, done, bytes), cluster, within);
    });
  }

  write(parts: readonly Uint8Array[], offset: number): void {
    const { clusterBytes } = this.#header;
    const added: { readonly cluster: number; readonly at: number; readonly before: bigint }[] = [];
    let run: Run | undefined;
    const put = (at: number, pieces: readonly Uint8Array[]): void => {
      if (run === undefined || run.offset + run.bytes !== at) {
        if (run !== undefined) this.#file.write(run.parts, run.offset);
        run = { offset: at, parts: [], bytes: 0 };
      }
      run.parts.push(...pieces);
      run.bytes += lengthOf(pieces);
    };
    try {
      this.#eachCluster(offset, lengthOf(parts), (cluster, within, bytes, done) => {
        const pieces = sliceParts(parts, done, bytes);
        const before = this.#tables.get(cluster);
        const source = this.#sourceOf(before);
        if (source.kind === 'data' && (before & COPIED) !== 0n) {
          put(source.offset + within, pieces);
          return;
        }
        const at = this.#allocate();
        added.push({ cluster, at, before });
        const head = this.#filled(source, cluster, 0, within);
        const tail = this.#filled(source, cluster, within + bytes, clusterBytes - within - bytes);
        put(at, [...head, ...pieces, ...tail]);
      });
      if (run !== undefined) this.#file.write((run as Run).parts, (run as Run).offset);
    } catch (error) {
      for (const { at } of added) this.#refcounts?.release(at);
      throw error;
    }
    for (const { cluster, at, before } of added) {
      this.#set(cluster, BigInt(at) | COPIED);
      this.#leave(before);
    }
  }

  flush(): void {
    const [tables, refcounts] = [this.#tables, this.#refcounts];
    if (refcounts === undefined) return;
    const hasTables = tables.isDirty;
    if (hasTables || refcounts.isDirty) {
      refcounts.write();
      // Data and refcounts are there before what refers to them.
      if (hasTables) this.#file.sync();
      tables.write(() => this.#file.sync());
    }
    this.#file.sync();
    const { clusterBytes } = this.#header;
    for (const offset of this.#leaving.splice(0))
      if (refcounts.release(offset)) this.#file.punch(offset, clusterBytes);
  }

  discard(offset: number, bytes: number): void {
    this.#eachWholeCluster(offset, bytes, (cluster) => {
      const before = this.#tables.get(cluster);
      // What is under it would show again.
      const after = this.#backing === undefined ? 0n : ZERO;
      if (before === 0n || before === ZERO || (after === ZERO && this.#header.version === 2)) return;
      this.#set(cluster, after);
      this.#leave(before);
    });
  }

  writeZeroes(offset: number, bytes: number, mayFree: boolean): void {
    const { clusterBytes, version } = this.#header;
    const zeroes = new Uint8Array(clusterBytes);
    this.#eachCluster(offset, bytes, (cluster, within, length, done) => {
      const before = this.#tables.get(cluster);
      const source = this.#sourceOf(before);
      if (source.kind === 'zero' || (source.kind === 'backing' && this.#backing === undefined)) return;
      const isOwn = source.kind === 'data' && (before & COPIED) !== 0n;
      if (length < clusterBytes || version === 2 || (isOwn && !mayFree)) {
        if (isOwn) this.#file.zero(source.offset + within, length, false);
        else this.write([zeroes.subarray(0, length)], offset + done);
        return;
      }
      this.#set(cluster, ZERO);
      this.#leave(before);
    });
  }

  /** Calls `use` for the part of each cluster that a range has. */
  #eachCluster(
    offset: number,
    bytes: number,
    use: (cluster: number, within: number, bytes: number, done: number) => void,
  ): void {
    const { clusterBytes } = this.#header;
    for (let done = 0; done < bytes; ) {
      const cluster = Math.floor((offset + done) / clusterBytes);
      const within = (offset + done) % clusterBytes;
      const length = Math.min(clusterBytes - within, bytes - done);
      use(cluster, within, length, done);
      done += length;
    }
  }

  #eachWholeCluster(offset: number, bytes: number, use: (cluster: number) => void): void {
    this.#eachCluster(offset, bytes, (cluster, within, length) => {
      if (within === 0 && length === this.#header.clusterBytes) use(cluster);
    });
  }

  #source(cluster: number): Source {
    return this.#sourceOf(this.#tables.get(cluster));
  }

  #sourceOf(entry: bigint): Source {
    if ((entry & COMPRESSED) !== 0n) return { kind: 'compressed', entry };
    if ((entry & ZERO) !== 0n && this.#header.version === 3) return { kind: 'zero' };
    const offset = offsetOf(entry);
    if (offset === 0) return { kind: 'backing' };
    if (offset % this.#header.clusterBytes !== 0 || offset >= this.#file.bytes)
      throw notValid(this.#file.path, `a cluster at 0x${offset.toString(16)}`);
    return { kind: 'data', offset };
  }

  #readFrom(source: Source, parts: readonly Uint8Array[], cluster: number, within: number): void {
    switch (source.kind) {
      case 'data':
        this.#file.read(parts, source.offset + within);
        return;
      case 'zero':
        fillParts(parts, 0);
        return;
      case 'backing':
        this.#readBacking(parts, cluster * this.#header.clusterBytes + within);
        return;
      case 'compressed': {
        let from = within;
        const whole = this.#decompress(source.entry);
        for (const part of parts) {
          part.set(whole.subarray(from, from + part.length));
          from += part.length;
        }
      }
    }
  }

  /** An overlay may be longer than what it lies over. */
  #readBacking(parts: readonly Uint8Array[], offset: number): void {
    const bytes = lengthOf(parts);
    const there = Math.max(0, Math.min(bytes, (this.#backing?.bytes ?? 0) - offset));
    if (there > 0) this.#backing?.read(sliceParts(parts, 0, there), offset);
    if (there < bytes) fillParts(sliceParts(parts, there, bytes - there), 0);
  }

  /** What a part of a cluster reads, for one that takes its place. The last cluster may go beyond the disk's end. */
  #filled(source: Source, cluster: number, within: number, bytes: number): Uint8Array[] {
    if (bytes === 0) return [];
    const piece = new Uint8Array(bytes);
    this.#readFrom(source, [piece], cluster, within);
    return [piece];
  }

  #decompress(entry: bigint): Uint8Array {
    if (this.#decompressed?.entry === entry) return this.#decompressed.bytes;
    const bytes = decompress(this.#file, this.#header, entry);
    this.#decompressed = { entry, bytes };
    return bytes;
  }

  #allocate(): number {
    return (this.#refcounts as Refcounts).allocate();
  }

  #set(cluster: number, entry: bigint): void {
    if (this.#tables.isFull) this.flush();
    this.#tables.set(cluster, entry, () => this.#allocate());
  }

  /** The clusters of an entry that has been replaced are free once that is in the file. */
  #leave(entry: bigint): void {
    if (entry === 0n) return;
    const { clusterBytes, clusterBits } = this.#header;
    if ((entry & COMPRESSED) === 0n) {
      const offset = offsetOf(entry);
      if (offset !== 0) this.#leaving.push(offset);
      return;
    }
    const { offset, bytes } = compressedRange(entry, clusterBits);
    for (let at = offset - (offset % clusterBytes); at < offset + bytes; at += clusterBytes)
      this.#leaving.push(at);
  }

  [Symbol.dispose](): void {
    this.#file[Symbol.dispose]();
    this.#backing?.[Symbol.dispose]();
  }
}
