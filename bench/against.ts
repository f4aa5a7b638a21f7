/**
 * `--against COMMIT`: whether this tree is slower than a commit. Both run the same benchmark, this tree's, each in a process of
 * its own, and take turns.
 */
import { type ChildProcess, execFileSync, fork, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { disposable, Scope } from '../sys/scope.js';
import { median, microseconds, type Rounds } from './measure.js';
import { orderInterval, ratioText } from './ratio.js';
import type { Report } from './report.js';
import { UsageError } from './usage-error.js';

/** Pairs of processes. What differs from process to process (addresses, what V8 compiles when) then counts as noise. */
const PAIRS = 9;
/** Rounds of a pair: as many as fit into this time, and at least so many. */
const ROUNDS_MS = 2000;
const LEAST_ROUNDS = 3;

const root = fileURLToPath(new URL('../..', import.meta.url));
const program = (tree: string): string => join(tree, 'dist/bench/main.js');
/** @throws Error with git's words */
function git(...args: string[]): string {
  const { status, stdout, stderr } = spawnSync('git', ['-C', root, ...args], { encoding: 'utf8' });
  if (status !== 0) throw new Error(`git ${args.join(' ')}: ${stderr?.trim() || 'cannot be run'}`);
  return stdout.trim();
}

/** @throws UsageError if there is no such commit */
function commitHash(commit: string): string {
  try {
    return git('rev-parse', '--short', '--verify', `${commit}^{commit}`);
  } catch (error) {
    throw new UsageError(`--against ${commit}: ${(error as Error).message}`);
  }
}

/** The child's side: runs one round for each name that it is sent. */
export function serveRounds(open: (scope: Scope) => Rounds): void {
  const scope = new Scope();
  const rounds = open(scope);
  process.on('message', async (name: string) => process.send?.(await rounds[name]?.()));
  process.on('disconnect', () => {
    scope[Symbol.dispose]();
    process.exit(0);
  });
  process.send?.(Object.keys(rounds));
}

/** A process that runs rounds of one version. */
class Contender implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #ended: Promise<unknown>;

  constructor(tree: string, benchmark: string) {
    this.#child = fork(program(tree), ['--rounds', benchmark], {
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
    this.#ended = once(this.#child, 'exit');
  }

  /** @throws Error if the process ends instead of answering */
  async receive<T>(): Promise<T> {
    const end = this.#ended.then(() => {
      throw new Error(`the benchmark ended: ${this.#child.spawnargs.join(' ')}`);
    });
    const [answer] = (await Promise.race([once(this.#child, 'message'), end])) as [T];
    return answer;
  }

  run(name: string): Promise<number> {
    this.#child.send(name);
    return this.receive<number>();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.connected) this.#child.disconnect();
    await this.#ended;
  }
}

/** Builds the commit with this tree's benchmarks and packages. @throws Error if that fails */
function buildCommit(commit: string, scope: Scope): string {
  const folder = mkdtempSync(join(tmpdir(), 'tsvisor-bench-'));
  scope.defer(() => rmSync(folder, { recursive: true, force: true }));
  const tree = join(folder, 'tree');
  git('worktree', 'add', '--detach', tree, commit);
  scope.defer(() => git('worktree', 'remove', '--force', tree));
  symlinkSync(join(root, 'node_modules'), join(tree, 'node_modules'));
  rmSync(join(tree, 'bench'), { recursive: true, force: true });
  cpSync(join(root, 'bench'), join(tree, 'bench'), { recursive: true });
  try {
    execFileSync(process.execPath, [join(root, 'node_modules/.bin/rolldown'), '-c'], {
      cwd: tree,
      stdio: ['ignore', 'ignore', 'inherit'],
    });
  } catch (error) {
    throw new Error(
      `${commit} cannot be built with the bench/ of this tree: an interface of theirs has changed`,
      {
        cause: error,
      },
    );
  }
  return tree;
}

interface Pairs {
  /** Ours to theirs, of each pair of processes. */
  readonly ratios: number[];
  readonly ours: number[];
  readonly theirs: number[];
}

/** One pair of processes. Which one begins changes from round to round. */
async function runPair(
  trees: readonly [string, string],
  benchmark: string,
  found: Map<string, Pairs>,
): Promise<void> {
  await using ours = new Contender(trees[0], benchmark);
  const names = await ours.receive<string[]>();
  await using theirs = new Contender(trees[1], benchmark);
  await theirs.receive();
  for (const name of names) {
    for (const each of [ours, theirs]) await each.run(name); // to warm up
    const rounds: [number, number][] = [];
    const end = performance.now() + ROUNDS_MS;
    while (rounds.length < LEAST_ROUNDS || performance.now() < end) {
      const isOursFirst = rounds.length % 2 === 0;
      const first = await (isOursFirst ? ours : theirs).run(name);
      const second = await (isOursFirst ? theirs : ours).run(name);
      rounds.push(isOursFirst ? [first, second] : [second, first]);
    }
    const pairs = found.get(name) ?? { ratios: [], ours: [], theirs: [] };
    found.set(name, pairs);
    pairs.ratios.push(median(rounds.map(([our, their]) => our / their)));
    pairs.ours.push(median(rounds.map(([our]) => our)));
    pairs.theirs.push(median(rounds.map(([, their]) => their)));
  }
}

/**
 * Prints a ratio with its interval for each figure.
 * @throws UsageError if the repository has no such commit
 * @returns whether one is slower than `limit` allows, by its whole interval
 */
export async function compareWith(
  commit: string,
  { names, limit, report }: { names: readonly string[]; limit: number; report: Report },
): Promise<boolean> {
  const hash = commitHash(commit);
  using scope = new Scope();
  const end = () => {
    scope[Symbol.dispose]();
    process.exit(130);
  };
  process.once('SIGINT', end);
  scope.own(disposable(() => process.off('SIGINT', end)));
  report.line(`building ${hash}`);
  const tree = buildCommit(hash, scope);
  let isSlower = false;
  for (const benchmark of names) {
    report.line(`${benchmark}, against ${hash}`);
    const found = new Map<string, Pairs>();
    for (let pair = 0; pair < PAIRS; pair++) await runPair([root, tree], benchmark, found);
    for (const [name, { ratios, ours, theirs }] of found) {
      const interval = orderInterval(ratios);
      const isAbove = interval.low > limit;
      isSlower ||= isAbove;
      report.line(
        `  ${name}: ${microseconds(median(ours))}, was ${microseconds(median(theirs))}: ` +
          `${ratioText(interval)}${isAbove ? `, above ${limit}` : ''}`,
      );
      report.add({
        benchmark,
        name,
        unit: 'ns',
        value: median(ours),
        ratio: { to: `the same at ${hash}`, value: interval.median, interval: [interval.low, interval.high] },
      });
    }
  }
  return isSlower;
}
