import { execFileSync, spawnSync } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { expect, type TestContext } from 'vitest';

const INSIDE = 'TSVISOR_NETNS';

/** Whether this process was started by {@link runInNamespace}. */
export const isInNamespace = (): boolean => process.env[INSIDE] !== undefined;

function lacking(): string | undefined {
  if (process.geteuid?.() !== 0) return 'needs root, for a network namespace';
  try {
    accessSync('/dev/net/tun', constants.R_OK | constants.W_OK);
    execFileSync('unshare', ['--net', 'ip', 'link', 'show', 'lo'], { stdio: 'ignore' });
  } catch {
    return 'needs /dev/net/tun, unshare and ip';
  }
  return undefined;
}

/** Runs a test file with the real tun driver in a network namespace of its own; skips the test where that cannot be. */
export function runInNamespace(context: TestContext, file: string): void {
  const reason = lacking();
  context.skip(reason !== undefined, reason);
  const vitest = join(dirname(createRequire(import.meta.url).resolve('vitest/package.json')), 'vitest.mjs');
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('VITEST')));
  const child = spawnSync('unshare', ['--net', process.execPath, vitest, 'run', file], {
    env: { ...env, [INSIDE]: '1', NO_COLOR: '1' },
    encoding: 'utf8',
  });
  expect(child.status, `${child.stdout}${child.stderr}`).toBe(0);
  expect(child.stdout).toMatch(/Tests.*\d passed/);
}
