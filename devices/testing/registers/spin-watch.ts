import type { RegisterAccess } from './register-trace.js';

/** When a guest is said to spin; each limit alone suffices. */
export interface SpinLimits {
  /** Reads of a register in a row without a change; 200 if absent. */
  readonly reads?: number;
  /**
   * Milliseconds over which a register is read, ten times at least, without a change; 100 if absent. A longer pause between
   * two reads begins anew: who looks once a second waits, and does not spin.
   */
  readonly ms?: number;
}

/** A register that a guest reads in vain. */
export interface Spin {
  /** The register's name. */
  readonly name: string;
  /** What it reads. */
  readonly value: number;
  /** How often so far. */
  readonly reads: number;
  /** Milliseconds from the first of these reads to the last. */
  readonly ms: number;
}

interface Streak {
  readonly value: number;
  readonly since: number;
  reads: number;
  until: number;
  /** Its place in the list, once it counts as a spin. */
  place?: number;
}

const LEAST_READS = 10;
/** Registers looked at in one streak, and spins in the list: a guest may read any offset. */
const MOST_STREAKS = 256;
const MOST_SPINS = 32;

/**
 * Finds registers that are read again and again while nothing changes. A write to any register, or another value of one,
 * is progress, and all counting begins anew.
 */
export class SpinWatch {
  readonly #reads: number;
  readonly #ms: number;
  readonly #found: ((spin: Spin) => void) | undefined;
  readonly #streaks = new Map<string, Streak>();
  readonly #spins: Spin[] = [];
  #dropped = 0;

  constructor({ reads = 200, ms = 100 }: SpinLimits, found: ((spin: Spin) => void) | undefined) {
    if (!(reads >= 2 && ms > 0))
      throw new RangeError(`a spin takes 2 reads and a time at least: ${reads}, ${ms} ms`);
    this.#reads = reads;
    this.#ms = ms;
    this.#found = found;
  }

  /** In the order in which they were found. */
  get spins(): readonly Spin[] {
    return [...this.#spins];
  }

  /** How many more there were than are listed. */
  get dropped(): number {
    return this.#dropped;
  }

  /** The register that is read in vain at the moment, if any: of several, the one read most. */
  get current(): Spin | undefined {
    const [most] = [...this.#streaks]
      .filter(([, streak]) => this.#isSpin(streak))
      .sort(([, a], [, b]) => b.reads - a.reads);
    return most === undefined ? undefined : toSpin(...most);
  }

  /** @param isFifo whether reading the register is progress, whatever it reads */
  see({ kind, name, value, at }: RegisterAccess, isFifo = false): void {
    const isProgress = kind === 'write' || isFifo;
    if (isProgress || (this.#streaks.get(name)?.value ?? value) !== value) this.#streaks.clear();
    if (isProgress) return;
    const known = this.#streaks.get(name);
    if (known === undefined || at - known.until > this.#ms) {
      if (known !== undefined || this.#streaks.size < MOST_STREAKS)
        this.#streaks.set(name, { value, since: at, reads: 1, until: at });
      return;
    }
    known.reads++;
    known.until = at;
    if (this.#isSpin(known)) this.#note(name, known);
  }

  #isSpin({ reads, since, until }: Streak): boolean {
    return reads >= this.#reads || (reads >= LEAST_READS && until - since >= this.#ms);
  }

  #note(name: string, streak: Streak): void {
    const spin = toSpin(name, streak);
    if (streak.place !== undefined) {
      if (streak.place < MOST_SPINS) this.#spins[streak.place] = spin;
      return;
    }
    streak.place = this.#spins.length;
    if (this.#spins.length < MOST_SPINS) this.#spins.push(spin);
    else this.#dropped++;
    this.#found?.(spin);
  }
}

const toSpin = (name: string, { value, reads, since, until }: Streak): Spin => ({
  name,
  value,
  reads,
  ms: until - since,
});

/** `HST_STS reads 0x41, 5321 times in 1.2 s`. */
export const spinText = ({ name, value, reads, ms }: Spin): string =>
  `${name} reads 0x${value.toString(16)}, ${reads} times in ${(ms / 1000).toFixed(1)} s`;
