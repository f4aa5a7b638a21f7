/** What all benchmarks share: medians, interleaving, C peers compiled on the spot. */
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

/** Runs all contenders in turn, round by round, so that a noisy moment hits each; the median of each is the result. */
export async function interleave(
  rounds: number,
  contenders: Readonly<Record<string, () => number | Promise<number>>>,
): Promise<Record<string, number>> {
  const samples: Record<string, number[]> = {};
  for (let round = 0; round < rounds; round++) {
    for (const [name, run] of Object.entries(contenders)) {
      samples[name] ??= [];
      samples[name].push(await run());
    }
  }
  return Object.fromEntries(Object.entries(samples).map(([name, values]) => [name, median(values)]));
}

/** A folder that is gone after the benchmark. */
export function scratchFolder(): Disposable & { readonly path: string } {
  const path = mkdtempSync(join(tmpdir(), 'tsvisor-bench-'));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}

/** The source of a C peer lies beside the TypeScript source, not beside its compiled form. */
function cSource(name: string): string {
  const beside = fileURLToPath(new URL(`./${name}.c`, import.meta.url));
  return existsSync(beside) ? beside : fileURLToPath(new URL(`../../bench/${name}.c`, import.meta.url));
}

/** Compiles `bench/NAME.c` with gcc -O2; returns the program's path. @throws if there is no gcc */
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
 * A server of the benchmark, ready: `tsvisor` with these arguments, or a C program that says so. Ended by SIGTERM.
 * @throws Error if it ends at once
 */
export async function serving(program: string, args: readonly string[]): Promise<AsyncDisposable> {
  const isOurs = program === process.execPath;
  const child = spawn(program, isOurs ? [cli, ...args] : args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = once(child, 'exit');
  // Read to the end: a program whose reader has gone ends.
  await new Promise<void>((resolve, reject) => {
    child.stdout.on('data', (bytes) => {
      if (/ready|serves it at/.test(String(bytes))) resolve();
    });
    void ended.then(() => reject(new Error(`${program} ${args.join(' ')} ended at once`)));
  });
  return {
    async [Symbol.asyncDispose]() {
      child.kill('SIGTERM');
      await ended;
    },
  };
}
