/** The sandbox for programs that embed a machine: its modules are loaded where it is asked for. */
import { parseConfig, type VmConfigInput } from '../config.js';
import type { Sandbox } from './enter.js';
import type { SandboxExtras, SandboxPolicy } from './policy.js';

/**
 * Puts this process into the sandbox of a machine. Main thread only, and first thing in a program: it is executed again, with
 * its arguments and environment, and everything closed but standard input, output and error and the descriptors that `config`
 * names. In the second execution it returns. A machine whose configuration has a sandbox starts only after `seal()`.
 * @param extras what the program around the machine needs
 * @throws ConfigError for a wrong configuration, and for a device that cannot be in a sandbox; SysError ENOSYS if `strict`
 *   and the kernel lacks a part, or of the call that failed
 */
export async function enterSandbox(config: VmConfigInput, extras: SandboxExtras = {}): Promise<Sandbox> {
  const enter = await import('./enter.js');
  return enter.enterSandbox(parseConfig(config), extras);
}

/**
 * What the sandbox of a machine allows, for other ways to enforce it. Opens nothing.
 * @throws ConfigError for a wrong configuration, and for a device that cannot be in a sandbox
 */
export async function sandboxPolicy(
  config: VmConfigInput,
  extras: SandboxExtras = {},
): Promise<SandboxPolicy> {
  const policy = await import('./policy.js');
  return policy.sandboxPolicy(parseConfig(config), extras);
}
