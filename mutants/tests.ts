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
  const test = failedTest(modules);
  if (test !== undefined) return test;
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
const WAITING = 4;
/** After its processes were killed, vitest ends a run soon, or never. */
const ENDING_MS = 5_000;
const ATTEMPTS = 3;

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
    for (let attempt = 1; ; attempt++) {
      const verdict = await this.#run(files, limit);
      if (verdict !== undefined) return verdict;
      if (attempt === ATTEMPTS)
        throw new Error('this machine is too busy: no test process starts in a minute');
    }
  }

  /** @returns undefined if the machine was too busy to start */
  async #run(files: readonly string[], limit: number): Promise<Verdict | undefined> {
    const started = performance.now();
    const { vitest, specifications } = this.#opened;
    const before = new Set(children(process.pid));
    const own = (): number[] => children(process.pid).filter((pid) => !before.has(pid));
    let isLate = false;
    let isStuck = false;
    // What earlier runs left: vitest would count their failures in this one, and bail out.
    vitest.state.filesMap.clear();
    vitest.state.idMap.clear();
    let giveUp: (nothing: undefined) => void;
    const whenStuck = new Promise<undefined>((resolve) => {
      giveUp = resolve;
    });
    const timer = setInterval(() => {
      const wall = performance.now() - started;
      if (!isLate && wall < WAITING * limit && processorTime(own()) < limit) return;
      killAll(own());
      if (!isLate) setTimeout(() => giveUp(undefined), ENDING_MS).unref();
      isLate = true;
    }, POLL_MS);
    const run = vitest.runTestSpecifications(
      files.map((file) => specifications.get(file) as TestSpecification),
    );
    try {
      const result = await Promise.race([run, whenStuck]);
      const ms = performance.now() - started;
      isStuck = result === undefined;
      const modules = vitest.state
        .getFiles()
        .flatMap((file) => (vitest.state.getReportedEntity(file) as TestModule | undefined) ?? []);
      if (isLate) {
        // Its tests may have failed before; their failure is the better reason.
        const by = failedTest(modules);
        return by === undefined ? { end: 'timed out', ms } : { end: 'failed', by, ms };
      }
      const errors = result?.unhandledErrors ?? [];
      if (failedTest(modules) === undefined && errors.some(isOfMachine)) return undefined;
      const by = failure(modules, errors);
      return by === undefined ? { end: 'passed', ms } : { end: 'failed', by, ms };
    } finally {
      clearInterval(timer);
      // A vitest whose process is killed while it gives up a run never ends that run.
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
