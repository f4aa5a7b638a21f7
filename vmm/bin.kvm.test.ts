import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, existsSync, mkdtempSync, readdirSync, rmSync, symlinkSync } from 'node:fs';
import module from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, test } from 'vitest';
import { CLI, tsvisor } from './testing/machines.js';

/** For a test that runs the program a dozen times. */
const SWEEP_MS = 120_000;
const PROJECT = fileURLToPath(new URL('..', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'tsvisor-bin-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Starts the program, and resolves once it has printed `line`. */
async function startUntil(
  args: readonly string[],
  line: string,
): Promise<[ChildProcess, Promise<unknown[]>]> {
  const child = spawn(process.execPath, [CLI, ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = once(child, 'exit');
  let text = '';
  for await (const piece of child.stdout) {
    text += String(piece);
    if (text.includes(line)) break;
  }
  expect(text).toContain(line);
  return [child, ended];
}

test.each([
  ['SIGHUP', 129],
  ['SIGTERM', 143],
] as const)('%s ends serve with exit code %i, and its socket goes', async (signal, code) => {
  const socket = join(folder, `${signal}.sock`);
  const [child, ended] = await startUntil(['serve', 'mtty-2', '--socket', socket], 'serves it at');
  expect(existsSync(socket)).toBe(true);
  child.kill(signal);
  expect(await ended).toEqual([code, null]);
  expect(existsSync(socket)).toBe(false);
});

test('SIGUSR2 ends no command, whether it takes pictures or not, nor while it starts', async () => {
  const socket = join(folder, 'usr2.sock');
  // Before a handler of the command is there: its modules are still being loaded.
  const hook =
    "data:text/javascript,import { isMainThread } from 'node:worker_threads';" +
    "if (isMainThread) process.once('newListener', () => setImmediate(() => process.kill(process.pid, 'SIGUSR2')));";
  const args = ['--import', hook, CLI, 'run', '--device', 'none', '--append', 'halt-test'];
  const { status, signal } = spawnSync(process.execPath, args, { timeout: 60_000 });
  expect([status, signal]).toEqual([0, null]);

  const [child, ended] = await startUntil(['serve', 'mtty-2', '--socket', socket], 'serves it at');
  child.kill('SIGUSR2');
  child.kill('SIGTERM');
  expect(await ended).toEqual([143, null]);
});

test.each(['cli', 'cli-run', 'machine-thread', 'event-loop', 'queue-task'])(
  'a module that cannot be loaded (%s) is one sentence, and exit code 69',
  (name) => {
    const copy = mkdtempSync(join(folder, 'copy-'));
    cpSync(join(PROJECT, 'dist'), join(copy, 'dist'), { recursive: true });
    cpSync(join(PROJECT, 'vmm/guest'), join(copy, 'vmm/guest'), { recursive: true });
    cpSync(join(PROJECT, 'package.json'), join(copy, 'package.json'));
    symlinkSync(join(PROJECT, 'node_modules'), join(copy, 'node_modules'));
    const files = readdirSync(join(copy, 'dist'), { recursive: true }).map(String);
    const chosen = files.filter((file) => file.endsWith(`/${name}.js`) && file !== 'vmm/cli.js');
    expect(chosen).not.toEqual([]);
    for (const file of chosen) rmSync(join(copy, 'dist', file));
    const { stderr, status, signal } = spawnSync(process.execPath, [join(copy, 'dist/vmm/cli.js'), 'run'], {
      encoding: 'utf8',
      timeout: 60_000,
    });
    expect(stderr).toMatch(/^tsvisor: .*Cannot find module .*\n$/);
    expect([status, signal]).toEqual([69, null]);
  },
);

const isRoot = process.getuid?.() === 0;
const hasSetpriv = spawnSync('setpriv', ['--version']).status === 0;

test.skipIf(!isRoot || !hasSetpriv)(
  'wherever the host refuses another thread, the run ends with exit code 69 and one sentence (skipped unless root with setpriv)',
  () => {
    const user = [
      '--reuid=54321',
      '--clear-groups',
      '--inh-caps=+dac_override',
      '--ambient-caps=+dac_override',
    ];
    const sentences = new Set<string>();
    for (let limit = 8, status: number | null = 69; status !== 0; limit++) {
      expect(limit).toBeLessThan(40);
      const ended = tsvisor(['run', '--cpus', '2'], ['setpriv', ...user, 'prlimit', `--nproc=${limit}`]);
      status = ended.status;
      if (ended.signal === 'SIGABRT' || status === 134 || status === 0) continue; // Node itself could not start
      expect([status, ended.signal]).toEqual([69, null]);
      expect(ended.stderr).toMatch(/^tsvisor: .*EAGAIN\n {2}hint: the host allows no more threads.*\n$/);
      sentences.add((/ on (.*):/.exec(ended.stderr) as RegExpExecArray)[1] as string);
    }
    // The last one is KVM's own: it makes a thread for the VM when it runs first.
    expect([...sentences]).toEqual(expect.arrayContaining(['tsvisor-event', 'tsvisor-cpu1', 'vcpu 0']));
  },
  SWEEP_MS,
);

const hasPrlimit = spawnSync('prlimit', ['--version']).status === 0;

test.skipIf(!hasPrlimit)(
  'wherever the host refuses another descriptor, the run ends with exit code 69 and one sentence (skipped without prlimit)',
  () => {
    let refusals = 0;
    for (let limit = 20, status: number | null = 69; status !== 0; limit += 4) {
      expect(limit).toBeLessThan(200);
      const ended = tsvisor(['run', '--append', 'halt-test'], ['prlimit', `--nofile=${limit}`]);
      status = ended.status;
      const hasStarted = ended.signal === null && !ended.stderr.startsWith('node:internal/');
      if (!hasStarted || status === 0) continue; // Node itself could not start
      expect(status).toBe(69);
      expect(ended.stderr).toMatch(/^tsvisor: .*(?:EMFILE|ffi-rs cannot be loaded).*\n( {2}hint: .*\n)?$/);
      refusals++;
    }
    expect(refusals).toBeGreaterThan(3);
  },
  SWEEP_MS,
);

test.skipIf(!hasPrlimit)(
  'vCPUs are kicked where the user may have no more pending signals (skipped without prlimit)',
  () => {
    // Both vCPUs are in KVM_RUN when one of them ends the run: the other is kicked.
    const ended = tsvisor(['run', '--cpus', '2', '--append', 'halt-test'], ['prlimit', '--sigpending=0']);
    expect([ended.status, ended.signal, ended.stderr]).toEqual([0, null, '']);
  },
  SWEEP_MS,
);

test.each(['spin', 'halted'])(
  'the main thread may exit while a worker is in KVM_RUN (%s), as the worker is kicked',
  (how) => {
    const program = fileURLToPath(new URL('./testing/worker-hypervisor.mjs', import.meta.url));
    const { status, signal } = spawnSync(process.execPath, [program, how], { timeout: 30_000 });
    expect([status, signal]).toEqual([7, null]);
  },
);

/** Lines of what the main thread does when: `thread` for each one that it starts, `library` for each that it loads. */
function orderOf(args: readonly string[]) {
  const hook =
    "data:text/javascript,import threads from 'node:worker_threads';" +
    'const { Worker, isMainThread } = threads, { dlopen } = process; if (isMainThread) {' +
    "threads.Worker = class extends Worker { constructor(...args) { super(...args); console.error('thread'); } };" +
    "process.dlopen = (...args) => (console.error('library'), dlopen.apply(process, args)); }";
  return spawnSync(process.execPath, ['--import', hook, CLI, ...args], { encoding: 'utf8', timeout: 60_000 });
}

test('run starts the machine’s threads before all else, and uses them', () => {
  const { stderr, status } = orderOf(['run', '--json', '--append', 'halt-test']);
  expect({ stderr, status }).toEqual({ stderr: 'thread\nthread\nlibrary\n', status: 0 });
});

test('no thread is started ahead for help, or for a sandbox, whose threads are those of a second program', () => {
  for (const option of ['--help', '--sandbox=wrong']) {
    const { stderr, stdout } = orderOf(['run', option]);
    expect(stdout + stderr).toMatch(/tsvisor/);
    expect(stderr).not.toMatch(/^thread$/m);
  }
});

test('a command line that is wrong ends the threads that were started ahead', () => {
  const { stderr, status, signal } = orderOf(['run', '--memory', 'x']);
  expect(stderr).toMatch(/^thread\nthread\n(library\n)?tsvisor: --memory: 'x' is not a size.*\n$/);
  expect([status, signal]).toEqual([64, null]);
});

const hasCompileCache = 'enableCompileCache' in module;

test.skipIf(!hasCompileCache)(
  'each thread keeps its compiled code in the cache folder (skipped before Node 22.8)',
  () => {
    const env = { HOME: mkdtempSync(join(folder, 'home-')), PATH: process.env.PATH };
    const { status } = spawnSync(process.execPath, [CLI, 'run', '--append', 'halt-test'], { env });
    expect(status).toBe(0);
    const files = readdirSync(join(env.HOME, '.cache/tsvisor'), { recursive: true });
    // As many as the main thread, the event thread and the machine thread load: one alone has half of them at most.
    expect(files.length).toBeGreaterThan(14);
  },
);
