/** Imports foreign modules: plug-ins and their event tasks. In them, `tsvisor/...` resolves to the running copy. */
import { readFileSync } from 'node:fs';
import module from 'node:module';
// Not the globals, which throw in the event thread. These fire there during an import, while Node's event loop runs.
import { clearTimeout, setTimeout } from 'node:timers';
import type { EntryUrls, resolve as ResolveHook } from './resolve-hook.js';
import { workerUrl } from './worker-url.js';

const OWN_MODULES = workerUrl('').href;
const HOOK = workerUrl('sys/resolve-hook.js').href;
const DEADLINE_MS = 10_000;

/** Node 22.15, 23.5 and newer: hooks in this thread, for import and require alike. */
interface WithSyncHooks {
  registerHooks?(hooks: { resolve: typeof ResolveHook }): unknown;
}

function entryUrls(): EntryUrls {
  const path = new URL('../package.json', OWN_MODULES);
  const { name, exports } = JSON.parse(readFileSync(path, 'utf8')) as {
    name: string;
    exports: Record<string, { default: string }>;
  };
  const urls = Object.entries(exports).map(
    ([key, { default: file }]) => [name + key.slice(1), new URL(file, path).href] as const,
  );
  return new Map(urls);
}

async function installHook(): Promise<void> {
  const { registerHooks } = module as WithSyncHooks;
  if (registerHooks === undefined) {
    module.register(HOOK, { data: entryUrls() });
    return;
  }
  const { initialize, resolve } = (await import(HOOK)) as typeof import('./resolve-hook.js');
  initialize(entryUrls());
  registerHooks({ resolve });
}

/** The hook of this thread; installed for the first foreign module. */
let hook: Promise<void> | undefined;

/**
 * Imports a module by its URL. If it is a foreign one, `tsvisor/...` resolves to the entries of this copy in it and in
 * every later import of this thread, wherever the module is.
 * @throws the module's own exception; Error if loading takes more than ten seconds
 */
export async function importModule(url: string): Promise<unknown> {
  if (url.startsWith(OWN_MODULES)) return import(url);
  hook ??= installHook();
  await hook;
  let timer: NodeJS.Timeout | undefined;
  const deadline = new Promise<never>((_, reject) => {
    const late = `${url} is not loaded after ${DEADLINE_MS / 1000} s: a top-level await in it does not end`;
    // Not unref'd: a thread with nothing else to wait for would end without an error.
    timer = setTimeout(() => reject(new Error(late)), DEADLINE_MS);
  });
  try {
    return await Promise.race([import(url), deadline]);
  } finally {
    clearTimeout(timer);
  }
}
