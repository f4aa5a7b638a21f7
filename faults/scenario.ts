/** What is run while a call fails. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { type Ending, Injected, type Site, type Trial } from './injector.js';

/** Until then a run must have ended, on an idle machine. */
export const SECONDS = 20;
/** On a busy one, it may take that many times as long as a run to which nothing happens. */
export const PATIENCE = 10;
const POLL_MS = 10;

export interface Result {
  readonly ending: Ending;
  /** Why its surroundings are not as they should be afterwards. */
  readonly problems: readonly string[];
  /** The guest of a run succeeded, as it says; undefined if the program has no guest. */
  readonly isGuestOk: boolean | undefined;
}

export interface Scenario {
  readonly name: string;
  run(site: Site, trial: Trial): Promise<Result>;
}

const isVerdictOk = (stdout: string): boolean => /^ {2}verdict +ok, exit code 0$/m.test(stdout);

/** Files in the program's folders, but for `expected`. */
const leftIn = (folder: string, expected: readonly string[]): string[] =>
  ['cwd', 'tmp']
    .flatMap((part) => readdirSync(join(folder, part)))
    .filter((file) => !expected.includes(file))
    .map((file) => `left the file ${file}`);

/** `tsvisor run ARGS` */
function runs(name: string, args: readonly string[], files: readonly string[] = []): Scenario {
  return {
    name,
    async run(site, trial) {
      const ending = await Injected.start(site, 'run', trial, ['run', ...args]).end();
      return { ending, problems: leftIn(site.folder, files), isGuestOk: isVerdictOk(ending.stdout) };
    },
  };
}

const clientArgs = ['run', '--device', 'vfio-user:nic.sock', '--append', 'pings=2'];
const serverArgs = ['serve', 'virtio-net', '--socket', 'nic.sock'];

/** Whether the server accepts clients; false if it ended instead. */
async function isServing(server: Injected): Promise<boolean> {
  while (!server.hasEnded) {
    if (server.stdout.includes('serves it at')) return true;
    await setTimeout(POLL_MS);
  }
  return false;
}

/** A server that a call of fails; a client that fails then must find it well the next time. */
const serve: Scenario = {
  name: 'serve',
  async run(site, trial) {
    const problems: string[] = [];
    const server = Injected.start(site, 'serve', trial, serverArgs);
    // A shortage may last, and a signal ends it: then the first client is the last.
    const mayEnd = typeof trial === 'object' && ('signal' in trial || trial.isLasting);
    for (let i = 0; i < 2 && (await isServing(server)); i++) {
      const client = await Injected.start(site, `client${i}`, 'nothing', clientArgs).end();
      const isWell = client.status === 0;
      if (client.isLate) problems.push('its client had to be killed');
      if (isWell) break;
      if (i === 1 && !mayEnd && !server.hasEnded)
        problems.push(`a second client fails too: status ${client.status} ${client.stderr}`);
    }
    if (!server.hasEnded) server.kill('SIGTERM');
    const ending = await server.end();
    return { ending, problems: [...problems, ...leftIn(site.folder, [])], isGuestOk: undefined };
  },
};

/** A machine whose device is another process's. */
const client: Scenario = {
  name: 'client',
  async run(site, trial) {
    const server = Injected.start(site, 'serve', 'nothing', serverArgs);
    if (!(await isServing(server))) throw new Error(`no server: ${(await server.end()).stderr}`);
    const ending = await Injected.start(site, 'client', trial, clientArgs).end();
    const problems: string[] = [];
    if (server.hasEnded) problems.push('the server ended');
    server.kill('SIGTERM');
    const { status, stderr } = await server.end();
    if (status !== 143) problems.push(`the server ended with status ${status}: ${stderr}`);
    return {
      ending,
      problems: [...problems, ...leftIn(site.folder, [])],
      isGuestOk: isVerdictOk(ending.stdout),
    };
  },
};

const display = ['--device', 'virtio-net', '--device', 'vgpu-small', '--screenshot', 'picture.png'];
const serial = ['--device', 'mtty-2,port0=pty'];

const ALWAYS: readonly Scenario[] = [
  runs('run', []),
  // Two vCPUs have threads of their own, and memory that others may map is a memfd.
  runs('threads', [
    '--cpus',
    '2',
    '--memory',
    '64M,shared=on,prefault=on',
    ...serial,
    '--append',
    'halt-test',
  ]),
  // Small: without the memory slot of its BAR, each pixel is an exit.
  runs('display', [...display, '--append', 'pings=2 frames=1 xres=320 yres=240'], ['picture.png']),
  serve,
  client,
];

/** It starts a program, which must not outlive it. */
const passt = runs('passt', ['--net', 'passt', '--append', 'halt-test']);
const hasPasst = spawnSync('passt', ['--version']).error === undefined;

export const SCENARIOS: readonly Scenario[] = hasPasst ? [...ALWAYS, passt] : ALWAYS;

/**
 * Runs a scenario in a folder of its own, made in `folder`. What SIGKILL left there must not keep the next one from
 * working, which leaves nothing.
 */
export async function runIn(
  scenario: Scenario,
  { injector, folder, seconds }: Site,
  trial: Trial,
): Promise<Result> {
  const site = { injector, seconds, folder: mkdtempSync(join(folder, `${scenario.name}-`)) };
  for (const part of ['cwd', 'tmp']) mkdirSync(join(site.folder, part));
  try {
    const result = await scenario.run(site, trial);
    if (typeof trial !== 'object' || !('signal' in trial) || trial.signal !== 'SIGKILL') return result;
    const again = await scenario.run(site, 'nothing');
    const { status, stderr } = again.ending;
    const problems = status === 0 || status === 143 ? [] : [`the next one ends with ${status}: ${stderr}`];
    return { ...result, problems: [...problems, ...again.problems] };
  } finally {
    rmSync(site.folder, { recursive: true, force: true });
  }
}
