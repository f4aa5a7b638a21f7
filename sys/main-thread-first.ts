/**
 * Which native libraries the main thread has loaded, as workers see it. A library that a worker loads first is unloaded
 * when that worker ends, while its thread-local data are still to be destroyed: SIGSEGV, whatever else the worker did.
 */
import { fileURLToPath } from 'node:url';
import { isMainThread } from 'node:worker_threads';
import { getProcessData, setProcessData } from './thread-ahead.js';

/** Each copy of the package finds the entries of all. */
const KEY = 'tsvisor.loaded';

interface Loaded {
  /** Folder of the copy of this package that loaded it. */
  readonly by: string;
  /** Symbols that were called in the main thread. */
  readonly symbols: ReadonlySet<string>;
}

type LoadedByPath = ReadonlyMap<string, Loaded>;

const COPY = fileURLToPath(new URL('..', import.meta.url));
const loaded = (): LoadedByPath => (getProcessData(KEY) as LoadedByPath | undefined) ?? new Map();

function refusal(path: string): Error {
  const others = [...loaded().values()].map(({ by }) => by);
  const copies =
    others.length === 0
      ? []
      : [
          `this copy of the package: ${COPY} (with ${path})`,
          `imported in the main thread: ${others.join(', ')} (with ${[...loaded().keys()].join(', ')})`,
          'have both find one copy (npm ls tsvisor ffi-rs), or import this one in the main thread, too',
        ];
  return new Error(
    [
      'tsvisor: import the package in the main thread before starting a worker that uses it',
      ...copies,
      "in vitest: pool: 'forks', or a globalSetup file that imports tsvisor",
    ].join('\n  '),
  );
}

/**
 * To be called before the library at `path` is loaded.
 * @throws Error in a worker, if the main thread had not loaded it when this thread was started
 */
export function refuseWorkerFirst(path: string): void {
  if (!isMainThread && !loaded().has(path)) throw refusal(path);
}

/**
 * To be called before a symbol is used. In the main thread it calls all of `warmUps`, and lets workers started from
 * now on use these symbols.
 * @throws Error in a worker, if the main thread has not called one of them: another version of the package loaded the
 * library
 */
export function warmUpInMainThread(path: string, warmUps: ReadonlyMap<string, () => unknown>): void {
  const known = loaded().get(path);
  if (!isMainThread) {
    for (const symbol of warmUps.keys()) if (known?.symbols.has(symbol) !== true) throw refusal(path);
    return;
  }
  for (const warmUp of warmUps.values()) warmUp();
  const symbols = new Set([...(known?.symbols ?? []), ...warmUps.keys()]);
  setProcessData(KEY, new Map([...loaded(), [path, { by: known?.by ?? COPY, symbols }]]));
}
