/** For tests: a plug-in that tries what an attacker would who has taken over the process, and says what became of it. */
import { mkdtempSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';

/** Files for the attempts; all exist. */
export interface Targets {
  /** No configuration names it. */
  readonly secret: string;
  /** The sandbox's option `read=` names it. */
  readonly allowed: string;
  /** The folder of the secret. */
  readonly folder: string;
}

/**
 * Writes the plug-in into a folder of its own in `folder`, and returns its path. While it is loaded, in the machine thread, it
 * makes the attempts, and prints a line of JSON to standard error: by name, 'done' or the errno's name.
 * @param attempts JavaScript, a line for each; {@link attempts} has those of a test, and shows what a line can use
 */
export function writeAttacker(folder: string, attempts: readonly string[]): string {
  const path = join(mkdtempSync(join(folder, 'plug-in-')), 'attacker.mjs');
  const ffi = createRequire(import.meta.url).resolve('ffi-rs');
  writeFileSync(
    path,
    `import fs from 'node:fs';
    import { spawnSync } from 'node:child_process';
    import { createRequire } from 'node:module';
    import { constants } from 'node:os';
    const { load, DataType: { I64 } } = createRequire(import.meta.url)(${JSON.stringify(ffi)});
    const names = Object.fromEntries(Object.entries(constants.errno).map(([name, value]) => [value, name]));
    const call = (...args) => {
      const paramsValue = [...args, 0, 0, 0, 0, 0, 0].slice(0, 5);
      const paramsType = paramsValue.map(() => I64);
      const { value, errnoCode } = load(
        { library: 'libc', funcName: 'syscall', retType: I64, paramsType, paramsValue, errno: true });
      return value < 0 ? names[errnoCode] : 'done';
    };
    const results = {};
    const attempt = async (name, what) => {
      try {
        const result = await what();
        results[name] = typeof result === 'string' ? result : 'done';
      } catch (error) {
        results[name] = error.code ?? String(error);
      }
    };
    ${attempts.join('\n    ')}
    fs.writeSync(2, JSON.stringify(results) + '\\n');
    export const plugin = { name: 'attacker' };`,
  );
  return path;
}

/** What an attacker would try. {@link FAILED} and {@link KEPT_FROM} have the results in a sandbox. */
export function attempts({ secret, allowed, folder }: Targets): readonly string[] {
  return [
    `await attempt('read a file', () => void fs.readFileSync(${JSON.stringify(secret)}));`,
    `await attempt('read a file in the pool', () => fs.promises.readFile(${JSON.stringify(secret)}).then(() => {}));`,
    `await attempt('read /etc/shadow', () => void fs.readFileSync('/etc/shadow'));`,
    `await attempt('read a folder', () => void fs.readdirSync(${JSON.stringify(folder)}));`,
    `await attempt('read another process', () => void fs.readFileSync('/proc/1/status'));`,
    `await attempt('write beside itself', () => fs.writeFileSync(new URL('./x', import.meta.url), ''));`,
    `await attempt('read what is allowed', () => void fs.readFileSync(${JSON.stringify(allowed)}));`,
    `await attempt('spawn', () => { const { error } = spawnSync('/bin/true'); if (error) throw error; });`,
    `await attempt('execve', () => call(59, 0, 0, 0));`,
    `await attempt('fork', () => call(57));`,
    `await attempt('clone a process', () => call(56, 17, 0, 0, 0));`,
    `await attempt('clone3', () => call(435, 0, 0));`,
    `await attempt('unshare', () => call(272, 0x10000000));`,
    `await attempt('socket AF_INET', () => call(41, 2, 1, 0));`,
    `await attempt('socket AF_UNIX', () => call(41, 1, 1, 0));`,
    `await attempt('ptrace', () => call(101, 0, 0, 0));`,
    `await attempt('bpf', () => call(321, 0, 0, 0));`,
    `await attempt('mount', () => call(165, 0, 0, 0));`,
    `await attempt('io_uring', () => call(425, 1, 0));`,
    `await attempt('kill another process', () => call(62, process.ppid, 0));`,
    `await attempt('kill this process', () => call(62, process.pid, 0));`,
    `await attempt('TIOCSTI', () => call(16, 0, 0x5412, 0));`,
    `await attempt('a limit', () => call(302, 0, 7, 4096, 0));`,
    `await attempt('chmod', () => fs.chmodSync(new URL('./attacker.mjs', import.meta.url), 0o777));`,
    `await attempt('a dangerous prctl', () => call(157, 4, 1));`,
  ];
}

/** Those of the attempts that have these names. */
export const named = (lines: readonly string[], ...names: readonly string[]): readonly string[] =>
  lines.filter((line) => names.some((name) => line.includes(`'${name}'`)));

/** What becomes of the attempts under the filter of system calls. */
export const FAILED = {
  spawn: 'EPERM',
  execve: 'EPERM',
  fork: 'EPERM',
  'clone a process': 'EPERM',
  clone3: 'ENOSYS',
  unshare: 'EPERM',
  'socket AF_INET': 'EPERM',
  'socket AF_UNIX': 'EPERM',
  ptrace: 'EPERM',
  bpf: 'EPERM',
  mount: 'EPERM',
  io_uring: 'ENOSYS',
  'kill another process': 'EPERM',
  'kill this process': 'done',
  TIOCSTI: 'EPERM',
  'a limit': 'EPERM',
  chmod: 'EPERM',
  'a dangerous prctl': 'EPERM',
  'read what is allowed': 'done',
};

/** What becomes of the others where the kernel has Landlock. */
export const KEPT_FROM = {
  'read a file': 'EACCES',
  'read a file in the pool': 'EACCES',
  'read /etc/shadow': 'EACCES',
  'read a folder': 'EACCES',
  'read another process': 'EACCES',
  'write beside itself': 'EACCES',
};
