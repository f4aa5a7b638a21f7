/**
 * A module resolution hook: `tsvisor` and `tsvisor/...` are the entries of the copy that runs. Its own entry of the build, as
 * Node 20 runs hooks in a thread of their own. @see foreign-module.ts, which installs it
 */

/** URL by specifier. */
export type EntryUrls = ReadonlyMap<string, string>;

interface Resolved {
  readonly url: string;
  readonly format?: string | null | undefined;
  readonly shortCircuit?: boolean | undefined;
}
type NextResolve<R> = (specifier: string, context: unknown) => R;

let entries: EntryUrls = new Map();

export function initialize(urls: EntryUrls): void {
  entries = urls;
}

/** @throws Error for a path of the package that is none of its entries */
export function resolve<R>(specifier: string, context: unknown, nextResolve: NextResolve<R>): R | Resolved {
  if (!/^tsvisor(\/|$)/.test(specifier)) return nextResolve(specifier, context);
  const url = entries.get(specifier);
  if (url === undefined)
    throw new Error(`'${specifier}' is none of the package's entries: ${[...entries.keys()].join(', ')}`);
  return { url, format: 'module', shortCircuit: true };
}
