/** For tests: `tsvisor serve` as a process. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { CLI } from './machines.js';

/** How a server is started, besides its device. */
export interface ServeOptions {
  readonly path: string;
  /** Further arguments of `serve`. */
  readonly args?: readonly string[];
  /** Arguments of Node. */
  readonly engine?: readonly string[];
  /** Replaces this process's environment. */
  readonly env?: NodeJS.ProcessEnv;
}

/** A server that is ready. */
export interface Serving {
  readonly child: ChildProcess;
  readonly path: string;
  /** What it has printed so far, both streams. */
  output(): string;
}

/**
 * Starts `tsvisor serve DEVICE`.
 * @param running gets the process at once, so that {@link killAll} ends it however the test ends
 * @throws Error with its output if it ends before it is ready
 */
export async function serve(
  device: string,
  options: ServeOptions,
  running: ChildProcess[],
): Promise<Serving> {
  const { path, args = [], engine = [], env = process.env } = options;
  const child = spawn(process.execPath, [...engine, CLI, 'serve', device, '--socket', path, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env,
  });
  running.push(child);
  let output = '';
  const ready = new Promise<void>((resolve) => {
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (bytes) => {
        output += String(bytes);
        if (output.includes(`serves it at ${path}`)) resolve();
      });
  });
  await Promise.race([ready, once(child, 'exit')]);
  if (!output.includes(`serves it at ${path}`)) throw new Error(`no server: ${output}`);
  return { child, path, output: () => output };
}

/** Kills those that still run, and waits for their end. */
export async function killAll(running: ChildProcess[]): Promise<void> {
  for (const child of running.splice(0)) {
    if (child.exitCode !== null || child.signalCode !== null) continue;
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
}
