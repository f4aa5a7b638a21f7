import { existsSync, lstatSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';

/** Whoever writes a file there decides what this process runs: only this user may. */
function isOursAlone(folder: string): boolean {
  const stats = lstatSync(folder);
  return stats.isDirectory() && stats.uid === process.geteuid?.() && (stats.mode & 0o022) === 0;
}

/** Not with Node's `recursive`, which tries for ever in a file system like procfs. */
function makeFolder(parent: string, name: string): string {
  const folder = join(parent, name);
  if (!existsSync(folder)) mkdirSync(folder, { mode: 0o700 });
  return folder;
}

/**
 * Has Node keep the code that V8 compiles from run to run, in the user's cache folder: `tsvisor` in $XDG_CACHE_HOME, else in
 * $HOME/.cache. Threads that are started later share it. Not in a sandbox, which denies the folder, and not if Node has been
 * given a folder of its own (NODE_COMPILE_CACHE) or been forbidden one (NODE_DISABLE_COMPILE_CACHE).
 * @param enable Node's `enableCompileCache`; undefined before Node 22.8
 * @returns the folder; undefined if none is used. Never throws: without it, the program only starts more slowly
 */
export function keepCompiledCode(
  enable: ((folder: string) => unknown) | undefined,
  env: NodeJS.ProcessEnv,
): string | undefined {
  const { NODE_COMPILE_CACHE, NODE_DISABLE_COMPILE_CACHE, TSVISOR_SANDBOX, XDG_CACHE_HOME, HOME } = env;
  const isDecided = [NODE_COMPILE_CACHE, NODE_DISABLE_COMPILE_CACHE, TSVISOR_SANDBOX].some(Boolean);
  const root = XDG_CACHE_HOME?.startsWith('/') ? XDG_CACHE_HOME : HOME;
  if (enable === undefined || isDecided || root?.startsWith('/') !== true) return undefined;
  try {
    // $HOME can be another user's, as after `sudo -E`.
    if (!isOursAlone(root)) return undefined;
    const folder = makeFolder(root === XDG_CACHE_HOME ? root : makeFolder(root, '.cache'), 'tsvisor');
    if (!isOursAlone(folder)) return undefined;
    enable(folder);
    return folder;
  } catch {
    return undefined;
  }
}
