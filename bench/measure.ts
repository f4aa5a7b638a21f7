/** Shared by all benchmarks: medians, interleaving, and C peers compiled on demand. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1
    ? (sorted[middle] as number)
    : ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2;
}

/** Processor time of the process while `work` runs, in nanoseconds: waiting for a processor does not count. */
export function processorNs(work: () => void): number {
  const before = process.cpuUsage();
  work();
  const { user, system } = process.cpuUsage(before);
  return (user + system) * 1000;
}

/** Of single operations, by nearest rank. */
export interface Percentiles {
  readonly samples: number;
  readonly p50: number;
  readonly p99: number;
  readonly p999: number;
}

/** @throws RangeError without values */
export function percentiles(values: Iterable<number>): Percentiles {
  const sorted = Float64Array.from(values).sort();
  if (sorted.length === 0) throw new RangeError('percentiles of no values');
  const at = (part: number) => sorted[Math.ceil(part * sorted.length) - 1] as number;
  return { samples: sorted.length, p50: at(0.5), p99: at(0.99), p999: at(0.999) };
}

/** As {@link interleave}, for contenders that time each operation. Returns those of all rounds together. */
export async function interleaveEach(
  rounds: number,
  contenders: Readonly<Record<string, () => ArrayLike<number> | Promise<ArrayLike<number>>>>,
): Promise<Record<string, Percentiles>> {
  const samples: Record<string, number[]> = {};
  for (let round = 0; round < rounds; round++) {
    for (const [name, run] of Object.entries(contenders)) {
      samples[name] ??= [];
      for (const value of Array.from(await run())) samples[name].push(value);
    }
  }
  return Object.fromEntries(Object.entries(samples).map(([name, values]) => [name, percentiles(values)]));
}

/** One round of each figure of a benchmark. For `--against`, in nanoseconds. */
export type Rounds = Readonly<Record<string, () => number | Promise<number>>>;

/** Runs all contenders in turn, round by round, so that noise affects all of them. Returns each one's median. */
export async function interleave(rounds: number, contenders: Rounds): Promise<Record<string, number>> {
  const samples: Record<string, number[]> = {};
  for (let round = 0; round < rounds; round++) {
    for (const [name, run] of Object.entries(contenders)) {
      samples[name] ??= [];
      samples[name].push(await run());
    }
  }
  return Object.fromEntries(Object.entries(samples).map(([name, values]) => [name, median(values)]));
}

/** A temporary folder for the benchmark. */
export function scratchFolder(): Disposable & { readonly path: string } {
  const path = mkdtempSync(join(tmpdir(), 'tsvisor-bench-'));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}

/** A C peer's source is next to the TypeScript source, not next to the compiled file. */
function cSource(name: string): string {
  const beside = fileURLToPath(new URL(`./${name}.c`, import.meta.url));
  return existsSync(beside) ? beside : fileURLToPath(new URL(`../../bench/${name}.c`, import.meta.url));
}

/** Compiles `bench/NAME.c` with gcc -O2. Returns the program's path. @throws Error without gcc */
export function compileC(name: string, folder: string): string {
  const program = join(folder, name);
  execFileSync('gcc', ['-O2', '-Wall', '-o', program, cSource(name)], {
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  return program;
}

export const microseconds = (ns: number): string => `${(ns / 1000).toFixed(2)} us`;

const cli = fileURLToPath(new URL('../vmm/cli.js', import.meta.url));

/**
 * Starts a server and waits until it is ready: `tsvisor` with these arguments, or a C program that prints `ready`.
 * Disposing stops it with SIGTERM.
 * @throws Error if it exits at once
 */
export async function serving(program: string, args: readonly string[]): Promise<AsyncDisposable> {
  const isOurs = program === process.execPath;
  const child = spawn(program, isOurs ? [cli, ...args] : args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = once(child, 'exit');
  // Keep reading: a program whose stdout is closed would end.
  await new Promise<void>((resolve, reject) => {
    child.stdout.on('data', (bytes) => {
      if (/ready|serves it at/.test(String(bytes))) resolve();
    });
    void ended.then(() => reject(new Error(`${program} ${args.join(' ')} exited at once`)));
  });
  return {
    async [Symbol.asyncDispose]() {
      child.kill('SIGTERM');
      await ended;
    },
  };
}
