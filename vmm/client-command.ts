/** A client of vfio-user that is a program. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { errno } from '../sys/errno.js';
import { SysError } from '../sys/error.js';
import type { VfioUserClientUnderTest } from '../vfio/user/conformance/index.js';

/** From SIGTERM until it is killed. */
const END_MS = 5000;
/** Signals that only a bug causes. */
const CRASHES: readonly string[] = ['SIGSEGV', 'SIGABRT', 'SIGBUS', 'SIGILL', 'SIGFPE', 'SIGTRAP', 'SIGSYS'];

/**
 * Starts a program; disposing ends it by SIGTERM.
 * @throws SysError ENOENT, EACCES if there is no such program
 */
export async function startClient([
  program = '',
  ...args
]: readonly string[]): Promise<VfioUserClientUnderTest> {
  const child = spawn(program, args, { stdio: 'ignore' });
  const ended = once(child, 'exit');
  ended.catch(() => {}); // of a program that does not start
  try {
    await once(child, 'spawn');
  } catch (error) {
    const code = errno[(error as NodeJS.ErrnoException).code as keyof typeof errno] ?? errno.ENOENT;
    const hint = 'COMMAND is no program that can be started';
    throw new SysError({ call: 'execve', target: program, errno: code, hint });
  }
  let isKilled = false;
  return {
    problem() {
      if (isKilled) return `it does not end by SIGTERM in ${END_MS / 1000} s`;
      const { signalCode } = child;
      return signalCode !== null && CRASHES.includes(signalCode) ? `it died by ${signalCode}` : undefined;
    },
    async [Symbol.asyncDispose]() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      child.kill('SIGTERM');
      const late = setTimeout(() => {
        isKilled = true;
        child.kill('SIGKILL');
      }, END_MS);
      await ended;
      clearTimeout(late);
    },
  };
}
