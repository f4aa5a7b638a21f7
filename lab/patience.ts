import { availableParallelism, loadavg } from 'node:os';

/** How many processes want each of this machine's CPUs, averaged over a minute; at least 1. */
export const slowdown = (): number => Math.max(1, loadavg()[0]! / availableParallelism());

export interface PatienceLimits {
  /** Without any progress. */
  readonly silenceMs: number;
  /** In all, progress or not: a kernel that prints the same complaint for ever does not boot. */
  readonly totalMs: number;
}

/**
 * Decides when to give up on a machine that boots in software emulation. Both limits are those of an idle machine: on a
 * busy one, time counts for less.
 */
export class Patience {
  readonly #limits: PatienceLimits;
  #before: number;
  #progress = 0;
  #total = 0;
  #silence = 0;

  constructor(nowMs: number, limits: PatienceLimits) {
    this.#before = nowMs;
    this.#limits = limits;
  }

  /**
   * @param progress a number that grows while the boot proceeds: bytes on a console
   * @param busy the slowdown since the last call
   * @returns why to give up, or undefined
   */
  check(nowMs: number, progress: number, busy: number): string | undefined {
    const share = (nowMs - this.#before) / busy;
    this.#before = nowMs;
    this.#total += share;
    this.#silence = progress > this.#progress ? 0 : this.#silence + share;
    this.#progress = progress;
    const words = (ms: number) => `${Math.round(ms / 1000)} s (of an idle machine)`;
    if (this.#silence >= this.#limits.silenceMs) return `no output for ${words(this.#silence)}`;
    if (this.#total >= this.#limits.totalMs) return `not up after ${words(this.#total)}`;
    return undefined;
  }
}
