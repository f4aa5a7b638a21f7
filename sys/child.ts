import { type ChildProcess, spawn } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import { errno } from './errno.js';
import { SysError } from './error.js';
import type { Fd } from './fd.js';
import * as libc from './libc.js';

const WNOHANG = 1;
/** How long a child that was asked to end may take, in milliseconds, before it is killed. */
const PATIENCE_MS = 200;

/** How a program is started. */
export interface ChildOptions {
  readonly args: readonly string[];
  /** What is its standard error. */
  readonly stderr: Fd;
  /** Descriptor 3 of the child, and the ones behind it; they stay the caller's, too. */
  readonly fds: readonly Fd[];
  /** What to do if the program is not installed. */
  readonly hint: string;
}

/**
 * A program that was started from a thread whose event loop does not turn: nobody hears of its end but who asks. It has a
 * session of its own, so that a terminal's Ctrl-C does not reach it. Disposing waits until it has ended, and ends it
 * if it takes long: who wants it to end by itself has told it before.
 */
export class Child implements Disposable {
  readonly pid: number;
  readonly #process: ChildProcess;
  readonly #status = new Int32Array(1);
  #hasEnded = false;

  private constructor(process: ChildProcess, pid: number) {
    this.#process = process;
    this.pid = pid;
  }

  /** @throws SysError ENOENT if there is no such program in PATH; EAGAIN if no process can be made */
  static start(program: string, { args, stderr, fds, hint }: ChildOptions): Child {
    const path = findProgram(program);
    if (path === undefined)
      throw new SysError({ call: 'execve', target: program, errno: errno.ENOENT, hint });
    const stdio = ['ignore' as const, 'ignore' as const, stderr.number, ...fds.map((fd) => fd.number)];
    const started = spawn(path, args, { stdio, detached: true });
    started.on('error', () => {}); // told by the missing pid
    if (started.pid === undefined) {
      throw new SysError({ call: 'fork', target: path, errno: errno.EAGAIN, hint: 'too many processes?' });
    }
    started.unref();
    return new Child(started, started.pid);
  }

  /** Whether it has ended; then the kernel has forgotten it. */
  get hasEnded(): boolean {
    if (this.#hasEnded) return true;
    const result = libc.waitpid(this.pid, new Uint8Array(this.#status.buffer), WNOHANG);
    // ECHILD: the thread's event loop did turn once, and has taken its end.
    this.#hasEnded = result === this.pid || result === -errno.ECHILD;
    return this.#hasEnded;
  }

  /** How it ended, for a person. */
  get ending(): string {
    const status = this.#status[0] as number;
    const signal = status & 0x7f;
    return signal === 0 ? `exit code ${(status >> 8) & 0xff}` : `signal ${signal}`;
  }

  [Symbol.dispose](): void {
    for (let waited = 0; !this.hasEnded && waited < PATIENCE_MS; waited++) sleep(1);
    if (this.hasEnded) return;
    this.#process.kill('SIGKILL');
    while (!this.hasEnded) sleep(1);
  }
}

const nap = new Int32Array(new SharedArrayBuffer(4));
/** Blocks this thread. */
export function sleep(ms: number): void {
  Atomics.wait(nap, 0, 0, ms);
}

/** The program's path by PATH, as execvp(3) finds it; undefined if it is not there. */
function findProgram(name: string): string | undefined {
  const folders = (process.env.PATH ?? '').split(delimiter).filter((folder) => folder !== '');
  return folders.map((folder) => join(folder, name)).find(isProgram);
}

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
