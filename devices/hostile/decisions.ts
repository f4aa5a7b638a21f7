import { labelOf, type Place } from './labels.js';
import { type MutationAction, MutationLog, type MutationLogBuffer } from './mutation-log.js';
import { type FullHostileOptions, MUTATION_KINDS, type MutationKind } from './options.js';

/** A round of MurmurHash3, which spreads each bit of both over 32. */
function mix(hash: number, value: number): number {
  let h = Math.imul(hash ^ (value | 0), 0x85eb_ca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2_ae35);
  return h ^ (h >>> 16);
}

/** Random numbers that follow from the seed and the occasion. */
export class Dice {
  #state: number;

  constructor(state: number) {
    this.#state = state;
  }

  /** An integer from 0 to below `end`, at most 2^32. */
  below(end: number): number {
    this.#state = (this.#state + 0x9e37_79b9) | 0;
    return Math.floor((mix(this.#state, 0x5bd1_e995) >>> 0) * (end / 2 ** 32));
  }

  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)] as T;
  }
}

/** A mutation that is to be made. */
export interface Decision {
  readonly dice: Dice;
  /** Puts it into the log. */
  log(action: MutationAction, before?: number, after?: number): void;
}

/** How many occasions are counted apart; others share a count with one of these. A power of two. */
const COUNTS = 1 << 16;

/**
 * Decides what is mutated. Occasions are counted by their place, not by time: the third read of a register is the same occasion in
 * each run, whatever else happens in between. Used by one thread; another one has its own, of other kinds.
 */
export class Decisions {
  readonly log: MutationLog;
  readonly options: FullHostileOptions;
  readonly #counts = new Uint32Array(COUNTS);
  readonly #last = new Float64Array(COUNTS);
  readonly #kinds: ReadonlySet<MutationKind>;
  readonly #only: ReadonlySet<string> | undefined;
  readonly #threshold: number;

  constructor(options: FullHostileOptions, log: MutationLogBuffer) {
    this.log = new MutationLog(log);
    this.options = options;
    this.#kinds = new Set(options.kinds);
    this.#only = options.only && new Set(options.only);
    this.#threshold = options.rate * 2 ** 32;
  }

  has(kind: MutationKind): boolean {
    return this.#kinds.has(kind);
  }

  /** Whether accesses to a part of a region can be mutated. */
  reaches(region: number, offset: number, bytes: number): boolean {
    const { regions } = this.options;
    if (regions === undefined) return true;
    return regions.some(
      ({ region: wanted, first = 0, last = Number.POSITIVE_INFINITY }) =>
        wanted === region && offset <= last && offset + bytes > first,
    );
  }

  /** Counts an occasion. Returns what is to be done with it; undefined for nothing. */
  decide(kind: MutationKind, a: number, b: number, c: number): Decision | undefined {
    if (!this.#kinds.has(kind)) return undefined;
    const key = this.#keyOf(kind, a, b, c);
    const slot = key & (COUNTS - 1);
    const nth = (this.#counts[slot] as number) + 1;
    this.#counts[slot] = nth;
    const chance = mix(key, nth);
    if (chance >>> 0 >= this.#threshold) return undefined;
    const number = this.log.decide();
    const { first, last } = this.options;
    if (number < first || number > last) return undefined;
    const place: Place = { a, b, c };
    if (this.#only !== undefined && !this.#only.has(labelOf(kind, place, nth))) return undefined;
    return {
      dice: new Dice(mix(chance, 0x1b87_3593)),
      log: (action, before = 0, after = 0) =>
        this.log.append({ number, kind, place, nth, action, before, after }),
    };
  }

  /** Keeps the value that a place had; returns the one kept before. */
  exchange(a: number, b: number, c: number, value: number): number {
    const slot = this.#keyOf('value', a, b, c) & (COUNTS - 1);
    const old = this.#last[slot] as number;
    this.#last[slot] = value;
    return old;
  }

  #keyOf(kind: MutationKind, a: number, b: number, c: number): number {
    const start = mix(mix(this.options.seed, MUTATION_KINDS.indexOf(kind)), a);
    return mix(mix(mix(start, b), Math.floor(b / 2 ** 32)), c);
  }
}
