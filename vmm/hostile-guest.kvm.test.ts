/**
 * A guest that does what no driver does (vmm/guest/hostile/hostile.c), from seeds that each test's name has. The number of
 * operations, for all seeds together: TSVISOR_HOSTILE_OPERATIONS.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { CLI } from './testing/machines.js';

const IMAGE = fileURLToPath(new URL('guest/hostile/hostile.elf', import.meta.url));
const OPERATIONS = Number(process.env.TSVISOR_HOSTILE_OPERATIONS ?? 200_000);
const FIRST_SEED = Number(process.env.TSVISOR_HOSTILE_SEED ?? 1);
const SEEDS = [0, 1, 2, 3].map((i) => FIRST_SEED + i);
const DEVICES = ['virtio-net', 'mtty-2', 'vgpu-small'].flatMap((device) => ['--device', device]);
/** As slow as this machine with others at work on it: up to 1 ms for an operation. */
const TIMEOUT_MS = 60_000 + (OPERATIONS / SEEDS.length) * 2;
const GROWTH_KIB = 64 << 10;
const WARM_MS = 2000;
/** It takes half a second on an idle machine. */
const END_MS = 20_000;

interface Run {
  readonly child: ChildProcess;
  readonly ended: Promise<{ readonly status: number | null; readonly signal: string | null }>;
  /** All of its output so far. */
  output(): string;
  errors(): string;
}

function start(seed: number, operations: number, how = '--json'): Run {
  const words = `seed=${seed} ops=${operations}`;
  const args = [CLI, 'run', how, '--guest', IMAGE, '--append', words, ...DEVICES];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  const text = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const)
    child[name].on('data', (piece: Buffer) => {
      text[name] += piece.toString('latin1');
    });
  const ended = once(child, 'close').then(([status, signal]) => ({ status, signal }));
  return { child, ended, output: () => text.stdout, errors: () => text.stderr };
}

function residentKib({ pid }: ChildProcess): number {
  try {
    return Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1] ?? 0);
  } catch {
    return 0; // it has ended
  }
}

/** The most memory that is resident from the warm-up on, until `end` settles. */
async function mostResidentKib({ child }: Run, end: Promise<unknown>): Promise<number> {
  let isOver = false;
  end.finally(() => {
    isOver = true;
  });
  await delay(WARM_MS);
  let most = 0;
  while (!isOver) {
    most = Math.max(most, residentKib(child));
    await delay(100);
  }
  return most;
}

let idle: Promise<number> | undefined;
/** Resident memory of the same machine while its guest does nothing. */
function idleKib(): Promise<number> {
  idle ??= (async () => {
    const run = start(0, 0);
    const most = await mostResidentKib(run, delay(WARM_MS + 1000));
    run.child.kill('SIGTERM');
    await run.ended;
    return most;
  })();
  return idle;
}

test.each(SEEDS)(
  'seed %i: the machine ends with the guest’s verdict, keeps no memory, and says nothing on stderr',
  { timeout: TIMEOUT_MS },
  async (seed) => {
    const quiet = await idleKib();
    const run = start(seed, Math.ceil(OPERATIONS / SEEDS.length));
    try {
      const most = await mostResidentKib(run, run.ended);
      expect(await run.ended).toEqual({ status: 0, signal: null });
      expect(run.errors()).toBe('');
      expect(JSON.parse(run.output()).outcome).toEqual({ kind: 'verdict', status: 0 });
      expect(most - quiet).toBeLessThan(GROWTH_KIB);
    } finally {
      run.child.kill('SIGKILL');
    }
  },
);

/** Moments that differ from seed to seed. */
test.each(SEEDS.map((seed) => [seed, (seed * 7919) % 3000]))(
  'seed %i: SIGTERM after %i ms ends it',
  { timeout: 60_000 },
  async (seed, ms) => {
    const run = start(seed + 1000, 1_000_000_000, '--quiet');
    try {
      while (!run.output().includes('hostile guest')) await delay(50);
      await delay(ms);
      const from = performance.now();
      run.child.kill('SIGTERM');
      expect(await run.ended).toEqual({ status: 143, signal: null });
      expect(performance.now() - from).toBeLessThan(END_MS);
      expect(run.errors()).toBe('');
    } finally {
      run.child.kill('SIGKILL');
    }
  },
);
