/** Runs test files of a workspace, in one vitest that stays. */
import { readdirSync, readFileSync } from 'node:fs';
import { relative } from 'node:path';
import { Writable } from 'node:stream';
import {
  BaseSequencer,
  createVitest,
  type TestModule,
  type TestSpecification,
  type Vitest,
} from 'vitest/node';

/** How a run of tests ended. */
export interface Verdict {
  readonly end: 'passed' | 'failed' | 'timed out';
  /** The first test that failed, or the error beside tests. */
  readonly by?: string;
  /** Processor time that it took. */
  readonly ms: number;
}

const children = (pid: number): number[] =>
  readdirSync(`/proc/${pid}/task`).flatMap((task) => {
    try {
      const text = readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8');
      return text.split(' ').filter(Boolean).map(Number);
    } catch {
      return []; // it has ended since
    }
  });

function killAll(pids: readonly number[]): void {
  for (const pid of pids) {
    try {
      killAll(children(pid));
      process.kill(pid, 'SIGKILL');
    } catch {
      // it has ended since
    }
  }
}

/** Processor time of these processes and their children, of threads and of those that have ended, in ms. */
function processorTime(pids: readonly number[]): number {
  let sum = 0;
  for (const pid of pids) {
    try {
      const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
      const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
      for (const ticks of fields.slice(11, 15)) sum += Number(ticks) * MS_OF_A_TICK;
      sum += processorTime(children(pid));
    } catch {
      // it has ended since
    }
  }
  return sum;
}

function failedTest(modules: readonly TestModule[]): string | undefined {
  for (const module of modules)
    for (const test of module.children.allTests('failed'))
      return `${module.relativeModuleId}: ${test.fullName}`;
  return undefined;
}

function failure(modules: readonly TestModule[], errors: readonly unknown[]): string | undefined {
  for (const module of modules)
    if (module.state() === 'failed') return `${module.relativeModuleId}: ${module.errors()[0]?.message}`;
  const [error] = errors;
  return error === undefined ? undefined : String((error as Error).message ?? error);
}

/** Vitest gives up a process that does not start in a minute: no fault of a mutant, but a busy machine's. */
const isOfMachine = (error: unknown): boolean =>
  /\[vitest-pool(-runner)?\]: (Timeout|Failed to start)/.test(String((error as Error).message ?? error));

const MS_OF_A_TICK = 10;
const POLL_MS = 250;
/** A run that waits uses no processor; it is late after this many times its limit. */
const WAITING = 8;
/** Without a process, vitest ends a run soon, or never: one that is killed while a run is given up leaves that open. */
const ENDING_MS = 10_000;
const ATTEMPTS = 3;

/** The processes of a run: kills them when it is late, and tells when they have gone without an end of the run. */
class Watch implements Disposable {
  /** Processor time that the run has used. */
  ms = 0;
  isLate = false;
  readonly whenStuck: Promise<undefined>;
  readonly #timer: NodeJS.Timeout;

  constructor(limit: number) {
    const started = performance.now();
    const before = new Set(children(process.pid));
    let lastSeen = started;
    let giveUp: (nothing: undefined) => void;
    this.whenStuck = new Promise((resolve) => {
      giveUp = resolve;
    });
    this.#timer = setInterval(() => {
      const own = children(process.pid).filter((pid) => !before.has(pid));
      const now = performance.now();
      this.ms = Math.max(this.ms, processorTime(own));
      this.isLate ||= this.ms > limit || now - started > WAITING * limit;
      if (this.isLate) killAll(own);
      if (own.length > 0) lastSeen = now;
      else if (now - lastSeen > ENDING_MS) giveUp(undefined);
    }, POLL_MS);
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }
}

/** Vitest's own begins with the slowest. */
class InOrder extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    return files;
  }
}

interface Opened {
  readonly vitest: Vitest;
  readonly specifications: ReadonlyMap<string, TestSpecification>;
}

async function open(root: string, folders: readonly string[]): Promise<Opened> {
  // Random histories: enough to find a fault, and not more.
  Object.assign(process.env, { TSVISOR_HISTORIES: '200', TSVISOR_FUZZ_FRAMES: '2000' });
  const nowhere = new Writable({ write: (_chunk, _encoding, done) => done() });
  const options = {
    root,
    config: `${root}/vitest.config.ts`,
    watch: false,
    isolate: false, // one process a run, not one a file
    maxWorkers: 1,
    bail: 1,
    sequence: { sequencer: InOrder },
    reporters: [{}],
    silent: true,
    passWithNoTests: true,
    teardownTimeout: 1_000,
  };
  const vitest = await createVitest('test', options, {}, { stdout: nowhere, stderr: nowhere });
  const all = await vitest.globTestSpecifications();
  const specifications = new Map<string, TestSpecification>();
  for (const one of all) {
    const file = relative(root, one.moduleId);
    if (folders.some((folder) => file.startsWith(`${folder}/`))) specifications.set(file, one);
  }
  return { vitest, specifications };
}

/** The tests of a workspace. */
export class Tests implements AsyncDisposable {
  readonly #open: () => Promise<Opened>;
  #opened: Opened;

  private constructor(open: () => Promise<Opened>, opened: Opened) {
    this.#open = open;
    this.#opened = opened;
  }

  /** @param folders whose tests count */
  static async open(root: string, folders: readonly string[]): Promise<Tests> {
    const again = (): Promise<Opened> => open(root, folders);
    return new Tests(again, await again());
  }

  get files(): readonly string[] {
    return [...this.#opened.specifications.keys()];
  }

  /** @param limit processor time after which the run is killed, in ms */
  async run(files: readonly string[], limit: number): Promise<Verdict> {
    for (let attempt = 1; attempt < ATTEMPTS; attempt++) {
      const verdict = await this.#run(files, limit);
      if (verdict !== undefined) return verdict;
    }
    const verdict = await this.#run(files, limit);
    if (verdict === undefined)
      throw new Error('this machine is too busy: no test process starts in a minute');
    return verdict;
  }

  /** @returns undefined if its process did not start, or ended without a result */
  async #run(files: readonly string[], limit: number): Promise<Verdict | undefined> {
    const { vitest, specifications } = this.#opened;
    // What earlier runs left: vitest would count their failures in this one, and bail out.
    vitest.state.filesMap.clear();
    vitest.state.idMap.clear();
    const watch = new Watch(limit);
    const run = vitest.runTestSpecifications(
      files.map((file) => specifications.get(file) as TestSpecification),
    );
    let isStuck = false;
    try {
      const result = await Promise.race([run, watch.whenStuck]);
      const { ms, isLate } = watch;
      isStuck = result === undefined;
      const modules = vitest.state
        .getFiles()
        .flatMap((file) => (vitest.state.getReportedEntity(file) as TestModule | undefined) ?? []);
      const test = failedTest(modules);
      // The tests of a run that is killed may have failed before; their failure is the better reason.
      if (test !== undefined) return { end: 'failed', by: test, ms };
      if (isLate) return { end: 'timed out', ms };
      const errors = result?.unhandledErrors ?? [];
      if (isStuck || errors.some(isOfMachine)) return undefined;
      const by = failure(modules, errors);
      return by === undefined ? { end: 'passed', ms } : { end: 'failed', by, ms };
    } finally {
      watch[Symbol.dispose]();
      if (isStuck) {
        run.catch(() => undefined);
        this.#opened = await this.#open();
      }
      process.exitCode = 0; // vitest sets it for each failure
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#opened.vitest.close();
  }
}
