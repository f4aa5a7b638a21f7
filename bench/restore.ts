/** Time from the start of the process to the guest's first exit: booted, and restored; and memory of machines from one folder. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { monotonicMs } from '../sys/monotonic.js';
import { ApiClient } from '../vmm/api/client.js';
import { interleave, scratchFolder } from './measure.js';
import type { Report } from './report.js';

const ROUNDS = 9;
const CLONES = 20;
const MEMORY_MIB = 64;
const cli = fileURLToPath(new URL('../vmm/cli.js', import.meta.url));
// Not built: above this file's folder when it is.
const isSource = import.meta.url.endsWith('.ts');
const FIRST_EXIT = fileURLToPath(
  new URL(isSource ? './first-exit.cjs' : '../../bench/first-exit.cjs', import.meta.url),
);

/** A guest that looks at its bus every 10 ms, so that the first exit of a restored one comes within that time. */
const BOOT = ['--memory', `${MEMORY_MIB}M`, '--device', 'none', '--append', 'hotplug=1'];

function untilFirstExit(folder: string, args: readonly string[]): number {
  const file = join(folder, 'first-exit');
  const start = monotonicMs();
  const { stderr, signal } = spawnSync(process.execPath, ['--require', FIRST_EXIT, cli, 'run', ...args], {
    encoding: 'utf8',
    env: { ...process.env, TSVISOR_FIRST_EXIT: file },
  });
  if (signal !== 'SIGKILL') throw new Error(`tsvisor run ended before the guest ran: ${stderr}`);
  return Number(readFileSync(file, 'utf8')) - start;
}

/** A process of a machine, with its API. */
class Machine implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #serial: string;
  readonly api: ApiClient;

  constructor(folder: string, name: string, args: readonly string[]) {
    this.#serial = join(folder, `${name}.serial`);
    const path = join(folder, `${name}.api`);
    const all = [cli, 'run', ...args, '--quiet', '--serial', `file:${this.#serial}`, '--api', `unix:${path}`];
    this.#child = spawn(process.execPath, all, { stdio: ['ignore', 'ignore', 'inherit'] });
    this.api = new ApiClient(path);
  }

  /** @throws Error if it ends before */
  async #until(isReached: () => boolean | Promise<boolean>): Promise<void> {
    while (!(await isReached())) {
      if (this.#child.exitCode !== null) throw new Error('tsvisor run has ended');
      await sleep(20);
    }
  }

  async says(text: string): Promise<void> {
    await this.#until(() => existsSync(this.#serial) && readFileSync(this.#serial, 'latin1').includes(text));
  }

  async runs(): Promise<void> {
    await this.#until(async () => {
      const info = await this.api.call('GET', '/v1/info').catch(() => undefined);
      return info !== undefined && JSON.parse(info.body.toString()).state === 'running';
    });
  }

  /** KiB of a file's maps: resident, and its part of what it shares. */
  resident(path: string): { readonly rss: number; readonly pss: number } {
    const maps = readFileSync(`/proc/${this.#child.pid}/smaps`, 'utf8').split(/\n(?=[0-9a-f]+-[0-9a-f]+ )/);
    const of = (field: string) =>
      maps
        .filter((map) => (map.split('\n')[0] ?? '').includes(path))
        .reduce(
          (sum, map) => sum + Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(map)?.[1] ?? 0),
          0,
        );
    return { rss: of('Rss'), pss: of('Pss') };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null) return;
    this.#child.kill('SIGKILL');
    await once(this.#child, 'exit');
  }
}

export async function restore(report: Report): Promise<void> {
  using folder = scratchFolder();
  const saved = join(folder.path, 'saved');
  {
    await using first = new Machine(folder.path, 'first', BOOT);
    await first.says('hotplug: ready');
    await first.api.call('POST', '/v1/snapshot', { folder: saved });
  }
  const { booted = 0, restored = 0 } = await interleave(ROUNDS, {
    booted: () => untilFirstExit(folder.path, BOOT),
    restored: () => untilFirstExit(folder.path, ['--restore', saved]),
  });
  const name = "process start to the guest's first exit";
  report.line(
    `  ${name}, restored: ${restored.toFixed(0)} ms (${(restored / booted).toFixed(2)} x booted, ${booted.toFixed(0)} ms), without devices`,
  );
  report.add({ benchmark: 'restore', name: `${name}, booted`, unit: 'ms', value: booted });
  report.add({
    benchmark: 'restore',
    name: `${name}, restored`,
    unit: 'ms',
    value: restored,
    ratio: { to: `${name}, booted`, value: restored / booted },
  });

  const clones = Array.from(
    { length: CLONES },
    (_, i) => new Machine(folder.path, `clone-${i}`, ['--restore', saved]),
  );
  try {
    await compareMemory(clones, join(saved, 'memory'), report);
  } finally {
    for (const clone of clones) await clone[Symbol.asyncDispose]();
  }
}

async function compareMemory(clones: readonly Machine[], file: string, report: Report): Promise<void> {
  const start = performance.now();
  await Promise.all(clones.map((clone) => clone.runs()));
  const ms = performance.now() - start;
  const sums = clones
    .map((clone) => clone.resident(file))
    .reduce((sum, each) => ({ rss: sum.rss + each.rss, pss: sum.pss + each.pss }));
  const mib = (kib: number) => `${(kib / 1024).toFixed(1)} MiB`;
  report.line(
    `  ${CLONES} machines of ${MEMORY_MIB} MiB from one folder run after ${(ms / 1000).toFixed(1)} s; ` +
      `their guests' memory takes ${mib(sums.pss)}, and ${mib(sums.rss)} if each one's is counted`,
  );
  const memory = `guest memory of ${CLONES} machines from one folder`;
  report.add({ benchmark: 'restore', name: `${memory}, each counted`, unit: 'KiB', value: sums.rss });
  report.add({ benchmark: 'restore', name: `${memory}, as shared`, unit: 'KiB', value: sums.pss });
}
