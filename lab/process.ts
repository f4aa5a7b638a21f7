import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import { once } from 'node:events';

/**
 * Starts a program that the kernel kills when this process ends, however that happens: after kill -9, nothing here
 * could. (PR_SET_PDEATHSIG; its own children are its own affair.)
 */
export function spawnBound(argv: readonly string[], options: SpawnOptions): ChildProcess {
  return spawn('setpriv', ['--pdeathsig', 'KILL', '--', ...argv], options);
}

/**
 * Runs a program and returns its standard output.
 * @throws Error with the end of its output if it does not exit with 0
 */
export async function output(argv: readonly string[], options: SpawnOptions = {}): Promise<string> {
  const child = spawnBound(argv, { ...options, stdio: ['ignore', 'pipe', 'pipe'] });
  let out = '';
  let all = '';
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    out += text;
    all += text;
  });
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    all += text;
  });
  const [status, signal] = (await once(child, 'close')) as [number | null, string | null];
  if (status !== 0) {
    throw new Error(`${argv.join(' ').slice(0, 300)}: ended with ${status ?? signal}\n${all.slice(-3000)}`);
  }
  return out;
}
