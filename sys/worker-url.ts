/**
 * URL of a module that is to be a thread's program. Node 20 cannot load TypeScript in a worker, so from a source file
 * (vitest) it is the compiled twin under dist/.
 * @param name `./machine-thread.js`, relative to the caller's `import.meta.url`
 */
export function workerUrl(name: string, base: string): URL {
  const url = new URL(name, base);
  if (!base.endsWith('.ts')) return url;
  const root = new URL('../', import.meta.url).href;
  return new URL(`dist/${url.href.slice(root.length)}`, root);
}
