import type { ChildProcess } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import { errno } from './errno.js';
import { SysError } from './error.js';
import type { Fd } from './fd.js';
import * as libc from './libc.js';

const WNOHANG = 1;
/** How long in milliseconds a child may take to exit on dispose before it is killed. */
const PATIENCE_MS = 200;

/** How to start a {@link Child}. */
export interface ChildOptions {
  readonly args: readonly string[];
  /** Becomes the child's standard error. */
  readonly stderr: Fd;
  /** Become the child's descriptors 3 and up; the caller keeps ownership of its own. */
  readonly fds: readonly Fd[];
  /** How to install the program: the hint of ENOENT. */
  readonly hint: string;
}

/**
 * A child process started from a thread whose event loop never runs, so its exit must be polled. It has its own
 * session: a terminal's Ctrl-C does not reach it. Disposing waits {@link PATIENCE_MS} for it to exit, then kills it;
 * make it exit first if it should end cleanly.
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

  /** @throws SysError ENOENT if PATH has no such program; EAGAIN if the process cannot be created */
  static start(program: string, { args, stderr, fds, hint }: ChildOptions): Child {
    const path = findProgram(program);
    if (path === undefined)
      throw new SysError({ call: 'execve', target: program, errno: errno.ENOENT, hint });
    const stdio = ['ignore' as const, 'ignore' as const, stderr.number, ...fds.map((fd) => fd.number)];
    const { spawn } = process.getBuiltinModule('node:child_process'); // most machines start none
    const started = spawn(path, args, { stdio, detached: true });
    started.on('error', () => {}); // the missing pid reports it
    if (started.pid === undefined) {
      throw new SysError({
        call: 'fork',
        target: path,
        errno: errno.EAGAIN,
        hint: 'too many processes (`ulimit -u`) or descriptors (`ulimit -n`)',
      });
    }
    started.unref();
    return new Child(started, started.pid);
  }

  /** Whether the process has exited; reaps it. */
  get hasEnded(): boolean {
    if (this.#hasEnded) return true;
    const result = libc.waitpid(this.pid, new Uint8Array(this.#status.buffer), WNOHANG);
    // ECHILD: the thread's event loop ran once and reaped it.
    this.#hasEnded = result === this.pid || result === -errno.ECHILD;
    return this.#hasEnded;
  }

  /** Exit code or signal, as text for messages. */
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
/** Blocks this thread for `ms` milliseconds. */
export function sleep(ms: number): void {
  Atomics.wait(nap, 0, 0, ms);
}

/** Looks a program up in PATH, as execvp(3) does; undefined if it is not found. */
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
