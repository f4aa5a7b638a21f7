import { Mapping } from '../../sys/mapping.js';
import type { PrecopyInfo } from '../../vfio/feature.js';
import { PIECE_HEADER_BYTES, type SavedState } from './migration-streams.js';
import { readState, type StateReader, StateWriter } from './state-fields.js';

/**
 * What of a device's state is copied while it runs, in pieces, before the rest: PRE_COPY. Machine thread only.
 */
export interface PreCopy {
  /** Most bytes of a piece. */
  readonly mostPieceBytes: number;
  /** Begins: nothing has been copied. @throws SysError ENOMEM */
  begin(): void;
  /** The next piece, which may be one without contents; undefined if nothing has changed since it was copied. */
  next(): Uint8Array | undefined;
  /** Estimates of what {@link next} has to give. */
  left(): PrecopyInfo;
  /** Most bytes of {@link rest}. */
  readonly mostRestBytes: number;
  /** Estimate of the bytes that {@link rest} would have now. */
  restBytes(): number;
  /** The state of the stopped device, without what was copied and is still so. */
  rest(): SavedState;
  /** What was copied need not be known any more. */
  end(): void;
  /** Takes over a piece, which is untrusted. Returns what is wrong with it, if something is. @param isFirst of this state */
  load(piece: Uint8Array, isFirst: boolean): string | undefined;
  /** Takes over {@link rest}, after the pieces. Returns false or the problem as StoppableDevice.load */
  loadRest(data: Uint8Array): boolean | string;
}

/** What such a memory is divided into. */
export const PAGE_BYTES = 4096;
/** A page's number, 32 bits, and its contents. */
const PAGE_RECORD_BYTES = 4 + PAGE_BYTES;
/** What is compared at once, as long as it is the same. */
const BLOCK_PAGES = 16;
/** So that a piece has less than 256 KiB. */
const PIECE_PAGES = 63;
/** Looked at for a piece: 2 MiB, as a thread that runs a guest has other things to do. */
const SLICE_PAGES = 512;
const VERSION = 1;
/** Name and version, length of the memory, number of pages. */
const PIECE_BYTES = 8 + 4 + 4;
/** In the stream. */
const EMPTY_PIECE_BYTES = PIECE_HEADER_BYTES + PIECE_BYTES;

/** Pages of a memory by their number, ascending. */
export type SavedPages = readonly (readonly [page: number, contents: Uint8Array])[];

/** Bytes of a list of pages in a state. */
export const pagesBytes = (count: number): number => 4 + count * PAGE_RECORD_BYTES;

/** Writes a list of pages into a state. */
export function writePages(state: StateWriter, pages: SavedPages): void {
  state.u32(pages.length);
  for (const [page, contents] of pages) state.u32(page).bytes(contents);
}

/** Reads a list of pages of a memory that has so many. @param what it is called */
export function readPages(state: StateReader, most: number, what = 'memory'): SavedPages {
  const pages: [number, Uint8Array][] = [];
  const count = state.u32();
  if (count > most) state.fail(`${count} pages of ${what}, where ${most} fit`);
  for (let i = 0, least = 0; i < count; i++) {
    const page = state.u32();
    if (page < least || page >= most) state.fail(`page ${page} of ${what}`);
    pages.push([page, state.bytes(PAGE_BYTES)]);
    least = page + 1;
  }
  return pages;
}

/** Puts pages into a memory. */
export function storePages(memory: Uint8Array, pages: SavedPages): void {
  for (const [page, contents] of pages) memory.set(contents, page * PAGE_BYTES);
}

/** The numbers of pages that differ between two memories, from one page on, ascending. */
function* differences(one: Uint8Array, other: Uint8Array, from: number, until: number): Generator<number> {
  const [a, b] = [one, other].map((each) => Buffer.from(each.buffer, each.byteOffset, each.length)) as [
    Buffer,
    Buffer,
  ];
  const differ = (page: number, pages: number): boolean => {
    const [at, end] = [page * PAGE_BYTES, Math.min(page + pages, until) * PAGE_BYTES];
    return a.compare(b, at, end, at, end) !== 0;
  };
  for (let block = from; block < until; block += BLOCK_PAGES) {
    if (!differ(block, BLOCK_PAGES)) continue;
    for (let page = block; page < Math.min(block + BLOCK_PAGES, until); page++)
      if (differ(page, 1)) yield page;
  }
}

/** The pages of a memory that are not all zeros. */
export function usedPages(memory: Uint8Array): SavedPages {
  const zeros = new Uint8Array(PAGE_BYTES);
  const all = Buffer.from(memory.buffer, memory.byteOffset, memory.length);
  const used: [number, Uint8Array][] = [];
  for (let at = 0; at < memory.length; at += PAGE_BYTES)
    if (all.compare(zeros, 0, PAGE_BYTES, at, at + PAGE_BYTES) !== 0)
      used.push([at / PAGE_BYTES, memory.subarray(at, at + PAGE_BYTES)]);
  return used;
}

/** A device whose memory is copied while it runs. */
export interface PreCopiedParts {
  /** Begins each piece: 4 characters of ASCII. */
  readonly name: string;
  /** Length of the memory, whole pages of 4 KiB. */
  readonly bytes: number;
  /** The memory: a view, taken anew for each use. */
  readonly memory: () => Uint8Array;
  /** Bytes of {@link saveRest} without pages. */
  readonly restBytes: number;
  /** The rest of the state, with the pages that were written since they were copied. */
  saveRest(pages: SavedPages): SavedState;
  /** Takes it over. */
  loadRest(data: Uint8Array): boolean | string;
}

