/** For lab tests: runs tsvisor's command line to its end in L1. */
import { spawnSync } from 'node:child_process';
import type { CheckReport, CheckResult, CheckRuleName } from '../vfio/host/check/index.js';

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
  return tsvisor(['run', ...args], wrapper);
}

/**
 * Runs `tsvisor check --json`, and returns what the rules that fail found, by rule.
 * @param wrapper as of {@link tsvisorRun}
 */
export function failingRules(
  args: readonly string[],
  wrapper = '"$@"',
): Partial<Record<CheckRuleName, CheckResult>> {
  const { status, output, error } = tsvisor(['check', '--json', ...args], wrapper);
  if (status !== 0 && status !== 1) throw new Error(`tsvisor check ended with ${status}: ${error}`);
  const { results } = JSON.parse(output) as CheckReport;
  const failing = results.filter(({ verdict }) => verdict === 'fails');
  if (status !== Number(failing.length > 0)) throw new Error(`status ${status} of ${output}`);
  return Object.fromEntries(failing.map((result) => [result.rule, result]));
}

function tsvisor(words: readonly string[], wrapper: string): CommandResult {
  const command = [process.execPath, 'dist/vmm/cli.js', ...words];
  const { status, stdout, stderr } = spawnSync('bash', ['-c', wrapper, 'bash', ...command], {
    encoding: 'utf8',
    timeout: TIMEOUT_MS,
  });
  return { status, error: stderr, output: stdout };
}
