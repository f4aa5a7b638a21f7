/**
 * Entering a sandbox. Landlock takes rights from one thread and from those that it starts, and Node has had threads of its
 * own since before the first line of a program (V8's, libuv's). So the program replaces itself: the new one begins with one
 * thread, whose rights all others inherit. The filter of system calls comes last, in all threads at once, when what only the
 * start needs is over.
 */
import { closeSync, openSync } from 'node:fs';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { isRestricted, LANDLOCK_COMPLETE_ABI, landlockAbi, restrictSelf } from '../../sys/landlock.js';
import { replaceProcess } from '../../sys/replace-process.js';
import { filterCalls, lackingProgram, seccompProgram, setNoNewPrivs } from '../../sys/seccomp.js';
import type { VmConfig } from '../config.js';
import { type SandboxExtras, type SandboxPolicy, sandboxPolicy } from './policy.js';
import { isSealed, setSealed } from './state.js';

/** Tells the new program that it is one: Landlock's version, and the descriptor that holds /proc/self. */
const MARK = 'TSVISOR_SANDBOX';
const O_PATH = 0o10000000;

/** A process that has entered its sandbox. */
export interface Sandbox {
  /** Landlock's version; 0 if files are not restricted, as this kernel has none. */
  readonly landlockAbi: number;
  /** What is in force, for a person. */
  readonly description: string;
  /**
   * Filters the system calls of all threads, for good. Until then, the program can do what the filter forbids: open
   * sockets, start programs. A second call does nothing.
   * @throws SysError as seccomp(2)
   */
  seal(): void;
}

/**
 * Puts this process into the sandbox of a machine. Main thread only, and first thing in a program: it is executed again,
 * with its arguments and environment, and all but standard input, output and error and the descriptors that `config` names
 * closed. In the second execution it returns. A machine whose configuration has a sandbox starts only after
 * {@link Sandbox.seal}.
 * @param extras what the program around the machine needs
 * @throws ConfigError for a device that cannot be in a sandbox; SysError ENOSYS if `strict` and the kernel lacks a part
 */
export function enterSandbox(config: VmConfig, extras: SandboxExtras = {}): Sandbox {
  const policy = sandboxPolicy(config, extras);
  const mark = process.env[MARK];
  if (mark === undefined) execute(config, policy);
  delete process.env[MARK];
  const abi = Number(mark.split(' ')[0]);
  const mayReadRoot = policy.paths.some(({ path }) => path === '/');
  if (abi > 0 && !mayReadRoot && !isRestricted()) {
    const hint = `${MARK} is set in the environment, and Landlock is not in force: unset it`;
    throw new SysError({ call: 'enterSandbox', target: 'this process', errno: errno.EINVAL, hint });
  }
  const { mode } = config.sandbox;
  const refusal = mode === 'strict' ? 'kill' : mode === 'log' ? 'log' : 'errno';
  return {
    landlockAbi: abi,
    description: describe(abi, mode),
    seal() {
      if (isSealed()) return;
      filterCalls(seccompProgram(policy.calls, refusal));
      setSealed();
    },
  };
}

function execute({ sandbox }: VmConfig, { paths, ports, descriptors }: SandboxPolicy): never {
  const abi = landlockAbi();
  if (sandbox.mode === 'strict' && abi < LANDLOCK_COMPLETE_ABI) {
    const hint =
      `this kernel has ${abi === 0 ? 'no Landlock' : `Landlock ABI ${abi}`}, and a strict sandbox needs ABI ` +
      `${LANDLOCK_COMPLETE_ABI} (Linux 6.12, with landlock in CONFIG_LSM or lsm=); --sandbox on takes what there is`;
    throw new SysError({ call: 'landlock_create_ruleset', target: 'this kernel', errno: errno.ENOSYS, hint });
  }
  // A rule belongs to an inode, and procfs keeps that of a process only while somebody holds it.
  const self = openSync('/proc/self', O_PATH);
  setNoNewPrivs();
  // libuv, from Node 22 on, would have a ring in each thread's loop, and abort where the later filter refuses its calls.
  filterCalls(lackingProgram('io_uring_setup'));
  if (abi > 0) restrictSelf({ paths, ports }, abi);
  try {
    replaceProcess({
      path: process.execPath,
      args: [process.argv0, ...process.execArgv, ...process.argv.slice(1)],
      env: { ...process.env, [MARK]: `${abi} ${self}` },
      keep: [self, ...new Set(descriptors)],
    });
  } finally {
    closeSync(self);
  }
}

function describe(abi: number, mode: VmConfig['sandbox']['mode']): string {
  const files =
    abi === 0
      ? 'no Landlock in this kernel: files are not restricted'
      : abi < LANDLOCK_COMPLETE_ABI
        ? `files by Landlock ABI ${abi}, of ${LANDLOCK_COMPLETE_ABI}`
        : `files by Landlock ABI ${abi}`;
  const others = mode === 'strict' ? 'end the process' : mode === 'log' ? 'are logged' : 'fail';
  return `sandbox: system calls that no machine needs ${others}; ${files}`;
}
