/**
 * URL of a module that is to be a thread's program, or an event task. Node 20 cannot load TypeScript in a worker, so from
 * source files (vitest) it is the built twin under dist/; there it must be an entry of rolldown.config.js.
 * @param path from the project's root: `vmm/machine-thread.js`
 */
export function workerUrl(path: string): URL {
  // Built or not, this code lies one folder below dist/ or the root.
  const isSource = import.meta.url.endsWith('.ts');
  return new URL(isSource ? `../dist/${path}` : `../${path}`, import.meta.url);
}
