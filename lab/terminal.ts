/** For lab tests: a shell at a terminal, at which a person types. */
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Readable, Writable } from 'node:stream';
import { GUEST_PROMPT } from './session-text.js';

/** Stands where the shell would print its prompt. */
const HOST_PROMPT = '\u001e';

/** A shell without an end of its own: what it starts reads what is typed, as at a terminal. Disposing ends it. */
export class Terminal implements AsyncDisposable {
  readonly #shell: ChildProcessByStdio<Writable, Readable, null>;
  readonly #ended: Promise<unknown>;
  #text = '';
  #check: () => void = () => {};

  constructor() {
    // Its own process group, so that its programs can be ended with it.
    this.#shell = spawn('bash', ['-s'], { stdio: ['pipe', 'pipe', 'inherit'], detached: true });
    this.#shell.stdin.write('exec 2>&1\n');
    this.#ended = once(this.#shell, 'exit');
    this.#shell.stdout.setEncoding('utf8').on('data', (piece: string) => {
      this.#text += piece;
      this.#check();
    });
    void this.#ended.then(() => this.#check());
  }

  /**
   * Types a command, and resolves with the lines that were printed until the next prompt, of the shell or of a guest that
   * the command runs.
   * @throws Error if the shell ends instead
   */
  async enter(where: 'host' | 'guest', command: string): Promise<string[]> {
    this.#text = '';
    const line = command.replaceAll(/\\\n\s*/g, '');
    // The status is that of the command for the next one, too.
    const typed = where === 'guest' ? line : `${line}; status=$?; printf '${HOST_PROMPT}'; (exit $status)`;
    this.#shell.stdin.write(`${typed}\n`);
    await new Promise<void>((resolve, reject) => {
      this.#check = () => {
        if (this.#plain().endsWith(HOST_PROMPT) || this.#plain().endsWith(GUEST_PROMPT)) resolve();
        else if (this.#shell.exitCode !== null || this.#shell.signalCode !== null)
          reject(new Error(`the shell ended by '${command}': ${this.#text}`));
      };
      this.#check();
    });
    const lines = this.#plain().split('\n');
    lines.pop(); // the prompt
    // The guest's terminal shows what is typed.
    if (where === 'guest' && lines[0] === line) lines.shift();
    return lines;
  }

  /** Without what is for the terminal. */
  #plain(): string {
    // biome-ignore lint/suspicious/noControlCharactersInRegex: a terminal's sequences begin with one
    return this.#text.replaceAll(/\u001b\[[0-9;?]*[A-Za-z]|\r/g, '');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const { pid, exitCode } = this.#shell;
    if (pid !== undefined && exitCode === null) process.kill(-pid, 'SIGKILL');
    await this.#ended;
  }
}
