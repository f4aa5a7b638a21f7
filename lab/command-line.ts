/** For lab tests: runs tsvisor's command line to its end in L1. */
import { spawnSync } from 'node:child_process';

export interface CommandResult {
  readonly status: number | null;
  /** Standard error. */
  readonly error: string;
  readonly output: string;
}

const TIMEOUT_MS = 100_000;

/**
 * Runs `tsvisor run --quiet` with more arguments.
 * @param wrapper bash that runs the command `"$@"` in some environment: `ulimit -l 64; "$@"`
 */
export function tsvisorRun(args: readonly string[], wrapper = '"$@"'): CommandResult {
  return runLoudly(['--quiet', ...args], wrapper);
}

/** The same without `--quiet`: the output contains the steps of the attachment, and the report. */
export function runLoudly(args: readonly string[], wrapper = '"$@"'): CommandResult {
  const command = [process.execPath, 'dist/vmm/cli.js', 'run', ...args];
  const { status, stdout, stderr } = spawnSync('bash', ['-c', wrapper, 'bash', ...command], {
    encoding: 'utf8',
    timeout: TIMEOUT_MS,
  });
  return { status, error: stderr, output: stdout };
}
