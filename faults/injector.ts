/** The injector, inject.c: compiled on the spot. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { errno } from '../sys/errno.js';
import type { Fault, Kind } from './fault.js';
import { type Moment, signalNumber } from './moment.js';
import { SYSTEM_CALLS } from './system-calls.js';

const PROJECT = fileURLToPath(new URL('../../', import.meta.url));
export const CLI = join(PROJECT, 'dist/vmm/cli.js');
/** "From the nth call on". */
const ALL_LATER = 2 ** 31;

/** @returns path of the program @throws Error with gcc's output */
export function compileInjector(folder: string): string {
  const program = join(folder, 'inject');
  const made = spawnSync('gcc', ['-O1', '-o', program, join(PROJECT, 'faults/inject.c')], {
    encoding: 'utf8',
  });
  if (made.error !== undefined) throw new Error(`gcc: ${made.error.message}`);
  if (made.status !== 0) throw new Error(`gcc: ${made.stderr}`);
  return program;
}

/** What happens to a program: a call fails, or a signal comes; `record` only counts its calls. */
export type Trial = Fault | Moment | 'record' | 'nothing';

/** sysinfo, of a thread that does not exist: the calls of a program that nothing shall happen to. */
const NOTHING = ['fail', '99', '-1', '-', '1', '1', '5'];

function words(trial: Trial): readonly string[] {
  if (trial === 'record') return ['record'];
  if (trial === 'nothing') return NOTHING;
  if ('signal' in trial) return ['signal', `${signalNumber(trial.signal)}`, `${trial.at}`];
  const { call, request, thread, nth, isLasting } = trial;
  return ['fail', call.number, request, thread, nth, isLasting ? ALL_LATER : 1, errno[trial.errno]].map(
    String,
  );
}

/** How a program ended. */
export interface Ending {
  readonly status: number | undefined;
  readonly signal: string | undefined;
  /** It had to be killed, as its time was over. */
  readonly isLate: boolean;
  /** How many calls failed. */
  readonly failed: number;
  /** Whose code made the first of them: `node`, the file of ffi-rs, the dynamic linker. */
  readonly caller: string;
  /** Processes that outlived it. */
  readonly left: readonly string[];
  readonly kinds: readonly Kind[];
  /** The signal came before its first module had run, which handles SIGUSR2. Node itself handles SIGINT and SIGTERM. */
  readonly isEarly: boolean;
  /** How long it took, in milliseconds. */
  readonly took: number;
  readonly stdout: string;
  readonly stderr: string;
}

const signalName = (number: number): string =>
  Object.entries(constants.signals).find(([, value]) => value === number)?.[0] ?? `signal ${number}`;

/** Where and how long programs run. */
export interface Site {
  /** @see compileInjector */
  readonly injector: string;
  /** Receives what they print; its `cwd` and `tmp` are theirs. */
  readonly folder: string;
  /** After that, a program is killed. */
  readonly seconds: number;
}

/** A program of ours that runs under the injector. */
export class Injected {
  readonly #folder: string;
  readonly #name: string;
  readonly #process: ChildProcess;
  readonly #ended: Promise<unknown>;

  /** @param name of the files that receive what it prints */
  static start(site: Site, name: string, trial: Trial, args: readonly string[]): Injected {
    const report = join(site.folder, `${name}.report`);
    return new Injected(site, name, [
      report,
      String(site.seconds),
      ...words(trial),
      process.execPath,
      CLI,
      ...args,
    ]);
  }

  private constructor({ folder, injector }: Site, name: string, args: readonly string[]) {
    this.#folder = folder;
    this.#name = name;
    // Files, not pipes: what is printed is complete when the program has ended, however it ended.
    const [stdout, stderr] = ['out', 'err'].map((kind) => openSync(join(folder, `${name}.${kind}`), 'w'));
    const env = { ...process.env, TMPDIR: join(folder, 'tmp') };
    this.#process = spawn(injector, args, {
      stdio: ['ignore', stdout as number, stderr as number],
      cwd: join(folder, 'cwd'),
      env,
    });
    closeSync(stdout as number);
    closeSync(stderr as number);
    this.#ended = once(this.#process, 'close');
  }

  get hasEnded(): boolean {
    return this.#process.exitCode !== null || this.#process.signalCode !== null;
  }

  get stdout(): string {
    return this.#read('out');
  }

  kill(signal: NodeJS.Signals): void {
    this.#process.kill(signal);
  }

  async end(): Promise<Ending> {
    await this.#ended;
    const report = this.#read('report').trimEnd().split('\n');
    const values = (key: string) =>
      report.filter((line) => line.split(' ')[0] === key).map((line) => line.slice(key.length + 1));
    const [status] = values('exit');
    const [signal] = values('signal');
    if (status === undefined && signal === undefined) throw new Error(`inject: ${this.#read('err')}`);
    return {
      status: status === undefined ? undefined : Number(status),
      signal: signal === undefined ? undefined : signalName(Number(signal)),
      isLate: report.includes('late'),
      failed: Number(values('failed')[0]),
      caller: values('caller')[0] ?? '',
      left: values('left'),
      kinds: values('calls').flatMap(kindOf),
      isEarly: report.includes('early'),
      took: Number(values('took')[0]),
      stdout: this.stdout,
      stderr: this.#read('err'),
    };
  }

  #read(kind: string): string {
    return readFileSync(join(this.#folder, `${this.#name}.${kind}`), 'utf8');
  }
}

function kindOf(line: string): Kind[] {
  const [count, number, request, thread = ''] = line.split(' ');
  const call = SYSTEM_CALLS.find((each) => each.number === Number(number));
  return call === undefined ? [] : [{ call, request: Number(request), thread, count: Number(count) }];
}
