import { readdirSync, readFileSync } from 'node:fs';
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
 * How long a process has waited for a CPU until now, in ms: the most of any of its threads. Unlike the load, it tells a
 * process that gets no CPU from one that wants none. 0 if the kernel does not count it.
 */
export function waitedForCpu(pid: number): number {
  try {
    const tasks = readdirSync(`/proc/${pid}/task`);
    const waits = tasks.map(
      (task) => readFileSync(`/proc/${pid}/task/${task}/schedstat`, 'latin1').split(' ')[1],
    );
    return Math.max(...waits.map(Number)) / 1e6;
  } catch {
    return 0; // it has just ended, or one of its threads
  }
}

/**
 * Decides when to give up on a machine that boots in software emulation. Both limits are those of an idle machine: time
 * in which the emulator waits for a CPU does not count.
 */
export class Patience {
  readonly #limits: PatienceLimits;
  #before: number;
  #waited = 0;
  #progress = 0;
  #total = 0;
  #silence = 0;

  constructor(nowMs: number, limits: PatienceLimits) {
    this.#before = nowMs;
    this.#limits = limits;
  }

  /**
   * @param progress a number that grows while the boot proceeds: bytes on a console
   * @param waitedMs how long the emulator has waited for a CPU since its start
   * @returns why to give up, or undefined
   */
  check(nowMs: number, progress: number, waitedMs: number): string | undefined {
    const spent = Math.max(0, nowMs - this.#before - Math.max(0, waitedMs - this.#waited));
    this.#before = nowMs;
    this.#waited = waitedMs;
    this.#total += spent;
    this.#silence = progress > this.#progress ? 0 : this.#silence + spent;
    this.#progress = progress;
    const words = (ms: number) => `${Math.round(ms / 1000)} s`;
    const wait = `, not counting ${words(waitedMs)} without a CPU`;
    if (this.#silence >= this.#limits.silenceMs) return `no output for ${words(this.#silence)}${wait}`;
    if (this.#total >= this.#limits.totalMs) return `not up after ${words(this.#total)}${wait}`;
    return undefined;
  }
}
