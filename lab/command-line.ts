/** For lab tests: tsvisor's command line, run to its end in L1. */
import { spawnSync } from 'node:child_process';

export interface CommandResult {
  readonly status: number | null;
  /** What it said on standard error. */
  readonly error: string;
  readonly output: string;
}

const TIMEOUT_MS = 60_000;

/**
 * Runs `tsvisor run --quiet` with more arguments.
 * @param wrapper bash in which `"$@"` is that command, to run it in some surroundings: `ulimit -l 64; "$@"`
 */
export function tsvisorRun(args: readonly string[], wrapper = '"$@"'): CommandResult {
  const command = [process.execPath, 'dist/vmm/cli.js', 'run', '--quiet', ...args];
  const { status, stdout, stderr } = spawnSync('bash', ['-c', wrapper, 'bash', ...command], {
    encoding: 'utf8',
    timeout: TIMEOUT_MS,
  });
  return { status, error: stderr, output: stdout };
}
