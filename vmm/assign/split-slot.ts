import { type Gpa, type Hva, offset, PAGE_SIZE } from '../../sys/address.js';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { Scope } from '../../sys/scope.js';
import type { MemorySlotPort, PortSlot } from './memory-map.js';

/** Pages of a range, counted from its start. */
export interface PageRun {
  /** Number of the first one. */
  readonly first: bigint;
  /** How many. */
  readonly pages: bigint;
}

/** A piece of the range that is one of the hypervisor's slots. */
interface Piece extends PageRun {
  readonly isReadonly: boolean;
}
interface Slot extends Piece {
  readonly owned: PortSlot;
}

/** The range to split. */
export interface SlotRange {
  readonly gpa: Gpa;
  readonly hva: Hva;
  /** Whole pages. */
  readonly bytes: bigint;
}

const isSame = (a: Piece, b: Piece): boolean =>
  a.first === b.first && a.pages === b.pages && a.isReadonly === b.isReadonly;

/**
 * Host memory mapped into the guest, parts of which the guest cannot write: as few slots as show it so. Whoever follows
 * the memory (DMA maps) does not see the slots. Disposing unmaps all of it.
 */
export class SplitSlot implements Disposable {
  readonly #port: MemorySlotPort;
  readonly #range: SlotRange;
  #slots: readonly Slot[];
  #isLogged = false;
  /** Slots that logged are gone: what they knew is lost. */
  #isAllWritten = false;

  /** Maps all of it for writing. @throws as {@link MemorySlotPort.add} */
  constructor(port: MemorySlotPort, range: SlotRange) {
    this.#port = port;
    this.#range = range;
    this.#slots = [this.#add({ first: 0n, pages: range.bytes / PAGE_SIZE, isReadonly: false })];
  }

  /**
   * Makes the runs read-only, and everything else writable. Slots that stay the same are not touched. KVM cannot change
   * the flag of a slot, nor cut one, so for a moment part of the range is not there: no processor may run then.
   * @param runs ascending, neither touching nor overlapping
   * @throws as {@link MemorySlotPort.add}; the slots are then as they were
   */
  setReadonly(runs: readonly PageRun[]): void {
    const wanted = piecesOf(runs, this.#range.bytes / PAGE_SIZE);
    const kept = this.#slots.filter((slot) => wanted.some((piece) => isSame(piece, slot)));
    const old = this.#slots.filter((slot) => !kept.includes(slot));
    const missing = wanted.filter((piece) => !kept.some((slot) => isSame(piece, slot)));
    this.#slots = kept;
    this.#isAllWritten ||= this.#isLogged;
    for (const { owned } of old) owned[Symbol.dispose]();
    try {
      this.#hold(kept, this.#addAll(missing));
    } catch (error) {
      this.#hold(kept, this.#addAll(old));
      throw error;
    }
  }

  /** Starts or stops a log of the pages that the guest writes. @throws SysError ENOTSUP if the port has none; of the port */
  setLogged(isLogged: boolean): void {
    for (const { owned } of this.#slots) {
      if (owned.setLogged === undefined || owned.getDirtyLog === undefined) throw unlogged();
      owned.setLogged(isLogged);
    }
    this.#isLogged = isLogged;
    this.#isAllWritten = false;
  }

  /** Pages written since the last call, one bit each, in units of 8 bytes. @throws SysError of the port */
  takeWritten(): Uint8Array {
    const pages = new Uint8Array(Math.ceil(Number(this.#range.bytes / PAGE_SIZE) / 64) * 8);
    for (const { first, pages: count, owned } of this.#slots) {
      const written = owned.getDirtyLog?.();
      if (written !== undefined) mergeBits(pages, Number(first), written, Number(count));
    }
    if (this.#isAllWritten) pages.fill(0xff);
    this.#isAllWritten = false;
    return pages;
  }

  #hold(kept: readonly Slot[], added: readonly Slot[]): void {
    this.#slots = [...kept, ...added].sort((a, b) => (a.first < b.first ? -1 : 1));
  }

  /** All of them or none. */
  #addAll(pieces: readonly Piece[]): readonly Slot[] {
    using undo = new Scope();
    const slots = pieces.map((piece) => {
      const slot = this.#add(piece);
      undo.own(slot.owned);
      return slot;
    });
    undo.move();
    return slots;
  }

  #add({ first, pages, isReadonly }: Piece): Slot {
    const { gpa, hva } = this.#range;
    const at = first * PAGE_SIZE;
    const options = isReadonly ? { isReadonly } : {};
    const owned = this.#port.add(offset(gpa, at), offset(hva, at), pages * PAGE_SIZE, options);
    if (this.#isLogged) owned.setLogged?.(true);
    return { first, pages, isReadonly, owned };
  }

  /** A failure does not keep the others mapped. */
  [Symbol.dispose](): void {
    using scope = new Scope();
    for (const { owned } of this.#slots) scope.own(owned);
    this.#slots = [];
  }
}

const unlogged = (): SysError =>
  new SysError({
    call: 'setLogged',
    target: 'guest memory',
    errno: errno.ENOTSUP,
    hint: 'the plug-in that maps it cannot tell which pages the guest writes',
  });

/** Sets the bits of `part`, whose first one is bit `at` of `into`. */
export function mergeBits(into: Uint8Array, at: number, part: Uint8Array, count: number): void {
  for (let i = 0; i < count; i++) {
    if (i % 8 === 0 && part[i >> 3] === 0) i += 7;
    else if (((part[i >> 3] as number) & (1 << (i & 7))) !== 0)
      into[(at + i) >> 3] = (into[(at + i) >> 3] as number) | (1 << ((at + i) & 7));
  }
}

/** The runs and the gaps between them. */
function piecesOf(runs: readonly PageRun[], pages: bigint): readonly Piece[] {
  const pieces: Piece[] = [];
  let next = 0n;
  for (const { first, pages: length } of runs) {
    if (first > next) pieces.push({ first: next, pages: first - next, isReadonly: false });
    pieces.push({ first, pages: length, isReadonly: true });
    next = first + length;
  }
  if (next < pages) pieces.push({ first: next, pages: pages - next, isReadonly: false });
  return pieces;
}

/** Page numbers, in any order but each once, as ascending runs. */
export function runsOf(numbers: Iterable<bigint>): readonly PageRun[] {
  const runs: { first: bigint; pages: bigint }[] = [];
  for (const page of [...numbers].sort((a, b) => (a < b ? -1 : 1))) {
    const last = runs.at(-1);
    if (last !== undefined && last.first + last.pages === page) last.pages++;
    else runs.push({ first: page, pages: 1n });
  }
  return runs;
}
