/** Where the time of a start goes: milestones of the threads, which start-marks.cjs notes. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { monotonicMs } from '../sys/monotonic.js';
import { scratchFolder } from './measure.js';

// Not built: beside this file's source, or above its built twin's folder.
const isSource = import.meta.url.endsWith('.ts');
const MARKS = fileURLToPath(
  new URL(isSource ? './start-marks.cjs' : '../../bench/start-marks.cjs', import.meta.url),
);

interface Marks {
  readonly isMainThread: boolean;
  readonly [milestone: string]: number | boolean | undefined;
}

/** Each phase by the milestone that ends it, on the path that leads to the guest's first instruction. */
const PHASES = [
  { name: 'Node boots', thread: 'main', until: 'booted' },
  { name: 'the machine thread is started, and its Node boots', thread: 'machine', until: 'booted' },
  {
    name: 'its files are loaded, up to ffi-rs; the main thread has the configuration',
    thread: 'machine',
    until: 'ffi',
  },
  {
    name: 'ffi-rs, the guest program is read, the VM is made, RAM is mapped',
    thread: 'machine',
    until: 'memory',
  },
  { name: 'serial ports, vCPUs, platform; the event thread is up', thread: 'machine', until: 'attaching' },
  { name: 'the NIC is attached', thread: 'machine', until: 'attached' },
  { name: 'the guest is loaded, and runs its first instruction', thread: 'machine', until: 'exit' },
] as const;

/**
 * Milliseconds of each phase of one start. Their sum is more than an unobserved start takes: noting costs some of it.
 * @throws Error if the run fails, or lacks a milestone
 */
export function startBudget(cli: string, args: readonly string[]): Record<string, number> {
  using folder = scratchFolder();
  const file = join(folder.path, 'marks');
  const start = monotonicMs();
  const { stderr, status } = spawnSync(
    process.execPath,
    ['--require', MARKS, cli, 'run', '--json', ...args],
    {
      encoding: 'utf8',
      env: { ...process.env, TSVISOR_START_MARKS: file },
    },
  );
  if (status !== 0) throw new Error(`tsvisor run ended with ${status}: ${stderr}`);
  const marks = readFileSync(file, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Marks);
  const threads = {
    main: marks.find((each) => each.isMainThread),
    machine: marks.find((each) => each.exit !== undefined),
  };
  let from = start;
  return Object.fromEntries(
    PHASES.map(({ name, thread, until }) => {
      const at = threads[thread]?.[until];
      if (typeof at !== 'number') throw new Error(`the ${thread} thread did not reach '${until}'`);
      const took = at - from;
      from = at;
      return [name, took];
    }),
  );
}
