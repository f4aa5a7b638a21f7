import type { SysError } from '../../sys/error.js';
import { fillParts, lengthOf, sliceParts } from '../memory-parts.js';
import type { BlockImage, Done } from './image.js';
import type { ImageFile } from './image-file.js';
import { andThen, eachInTurn, guarded, Joint, sysError, Turns } from './joint.js';
import { compressedRange, decompress } from './qcow2-compressed.js';
import { AUTOCLEAR_AT, invalid, type Qcow2Header } from './qcow2-header.js';
import { Refcounts } from './qcow2-refcounts.js';
import { COMPRESSED, COPIED, notValid, offsetOf, Tables, ZERO } from './qcow2-tables.js';
import { Runs } from './runs.js';

/** What a range within one cluster of the disk is made of. */
type Source =
  | { readonly kind: 'backing' }
  | { readonly kind: 'zero' }
  | { readonly kind: 'data'; readonly offset: number }
  | { readonly kind: 'compressed'; readonly entry: bigint };

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
  /** Offsets of clusters that operations use now, with how many. */
  readonly #inUse = new Map<number, number>();
  readonly #changes = new Turns();
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

  read(parts: readonly Uint8Array[], offset: number, done: Done): void {
    const joint = new Joint(done);
    const { clusterBytes } = this.#header;
    const runs = { data: new Runs(), backing: new Runs() };
    try {
      this.#eachCluster(offset, lengthOf(parts), (cluster, within, bytes, at) => {
        const pieces = sliceParts(parts, at, bytes);
        const source = this.#sourceOf(this.#tables.get(cluster));
        if (source.kind === 'data') runs.data.add(source.offset + within, pieces);
        else if (source.kind === 'backing') runs.backing.add(cluster * clusterBytes + within, pieces);
        else this.#readFrom(source, pieces, cluster, within, joint.part());
      });
      for (const run of runs.data.list) this.#readData(run.parts, run.offset, joint.part());
      for (const run of runs.backing.list) this.#readBacking(run.parts, run.offset, joint.part());
    } catch (error) {
      joint.end(sysError(error));
      return;
    }
    joint.end();
  }

  write(parts: readonly Uint8Array[], offset: number, done: Done): void {
    let runs: Runs | undefined;
    try {
      runs = this.#ownRuns(parts, offset);
    } catch (error) {
      done(sysError(error));
      return;
    }
    if (runs !== undefined) this.#put(runs, done);
    else this.#change(done, (changed) => this.#writeAnew(parts, offset, changed));
  }

  flush(done: Done): void {
    const [tables, refcounts] = [this.#tables, this.#refcounts];
    // What was written in place needs no table.
    if (refcounts === undefined) done();
    else if (!tables.isDirty && !refcounts.isDirty && this.#leaving.length === 0) this.#file.beginSync(done);
    else this.#change(done, (changed) => this.#flush(refcounts, changed));
  }

  discard(offset: number, bytes: number, done: Done): void {
    this.#change(done, (changed) => {
      this.#eachWholeCluster(offset, bytes, (cluster) => {
        const before = this.#tables.get(cluster);
        // What is under it would show again.
        const after = this.#backing === undefined ? 0n : ZERO;
        if (before === 0n || before === ZERO || (after === ZERO && this.#header.version === 2)) return;
        this.#set(cluster, after);
        this.#leave(before);
      });
      changed();
    });
  }

  writeZeroes(offset: number, bytes: number, mayFree: boolean, done: Done): void {
    const { clusterBytes } = this.#header;
    const zeroes = new Uint8Array(Math.min(clusterBytes, bytes));
    const first = Math.floor(offset / clusterBytes);
    const count = Math.ceil((offset + bytes) / clusterBytes) - first;
    const step = (i: number, next: Done): void => {
      const from = Math.max(offset, (first + i) * clusterBytes);
      const length = Math.min(offset + bytes, (first + i + 1) * clusterBytes) - from;
      guarded(next, () => this.#zeroCluster(from, zeroes.subarray(0, length), mayFree, next));
    };
    this.#change(done, (changed) => eachInTurn(count, step, changed));
  }

  /** Makes a range within a cluster read 0. */
  #zeroCluster(offset: number, zeroes: Uint8Array, mayFree: boolean, done: Done): void {
    const { clusterBytes, version } = this.#header;
    const cluster = Math.floor(offset / clusterBytes);
    const before = this.#tables.get(cluster);
    const source = this.#sourceOf(before);
    if (source.kind === 'zero' || (source.kind === 'backing' && this.#backing === undefined)) {
      done();
      return;
    }
    const isOwn = source.kind === 'data' && (before & COPIED) !== 0n;
    if (zeroes.length === clusterBytes && version !== 2 && (!isOwn || mayFree)) {
      this.#set(cluster, ZERO);
      this.#leave(before);
      done();
    } else if (isOwn) {
      const at = source.offset + (offset % clusterBytes);
      this.#file.beginZero(at, zeroes.length, false, this.#using(at, zeroes.length, done));
    } else this.#writeAnew([zeroes], offset, done);
  }

  /**
   * Does what changes tables or refcounts: one after the other, as a flush has to find both of the same moment. Reads, and
   * writes in place, go on meanwhile.
   */
  #change(done: Done, act: (changed: Done) => void): void {
    this.#changes.take((leave) => {
      const changed: Done = (error) => {
        done(error);
        leave();
      };
      guarded(changed, () => act(changed));
    });
  }

  /** Where a write goes if all of its clusters are the image's own; undefined if some are not. */
  #ownRuns(parts: readonly Uint8Array[], offset: number): Runs | undefined {
    const runs = new Runs();
    let isOwn = true;
    this.#eachCluster(offset, lengthOf(parts), (cluster, within, bytes, at) => {
      if (!isOwn) return;
      const entry = this.#tables.get(cluster);
      const source = this.#sourceOf(entry);
      if (source.kind !== 'data' || (entry & COPIED) === 0n) isOwn = false;
      else runs.add(source.offset + within, sliceParts(parts, at, bytes));
    });
    return isOwn ? runs : undefined;
  }

  /** Writes to clusters of which some are new. In a change. */
  #writeAnew(parts: readonly Uint8Array[], offset: number, done: Done): void {
    const { clusterBytes } = this.#header;
    const added: { readonly cluster: number; readonly at: number; readonly before: bigint }[] = [];
    const runs = new Runs();
    const fail = (error: SysError): void => {
      for (const { at } of added) this.#refcounts?.release(at);
      done(error);
    };
    const filled = new Joint((error) => (error === undefined ? this.#put(runs, written) : fail(error)));
    const written: Done = (error) => {
      if (error !== undefined) return fail(error);
      guarded(done, () => {
        for (const { cluster, at, before } of added) {
          this.#set(cluster, BigInt(at) | COPIED);
          this.#leave(before);
        }
        done();
      });
    };
    const fill = (source: Source, cluster: number, within: number, bytes: number): Uint8Array[] => {
      if (bytes === 0) return [];
      const piece = new Uint8Array(bytes);
      this.#readFrom(source, [piece], cluster, within, filled.part());
      return [piece];
    };
    guarded(
      (error) => filled.end(error),
      () => {
        this.#eachCluster(offset, lengthOf(parts), (cluster, within, bytes, at) => {
          const pieces = sliceParts(parts, at, bytes);
          const before = this.#tables.get(cluster);
          const source = this.#sourceOf(before);
          if (source.kind === 'data' && (before & COPIED) !== 0n) {
            runs.add(source.offset + within, pieces);
            return;
          }
          const to = this.#allocate();
          added.push({ cluster, at: to, before });
          const end = within + bytes;
          // The last cluster may go beyond the disk's end.
          const head = fill(source, cluster, 0, within);
          runs.add(to, [...head, ...pieces, ...fill(source, cluster, end, clusterBytes - end)]);
        });
        filled.end();
      },
    );
  }

  #put(runs: Runs, done: Done): void {
    const joint = new Joint(done);
    for (const { parts, offset, bytes } of runs.list)
      this.#file.beginWrite(parts, offset, this.#using(offset, bytes, joint.part()));
    joint.end();
  }

  /** Writes tables and refcounts so that the file is whole at each moment. In a change. */
  #flush(refcounts: Refcounts, done: Done): void {
    const [file, tables] = [this.#file, this.#tables];
    const last = andThen(done, () => {
      this.#freeLeft(refcounts);
      done();
    });
    const hasTables = tables.isDirty;
    refcounts.write();
    if (!hasTables) {
      file.beginSync(last);
      return;
    }
    // Data and refcounts are there before what refers to them.
    const withL1 = andThen(done, () => {
      tables.writeL1();
      file.beginSync(last);
    });
    file.beginSync(andThen(done, () => file.beginSync(tables.writeL2() ? withL1 : last)));
  }

  /** The same at once, where a change needs room. @throws SysError */
  #flushNow(): void {
    const [file, tables, refcounts] = [this.#file, this.#tables, this.#refcounts as Refcounts];
    refcounts.write();
    file.sync();
    if (tables.writeL2()) {
      file.sync();
      tables.writeL1();
    }
    file.sync();
    this.#freeLeft(refcounts);
  }

  /** Frees clusters that no table in the file refers to any more, once nothing that has begun before uses them. */
  #freeLeft(refcounts: Refcounts): void {
    for (const offset of this.#leaving.splice(0)) {
      if (this.#inUse.has(offset)) this.#leaving.push(offset);
      else if (refcounts.release(offset)) this.#file.punch(offset, this.#header.clusterBytes);
    }
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

  #sourceOf(entry: bigint): Source {
    if ((entry & COMPRESSED) !== 0n) return { kind: 'compressed', entry };
    if ((entry & ZERO) !== 0n && this.#header.version === 3) return { kind: 'zero' };
    const offset = offsetOf(entry);
    if (offset === 0) return { kind: 'backing' };
    if (offset % this.#header.clusterBytes !== 0 || offset >= this.#file.bytes)
      throw notValid(this.#file.path, `a cluster at 0x${offset.toString(16)}`);
    return { kind: 'data', offset };
  }

  #readFrom(source: Source, parts: readonly Uint8Array[], cluster: number, within: number, done: Done): void {
    switch (source.kind) {
      case 'data':
        this.#readData(parts, source.offset + within, done);
        break;
      case 'zero':
        fillParts(parts, 0);
        done();
        break;
      case 'backing':
        this.#readBacking(parts, cluster * this.#header.clusterBytes + within, done);
        break;
      case 'compressed':
        guarded(done, () => {
          let from = within;
          const whole = this.#decompress(source.entry);
          for (const part of parts) {
            part.set(whole.subarray(from, from + part.length));
            from += part.length;
          }
          done();
        });
    }
  }

  #readData(parts: readonly Uint8Array[], offset: number, done: Done): void {
    this.#file.beginRead(parts, offset, this.#using(offset, lengthOf(parts), done));
  }

  /** An overlay may be longer than what it lies over. */
  #readBacking(parts: readonly Uint8Array[], offset: number, done: Done): void {
    const bytes = lengthOf(parts);
    const there = Math.max(0, Math.min(bytes, (this.#backing?.bytes ?? 0) - offset));
    if (there < bytes) fillParts(sliceParts(parts, there, bytes - there), 0);
    if (this.#backing === undefined || there === 0) done();
    else this.#backing.read(there < bytes ? sliceParts(parts, 0, there) : parts, offset, done);
  }

  /** Keeps clusters of a writable image from being freed, and used for something else, while an operation uses them. */
  #using(offset: number, bytes: number, done: Done): Done {
    if (this.isReadOnly) return done;
    const { clusterBytes } = this.#header;
    const first = offset - (offset % clusterBytes);
    for (let at = first; at < offset + bytes; at += clusterBytes)
      this.#inUse.set(at, (this.#inUse.get(at) ?? 0) + 1);
    return (error) => {
      for (let at = first; at < offset + bytes; at += clusterBytes) {
        const uses = (this.#inUse.get(at) as number) - 1;
        if (uses === 0) this.#inUse.delete(at);
        else this.#inUse.set(at, uses);
      }
      done(error);
    };
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
    if (this.#tables.isFull) this.#flushNow();
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
