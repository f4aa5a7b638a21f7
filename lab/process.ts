import { type SpawnOptions, spawn } from 'node:child_process';
import { once } from 'node:events';

/**
 * Runs a program and returns its standard output.
 * @throws Error with the end of its output if it does not exit with 0
 */
export async function output(argv: readonly string[], options: SpawnOptions = {}): Promise<string> {
  const child = spawn(argv[0]!, argv.slice(1), { ...options, stdio: ['ignore', 'pipe', 'pipe'] });
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
