import { Mapping } from '../../sys/mapping.js';
import type { PrecopyInfo } from '../../vfio/feature.js';
import { readState, type StateReader, StateWriter } from './state-fields.js';

/**
 * What of a device's state is copied while it runs, in pieces, before the rest: PRE_COPY. Machine thread only.
 */
export interface PreCopy {
  /** Most bytes of a piece. */
  readonly mostPieceBytes: number;
  /** Begins: nothing has been copied. @throws SysError ENOMEM */
  begin(): void;
  /** The next piece; undefined if nothing has changed since it was copied. */
  next(): Uint8Array | undefined;
  /** What {@link next} has to give. */
  left(): PrecopyInfo;
  /** Most bytes of {@link rest}. */
  readonly mostRestBytes: number;
  /** Bytes that {@link rest} would have now. */
  restBytes(): number;
  /** The state of the stopped device, without what was copied and is still so. */
  rest(): Uint8Array;
  /** What was copied need not be known any more. */
  end(): void;
  /** Takes over a piece, which is untrusted. Returns what is wrong with it, if something is. @param isFirst of this state */
  load(piece: Uint8Array, isFirst: boolean): string | undefined;
  /** Takes over {@link rest}, after the pieces. Returns false or the problem as StoppableDevice.load */
  loadRest(data: Uint8Array): boolean | string;
}

const PAGE_BYTES = 4096;
/** A page's number, 32 bits, and its contents. */
const PAGE_RECORD_BYTES = 4 + PAGE_BYTES;
/** What is compared at once, as long as it is the same. */
const BLOCK_PAGES = 16;
/** So that a piece has less than 256 KiB. */
const PIECE_PAGES = 63;
const VERSION = 1;
/** Name and version, length of the memory, number of pages. */
const PIECE_BYTES = 8 + 4 + 4;

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
  const zeros = new Uint8Array(BLOCK_PAGES * PAGE_BYTES);
  const block = Buffer.from(memory.buffer, memory.byteOffset, memory.length);
  const used: [number, Uint8Array][] = [];
  for (let at = 0; at < memory.length; at += PAGE_BYTES)
    if (block.compare(zeros, 0, PAGE_BYTES, at, at + PAGE_BYTES) !== 0)
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
  saveRest(pages: SavedPages): Uint8Array;
  /** Takes it over. */
  loadRest(data: Uint8Array): boolean | string;
}

/**
 * Copies a memory page by page while a guest writes it, by whichever mapping: nobody tells which pages it writes, so they are compared
 * with a copy of what was sent. It takes as much memory as the device's, where that is not zero, until the end.
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
  #isBegun = false;

  constructor(parts: PreCopiedParts) {
    this.#parts = parts;
    this.#pages = parts.bytes / PAGE_BYTES;
    this.mostRestBytes = parts.restBytes + pagesBytes(this.#pages);
  }

  begin(): void {
    this.end();
    this.#sent = Mapping.anonymous(this.#parts.bytes);
    this.#at = 0;
    this.#seen = 0;
    this.#isBegun = false;
  }

  next(): Uint8Array | undefined {
    const pages = this.#take(this.#at, this.#pages, PIECE_PAGES);
    this.#seen =
      pages.length < PIECE_PAGES ? this.#pages : Math.max(this.#seen, (pages.at(-1)?.[0] ?? 0) + 1);
    if (pages.length < PIECE_PAGES) pages.push(...this.#take(0, this.#at, PIECE_PAGES - pages.length));
    const last = pages.at(-1)?.[0];
    // The first piece says what it is, so that what does not fit is known early.
    if (last === undefined && this.#isBegun) return undefined;
    this.#isBegun = true;
    this.#at = ((last ?? -1) + 1) % this.#pages;
    const state = new StateWriter(this.#parts.name, VERSION).u32(this.#parts.bytes);
    writePages(
      state,
      pages.sort(([a], [b]) => a - b),
    );
    return state.finish();
  }

  left(): PrecopyInfo {
    let [initial, dirty] = [0, 0];
    for (const page of this.#differences(0, this.#pages)) page < this.#seen ? dirty++ : initial++;
    const first = this.#isBegun ? 0 : PIECE_BYTES;
    return {
      initialBytes: BigInt(first + initial * PAGE_RECORD_BYTES),
      dirtyBytes: BigInt(dirty * PAGE_RECORD_BYTES),
    };
  }

  restBytes(): number {
    const count = [...this.#differences(0, this.#pages)].length;
    return this.#parts.restBytes + pagesBytes(count);
  }

  rest(): Uint8Array {
    return this.#parts.saveRest(this.#take(0, this.#pages, this.#pages));
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
