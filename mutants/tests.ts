/** Runs test files of a workspace, in one vitest that stays. */
import { readdirSync, readFileSync } from 'node:fs';
import { relative } from 'node:path';
import { Writable } from 'node:stream';
import { createVitest, type TestModule, type TestSpecification, type Vitest } from 'vitest/node';

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

function failure(modules: readonly TestModule[], errors: readonly unknown[]): string | undefined {
  for (const module of modules) {
    for (const test of module.children.allTests('failed'))
      return `${module.relativeModuleId}: ${test.fullName}`;
    if (module.state() === 'failed') return `${module.relativeModuleId}: ${module.errors()[0]?.message}`;
  }
  const [error] = errors;
  return error === undefined ? undefined : String((error as Error).message ?? error);
}

/** The tests of a workspace. */
export class Tests implements AsyncDisposable {
  readonly #vitest: Vitest;
  readonly #specifications = new Map<string, TestSpecification>();

  private constructor(vitest: Vitest, specifications: readonly TestSpecification[]) {
    this.#vitest = vitest;
    for (const one of specifications)
      this.#specifications.set(relative(vitest.config.root, one.moduleId), one);
  }

  /** @param folders whose tests count */
  static async open(root: string, folders: readonly string[]): Promise<Tests> {
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
      reporters: [{}],
      silent: true,
      passWithNoTests: true,
      teardownTimeout: 1_000,
    };
    const vitest = await createVitest('test', options, {}, { stdout: nowhere, stderr: nowhere });
    const all = await vitest.globTestSpecifications();
    const within = all.filter(({ moduleId }) =>
      folders.some((folder) => relative(root, moduleId).startsWith(`${folder}/`)),
    );
    return new Tests(vitest, within);
  }

  get files(): readonly string[] {
    return [...this.#specifications.keys()];
  }

  /** @param limit time after which the run is killed, in ms */
  async run(files: readonly string[], limit: number): Promise<Verdict> {
    const started = performance.now();
    const before = new Set(children(process.pid));
    let isLate = false;
    // What earlier runs left: vitest would count their failures in this one, and bail out.
    this.#vitest.state.filesMap.clear();
    this.#vitest.state.idMap.clear();
    const timer = setInterval(() => {
      isLate = true;
      killAll(children(process.pid).filter((pid) => !before.has(pid)));
    }, limit);
    try {
      const specifications = files.map((file) => this.#specifications.get(file) as TestSpecification);
      const { testModules, unhandledErrors } = await this.#vitest.runTestSpecifications(specifications);
      const ms = performance.now() - started;
      if (isLate) return { end: 'timed out', ms };
      const by = failure(testModules, unhandledErrors);
      return by === undefined ? { end: 'passed', ms } : { end: 'failed', by, ms };
    } finally {
      clearInterval(timer);
      process.exitCode = 0; // vitest sets it for each failure
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#vitest.close();
  }
}
