/** The memory map for the guest, computed from RAM and from reserved ranges. */

export const E820_TYPE_RAM = 1;
export const E820_TYPE_RESERVED = 2;
export type E820Type = typeof E820_TYPE_RAM | typeof E820_TYPE_RESERVED;

export interface PhysicalRange {
  readonly base: bigint;
  readonly bytes: bigint;
}

export interface E820Range extends PhysicalRange {
  readonly type: E820Type;
}

const endOf = ({ base, bytes }: PhysicalRange): bigint => base + bytes;
const byBase = (a: PhysicalRange, b: PhysicalRange): number =>
  a.base < b.base ? -1 : a.base > b.base ? 1 : 0;

/** Merges ranges that overlap or touch; sorted. */
function union(ranges: readonly PhysicalRange[]): PhysicalRange[] {
  const joined: { base: bigint; bytes: bigint }[] = [];
  for (const range of [...ranges].sort(byBase)) {
    const last = joined.at(-1);
    if (range.bytes === 0n) continue;
    if (last === undefined || range.base > endOf(last)) joined.push({ base: range.base, bytes: range.bytes });
    else if (endOf(range) > endOf(last)) last.bytes = endOf(range) - last.base;
  }
  return joined;
}

/** The parts of `range` outside `others`, which are sorted and disjoint. */
function without(range: PhysicalRange, others: readonly PhysicalRange[]): PhysicalRange[] {
  const left: PhysicalRange[] = [];
  let from = range.base;
  for (const other of others) {
    if (endOf(other) <= from || other.base >= endOf(range)) continue;
    if (other.base > from) left.push({ base: from, bytes: other.base - from });
    from = endOf(other);
  }
  if (from < endOf(range)) left.push({ base: from, bytes: endOf(range) - from });
  return left;
}

/** What the memory map describes. */
export interface MemoryPlan {
  readonly ram: readonly PhysicalRange[];
  /** Reported as reserved, whether there is RAM or not. */
  readonly reserved: readonly PhysicalRange[];
  /** Removed from RAM and not reported at all. */
  readonly hidden?: readonly PhysicalRange[];
}

/** Builds the map: sorted, without overlaps, each range as long as possible. */
export function buildE820({ ram, reserved, hidden = [] }: MemoryPlan): E820Range[] {
  const told = union(reserved);
  const taken = union([...reserved, ...hidden]);
  const usable = union(ram).flatMap((range) => without(range, taken));
  return [
    ...usable.map((range) => ({ ...range, type: E820_TYPE_RAM as E820Type })),
    ...told.map((range) => ({ ...range, type: E820_TYPE_RESERVED as E820Type })),
  ].sort(byBase);
}
