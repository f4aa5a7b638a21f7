/** Where on a card's video memory an instance lies: policies that can be exchanged. */

/** A part of a card's video memory, in MiB. */
export interface Extent {
  /** Offset from the start of the card's memory. */
  readonly offset: number;
  /** Length. */
  readonly size: number;
}

/** The video memory that a policy places an instance in. */
export interface PlacementMemory {
  /** All of it, in MiB: a power of two. */
  readonly size: number;
  /** What instances have of it, by offset. */
  readonly taken: readonly Extent[];
}

/**
 * Decides where the memory of a new instance lies, and by that, which instances can exist beside each other. It has no state:
 * the card calls it also to count the instances that it could still make.
 */
export interface PlacementPolicy {
  /** Name by which a card's `placement` chooses it: `mixed-size`. */
  readonly name: string;
  /**
   * Returns the offset in MiB, or, as a clause, why there is none: `another clause of the error`. The card checks the result:
   * an offset outside of its memory, or in an instance's, is the policy's error (EPROTO).
   * @param size of the instance's memory in MiB
   */
  place(size: number, memory: PlacementMemory): number | string;
}

const noHole = (size: number): string => `no hole of ${size} MiB is left`;

const isFree = ({ taken }: PlacementMemory, start: number, end: number): boolean =>
  taken.every(({ offset, size }) => offset + size <= start || offset >= end);

/** The lowest free multiple of `step` with `size` MiB behind it. */
function lowest(size: number, step: number, memory: PlacementMemory): number | string {
  for (let at = 0; at + size <= memory.size; at += step) if (isFree(memory, at, at + size)) return at;
  return noHole(size);
}

/** All instances of a card have the same size: the first decides, until the last is gone. Nothing is ever fragmented. */
const sameSize: PlacementPolicy = {
  name: 'same-size',
  place(size, memory) {
    const other = memory.taken.find((each) => each.size !== size);
    if (other !== undefined)
      return `all instances are of one size, and there are some of ${other.size} MiB already`;
    return lowest(size, size, memory);
  },
};

/**
 * Instances of any size, each at a multiple of its size rounded up to a power of two, in the smallest free block that holds it:
 * large blocks stay whole as long as that is possible.
 */
const mixedSize: PlacementPolicy = {
  name: 'mixed-size',
  place(size, memory) {
    const step = 2 ** Math.ceil(Math.log2(size));
    let best: { readonly at: number; readonly block: number } | undefined;
    for (let at = 0; at + size <= memory.size; at += step) {
      if (!isFree(memory, at, at + size)) continue;
      const block = freeBlock(at, step, memory);
      if (best === undefined || block < best.block) best = { at, block };
    }
    return best?.at ?? `no free block of ${size} MiB at a multiple of ${step} MiB is left`;
  },
};

/** The largest power of two whose aligned block around `at` is free. */
function freeBlock(at: number, least: number, memory: PlacementMemory): number {
  let block = least;
  for (let next = 2 * block; next <= memory.size; next *= 2) {
    const start = at - (at % next);
    if (!isFree(memory, start, start + next)) break;
    block = next;
  }
  return block;
}

/** Instances of any size at the lowest offset with room: it can leave holes that no instance fits in. */
const firstFit: PlacementPolicy = {
  name: 'first-fit',
  place: (size, memory) => lowest(size, 1, memory),
};

/** The policies that a card can have without a plug-in; the first is the default. */
export const PLACEMENT_POLICIES: readonly PlacementPolicy[] = [mixedSize, sameSize, firstFit];
