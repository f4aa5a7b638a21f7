import { labelOf } from './labels.js';
import { MUTATION_KINDS, type MutationKind } from './options.js';

/** Something that a hostile device did to its guest. */
export interface Mutation {
  /** Which one it is, from 1, of all that the device decided on since it was made. Interrupts' depend on timing. */
  readonly number: number;
  /** What was mutated, by a name that is the same in each run with the same seed: `value/bar0.0x14.4#3`. */
  readonly label: string;
  /** How. */
  readonly action: MutationAction;
  /** Up to four bytes of a value, a write or DMA as they would have been; the vector of an interrupt. */
  readonly before: number;
  /** As they were; the errno of a failure, the microseconds of a delay. */
  readonly after: number;
}

/** All of {@link MutationAction}. */
export const MUTATION_ACTIONS = [
  'flipped',
  'all-ones',
  'zero',
  'stale',
  'random',
  'edge',
  'lost',
  'repeated',
  'late',
  'torn',
  'short',
  'wrong vector',
  'spurious',
  'failed',
  'delayed',
] as const;
/** How something is mutated: docs/hostile-devices.md. */
export type MutationAction = (typeof MUTATION_ACTIONS)[number];

/** Most mutations that a log keeps: the latest. */
export const MOST_LOGGED = 1024;
const HEADER_BYTES = 16;
const ENTRY = 9;

/** Int32: [0] decided on, [1] made. Float64 from byte 16: the entries, each ended by its number among those made. */
export type MutationLogBuffer = SharedArrayBuffer;

export const createMutationLog = (): MutationLogBuffer =>
  new SharedArrayBuffer(HEADER_BYTES + MOST_LOGGED * ENTRY * 8);

/** The latest mutations of a device, in memory that its thread and the event thread share: both append without waiting. */
export class MutationLog {
  readonly #counts: Int32Array;
  readonly #entries: Float64Array;

  constructor(buffer: MutationLogBuffer) {
    this.#counts = new Int32Array(buffer, 0, 2);
    this.#entries = new Float64Array(buffer, HEADER_BYTES);
  }

  /** How many mutations were made so far. */
  get count(): number {
    return Atomics.load(this.#counts, 1) >>> 0;
  }

  /** Numbers one that is decided on, made or not. */
  decide(): number {
    return (Atomics.add(this.#counts, 0, 1) + 1) >>> 0;
  }

  append(mutation: {
    readonly number: number;
    readonly kind: MutationKind;
    readonly place: { readonly a: number; readonly b: number; readonly c: number };
    readonly nth: number;
    readonly action: MutationAction;
    readonly before: number;
    readonly after: number;
  }): void {
    const { number, kind, place, nth, action, before, after } = mutation;
    const made = (Atomics.add(this.#counts, 1, 1) + 1) >>> 0;
    const at = ((made - 1) % MOST_LOGGED) * ENTRY;
    const codes = MUTATION_KINDS.indexOf(kind) * 64 + MUTATION_ACTIONS.indexOf(action);
    this.#entries.set([number, codes, place.a, place.b, place.c, nth, before, after], at);
    this.#entries[at + ENTRY - 1] = made;
  }

  /** Those that are left of the ones made after the first `seen`, oldest first. */
  since(seen: number): Mutation[] {
    const { count } = this;
    const found: Mutation[] = [];
    for (let made = Math.max(seen, count - MOST_LOGGED) + 1; made <= count; made++) {
      const at = ((made - 1) % MOST_LOGGED) * ENTRY;
      const [number, codes, a, b, c, nth, before, after, last] = this.#entries.slice(
        at,
        at + ENTRY,
      ) as unknown as number[] as [number, number, number, number, number, number, number, number, number];
      if (last !== made) continue; // another thread is writing it
      const kind = MUTATION_KINDS[codes >> 6] as MutationKind;
      const action = MUTATION_ACTIONS[codes & 63] as MutationAction;
      found.push({ number, label: labelOf(kind, { a, b, c }, nth), action, before, after });
    }
    return found;
  }
}

/** One line: `#17 value/bar0.0x14.4#3 flipped, 0x1 became 0x5`. */
export function mutationText({ number, label, action, before, after }: Mutation): string {
  const values = before === after ? '' : `, 0x${before.toString(16)} became 0x${after.toString(16)}`;
  return `#${number} ${label} ${action}${values}`;
}