/**
 * Copies a memory page by page while a guest writes it, by whichever mapping: nobody tells which pages it writes, so they are compared
 * with a copy of what was sent. It takes as much memory as the device's, where that is not zero, in huge pages, until the end. A piece
 * looks at 2 MiB at most: one without pages says that there is more to look at.
 */
export class PreCopiedMemory implements PreCopy {
  readonly mostPieceBytes = PIECE_BYTES + PIECE_PAGES * PAGE_RECORD_BYTES;
  readonly mostRestBytes: number;
  readonly #parts: PreCopiedParts;
  readonly #pages: number;
  /** As the other end has it. */
  #sent: Mapping | undefined;
  /** Where to look on. */
  #at = 0;
  /** Pages before this one have been looked at. */
  #seen = 0;
  /** Pages that were looked at since one was different. */
  #same = 0;
  /** Pages that differ, if they have just been counted. */
  #counted: number | undefined;

  constructor(parts: PreCopiedParts) {
    this.#parts = parts;
    this.#pages = parts.bytes / PAGE_BYTES;
    this.mostRestBytes = parts.restBytes + pagesBytes(this.#pages);
  }

  begin(): void {
    this.end();
    // Read as zeros by few page faults, where nothing was sent.
    this.#sent = Mapping.huge(this.#parts.bytes, { isSeenByThreads: false });
    this.#at = 0;
    this.#seen = 0;
    this.#same = 0;
    this.#counted = undefined;
  }

  next(): Uint8Array | undefined {
    // The first piece says what it is, so that what does not fit is known early.
    const isFirst = this.#seen === 0;
    this.#counted = undefined;
    const pages = this.#look(Math.min(SLICE_PAGES, this.#pages));
    if (pages.length === 0 && this.#same >= this.#pages && !isFirst) {
      this.#same = 0;
      return undefined;
    }
    const state = new StateWriter(this.#parts.name, VERSION).u32(this.#parts.bytes);
    writePages(
      state,
      pages.sort(([a], [b]) => a - b),
    );
    return state.finish();
  }

  /** Takes what differs of so many pages, around the end of the memory, up to a piece. */
  #look(count: number): [number, Uint8Array][] {
    const taken: [number, Uint8Array][] = [];
    for (let left = count; left > 0 && taken.length < PIECE_PAGES; ) {
      const until = Math.min(this.#at + left, this.#pages);
      const some = this.#take(this.#at, until, PIECE_PAGES - taken.length);
      taken.push(...some);
      const last = some.at(-1)?.[0];
      const end = last !== undefined && taken.length === PIECE_PAGES ? last + 1 : until;
      this.#same = last === undefined ? this.#same + end - this.#at : end - last - 1;
      this.#seen = Math.max(this.#seen, end);
      left -= end - this.#at;
      this.#at = end % this.#pages;
    }
    return taken;
  }

  left(): PrecopyInfo {
    // Until all of it was looked at, each page may have to be copied: to know, one would have to look at all at once.
    if (this.#seen < this.#pages)
      return { initialBytes: this.#streamBytes(this.#pages - this.#seen), dirtyBytes: 0n };
    this.#counted = this.#count();
    return { initialBytes: 0n, dirtyBytes: this.#streamBytes(this.#counted) };
  }

  /** What comes until so many pages have been found. */
  #streamBytes(pages: number): bigint {
    if (pages === 0) return 0n;
    const pieces = Math.ceil(pages / PIECE_PAGES) + Math.ceil(this.#pages / SLICE_PAGES);
    return BigInt(pages * PAGE_RECORD_BYTES + pieces * EMPTY_PIECE_BYTES);
  }

  restBytes(): number {
    if (this.#seen < this.#pages) return this.mostRestBytes;
    // Who asks for this has just asked for the other: all of the memory is read once for both.
    const count = this.#counted ?? this.#count();
    this.#counted = undefined;
    return this.#parts.restBytes + pagesBytes(count);
  }

  #count(): number {
    return [...this.#differences(0, this.#pages)].length;
  }

  rest(): SavedState {
    const memory = this.#parts.memory();
    const pages = [...this.#differences(0, this.#pages)];
    return this.#parts.saveRest(
      pages.map((page) => [page, memory.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES)]),
    );
  }

  end(): void {
    this.#sent?.[Symbol.dispose]();
    this.#sent = undefined;
  }

  load(piece: Uint8Array, isFirst: boolean): string | undefined {
    const { name, bytes, memory } = this.#parts;
    const read = readState(piece, name, VERSION, (state) => {
      state.same('memory', state.u32(), bytes);
      return readPages(state, this.#pages);
    });
    if (typeof read === 'string') return read;
    if (isFirst) memory().fill(0);
    storePages(memory(), read);
    return undefined;
  }

  loadRest(data: Uint8Array): boolean | string {
    return this.#parts.loadRest(data);
  }

  *#differences(from: number, until: number): Generator<number> {
    const sent = this.#sent;
    if (sent !== undefined)
      yield* differences(this.#parts.memory(), sent.view.slice(0, sent.bytes), from, until);
  }

  /** Pages that differ from what was sent, which they then are. */
  #take(from: number, until: number, most: number): [number, Uint8Array][] {
    const taken: [number, Uint8Array][] = [];
    const memory = this.#parts.memory();
    for (const page of this.#differences(from, until)) {
      if (taken.length === most) break;
      // One copy, of which both have the same: the guest may write at this moment.
      const contents = memory.slice(page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
      this.#sent?.view.slice(page * PAGE_BYTES, PAGE_BYTES).set(contents);
      taken.push([page, contents]);
    }
    return taken;
  }
}
