/** Programs to run on each Node, and their expected results. None may end by a signal. */
import { join } from 'node:path';
import type { NodeUnderTest } from './nodes.js';
import { type Ended, run } from './run.js';
import type { Site } from './site.js';

export interface Row {
  readonly name: string;
  readonly needsKvm?: boolean;
  /** Expected exit status. */
  readonly status: number;
  /** Patterns that the output must match. */
  readonly says?: readonly RegExp[];
  /** Patterns that it must not match. */
  readonly never?: readonly RegExp[];
  readonly cwd: string;
  /** Arguments for `node`, or for `npx` if that is the first one. */
  readonly args: readonly string[];
}

const REFUSED = /import the package in the main thread before starting a worker/;
const VITEST = 'node_modules/vitest/vitest.mjs';
const CLI = 'dist/vmm/cli.js';

const vitest = (app: string, pool: string, isFirst: boolean): Row => ({
  name: `vitest: pool ${pool}${isFirst ? ', globalSetup imports tsvisor' : ''}`,
  cwd: app,
  args: [VITEST, 'run', `--pool=${pool}`, ...(isFirst ? ['--config=first.config.mjs'] : [])],
  ...(pool === 'forks' || isFirst
    ? { status: 0, says: [/1 passed/] }
    : { status: 1, says: [REFUSED, /pool: 'forks', or a globalSetup/] }),
});

export function rowsOf(site: Site, entries: readonly string[], hasKvm: boolean): readonly Row[] {
  const { app, sharing, separate, bare, withCopy, client, doors } = site;
  const machine = hasKvm ? ['kvm'] : [];
  const bothRan = hasKvm ? [/"status":0\} and .*"status":0\}/] : [];
  const pluginSays = [/create on card \(plug-in card\): EIO\n {2}hint: the task found \d{2,} names/];
  const plain = (name: string, program: string, args: readonly string[], rest: Partial<Row> = {}): Row => ({
    name,
    status: 0,
    cwd: app,
    args: [program, ...args],
    ...rest,
  });
  return [
    plain('import of every entry', 'import-all.mjs', entries, { never: [/Warning/] }),
    plain('require() of every entry', 'require-all.cjs', entries),
    plain('worker first: refused', 'worker-first.mjs', entries),
    plain('worker first, unheard', 'worker-unheard.mjs', [], { status: 1, says: [REFUSED] }),
    plain('8 workers after the main thread', 'workers-after.mjs', entries, { says: [/0,0,0,0,0,0,0,0/] }),
    plain('two copies, one ffi-rs', 'two-copies.mjs', [sharing, ...machine], {
      says: [/ended with 0,0,0,0/, ...bothRan],
    }),
    plain('two copies, two ffi-rs', 'two-copies.mjs', [separate, ...machine], {
      says: [/ended with 0,0,0,0/, ...bothRan],
    }),
    plain("worker with another copy's ffi-rs", 'other-copy-in-worker.mjs', [separate], {
      status: 1,
      says: [
        REFUSED,
        new RegExp(`this copy of the package: ${separate}/`),
        new RegExp(`main thread: ${site.tsvisor}/`),
      ],
    }),
    plain('worker with another copy, one ffi-rs', 'other-copy-in-worker.mjs', [sharing]),
    ...['forks', 'threads', 'vmThreads'].flatMap((pool) =>
      pool === 'forks' ? [vitest(app, pool, false)] : [vitest(app, pool, false), vitest(app, pool, true)],
    ),
    ...['node:ffi', 'koffi', 'ffi-rs'].map((door) =>
      plain(`KVM_RUN through ${door}`, 'doors.mjs', [door, ...machine], {
        cwd: doors,
        says: [new RegExp(`${door} (?:works|is absent)`)],
        never: [/Warning/],
      }),
    ),
    {
      name: 'npx tsvisor --version',
      status: 0,
      cwd: app,
      args: ['npx', 'tsvisor', '--version'],
      says: [/^tsvisor \d/],
    },
    {
      name: 'npx tsvisor run',
      needsKvm: true,
      status: 0,
      cwd: app,
      args: ['npx', 'tsvisor', 'run', '--append', 'pings=2'],
      says: [/2\/2 replies/],
    },
    {
      name: 'client of openapi.json: every operation',
      needsKvm: true,
      status: 0,
      cwd: client,
      args: ['built/drive.js', site.tsvisor],
      says: [/attach 201, attach 400, .*stop 204/],
    },
    ...[bare, withCopy].map((cwd) => ({
      name: `plug-in ${cwd === bare ? 'without a tsvisor' : 'beside another copy'}`,
      needsKvm: true,
      status: 69,
      cwd,
      args: [join(site.tsvisor, CLI), 'run', '--plugin', './card.mjs', '--device', 'card'],
      says: pluginSays,
    })),
    {
      name: 'built example',
      needsKvm: true,
      status: 0,
      cwd: app,
      args: [join(site.tsvisor, 'dist/examples/boot-nic.js')],
    },
  ];
}

/** The difference from the expected result; undefined if there is none. */
export function problemWith(row: Row, { status, signal, output }: Ended): string | undefined {
  if (signal !== null) return `ended by ${signal}`;
  if (status !== row.status) return `exit status ${status} instead of ${row.status}`;
  const missing = row.says?.find((pattern) => !pattern.test(output));
  if (missing !== undefined) return `did not say ${missing}`;
  const forbidden = row.never?.find((pattern) => pattern.test(output));
  return forbidden === undefined ? undefined : `said ${forbidden}`;
}

/** Runs a row on one Node. */
export function runRow({ args, cwd }: Row, { bin }: NodeUnderTest): Promise<Ended> {
  const [first = '', ...rest] = args;
  const env = { ...process.env, PATH: `${bin}:${process.env.PATH}`, CI: '1', NO_COLOR: '1' };
  return first === 'npx'
    ? run('npx', ['--no-install', ...rest], { cwd, env })
    : run(join(bin, 'node'), args, { cwd, env });
}
