/** A `tsvisor serve` process of this machine. */
import type { ChildProcess, SpawnOptions } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { projectFolder } from './paths.js';
import { slowdown } from './patience.js';
import { spawnBound } from './process.js';

const READY_MS = 20_000;

export class ServeProcess implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #ended: Promise<unknown>;
  output = '';

  private constructor(args: readonly string[], env: NodeJS.ProcessEnv) {
    const options: SpawnOptions = { cwd: projectFolder, env, stdio: ['ignore', 'pipe', 'pipe'] };
    this.#child = spawnBound([process.execPath, 'dist/vmm/cli.js', 'serve', ...args], options);
    this.#ended = once(this.#child, 'exit');
    for (const stream of [this.#child.stdout, this.#child.stderr])
      stream?.on('data', (bytes) => {
        this.output += String(bytes);
      });
  }

  /** @throws Error with its output if it is not ready in time */
  static async start(args: readonly string[], env = process.env): Promise<ServeProcess> {
    const server = new ServeProcess(args, env);
    try {
      await server.says(/serves it at/);
      return server;
    } catch (error) {
      await server[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** What it has said that matches, once it has. @throws Error with its output if it does not in time, or has ended */
  async says(pattern: RegExp): Promise<string> {
    const deadline = performance.now() + READY_MS * slowdown();
    for (; ; await sleep(20)) {
      const [found] = pattern.exec(this.output) ?? [];
      if (found !== undefined) return found;
      if (performance.now() > deadline || this.#child.exitCode !== null)
        throw new Error(`tsvisor serve does not say ${pattern}\n${this.output}`);
    }
  }

  /** The current picture, of one that was started with `--screenshot PNG`. @throws Error if there is none in time */
  async picture(png: string): Promise<Buffer> {
    const said = () => this.output.split('picture saved in').length;
    const before = said();
    const deadline = performance.now() + READY_MS * slowdown();
    for (this.#child.kill('SIGUSR2'); said() === before; await sleep(20))
      if (performance.now() > deadline) throw new Error(`no picture\n${this.output}`);
    return readFileSync(png);
  }

  /** Stops it with SIGTERM. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill('SIGTERM');
    await this.#ended;
  }
}
