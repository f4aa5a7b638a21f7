/** For tests: `tsvisor run` as a process, with its API and COM1 in files of a folder. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ApiClient } from '../api/client.js';
import { CLI } from './machines.js';

/** What a process has left at its end. */
export interface RunResult {
  readonly status: number | null;
  readonly stderr: string;
  /** What the guest has said on COM1 while it was in this process. */
  readonly serial: string;
}

/** What {@link ApiClient.call} fails with once the machine's process has ended, or is about to. */
export const ENDED = /ENOENT|ECONNREFUSED|ECONNRESET|ended/;

/**
 * What became of the guest's datagrams. One that takes over half a second of the guest's time is lost to it; if it comes then, it is
 * late, which the guest calls unexpected. On a KVM in software that happens where a process is new, and the guest's verdict is a failure.
 * @throws Error with what the guest said, if one never came
 */
export function datagramsOf({ serial }: RunResult): Record<'echoed' | 'late' | 'corrupt', number> {
  const echoed = /udp: (\d+) of \d+ datagrams/.exec(serial)?.[1];
  const [, lost = 0, corrupt = 0, late = 0] =
    /udp: (\d+) lost, (\d+) corrupt, (\d+) unexpected/.exec(serial)?.map(Number) ?? [];
  if (echoed === undefined || lost !== late) throw new Error(`not all datagrams: ${serial}`);
  return { echoed: Number(echoed), late, corrupt };
}

/** A machine that is there has answered by then. */
const ANSWERS_MS = 5_000;

export class RunProcess {
  readonly api: ApiClient;
  readonly #child: ChildProcess;
  readonly #path: string;
  readonly #ended: Promise<unknown>;
  #stderr = '';

  /**
   * @param name of this process's files in `folder`
   * @param args further arguments of `run`
   * @param running gets the process at once, for `killAll`
   */
  constructor(folder: string, name: string, args: readonly string[], running: ChildProcess[]) {
    this.#path = join(folder, name);
    const ends = ['--serial', `file:${this.#path}.serial`, '--api', `unix:${this.#path}.api`];
    this.#child = spawn(process.execPath, [CLI, 'run', ...args, ...ends, '--quiet'], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    this.#child.stderr?.on('data', (bytes) => {
      this.#stderr += String(bytes);
    });
    running.push(this.#child);
    this.#ended = once(this.#child, 'close');
    this.api = new ApiClient(`${this.#path}.api`);
  }

  get hasEnded(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  /** Whether its vCPUs run. Where no machine has arrived yet, clients wait. */
  async isUp(): Promise<boolean> {
    const info = this.api.call('GET', '/v1/info').catch(() => undefined);
    const answer = await Promise.race([info, sleep(ANSWERS_MS, undefined, { ref: false })]);
    return answer !== undefined && JSON.parse(answer.body.toString()).state !== 'starting';
  }

  /** Until its vCPUs run, or it has ended. */
  async started(): Promise<void> {
    while (!this.hasEnded && !(await this.isUp())) await sleep(20);
  }

  /** Until a socket is there, which this process makes. @throws Error with its output if it has ended before */
  async listens(path: string): Promise<void> {
    while (!existsSync(path)) {
      if (this.hasEnded) throw new Error(`nobody listens at ${path}: ${this.#stderr}`);
      await sleep(20);
    }
  }

  async kill(): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.#ended;
  }

  async result(): Promise<RunResult> {
    await this.#ended;
    const serial = `${this.#path}.serial`;
    return {
      status: this.#child.exitCode,
      stderr: this.#stderr,
      serial: existsSync(serial) ? readFileSync(serial, 'latin1') : '',
    };
  }
}
