/** Where a package's subpath leads, by the `exports` of its package.json, as Node's import finds it. */

const CONDITIONS = new Set(['node', 'import', 'node-addons', 'default']);
if ('require_module' in process.features && process.features.require_module === true)
  CONDITIONS.add('module-sync');

/** The first target that a condition of ours leads to; undefined for none, null for one that is shut. */
function pick(target: unknown, star: string): string | null | undefined {
  if (typeof target === 'string') return target.startsWith('./') ? target.replaceAll('*', star) : undefined;
  if (target === null || typeof target !== 'object') return target === null ? null : undefined;
  const choices = Array.isArray(target)
    ? target
    : Object.entries(target)
        .filter(([condition]) => CONDITIONS.has(condition))
        .map(([, choice]) => choice);
  for (const choice of choices) {
    const picked = pick(choice, star);
    if (picked !== undefined && !(picked === null && Array.isArray(target))) return picked;
  }
  return undefined;
}

/**
 * @param subpath `.`, or `./name`
 * @returns a path relative to the package; undefined if it has none under this name
 */
export function exportedFile(exports: unknown, subpath: string): string | undefined {
  const isMap = typeof exports === 'object' && exports !== null && Object.keys(exports)[0]?.startsWith('.');
  const targets = (isMap ? exports : { '.': exports }) as Readonly<Record<string, unknown>>;
  if (Object.hasOwn(targets, subpath) && !subpath.includes('*'))
    return pick(targets[subpath], '') ?? undefined;
  const patterns = Object.keys(targets)
    .map((key) => [key, ...key.split('*')] as const)
    .filter(
      ([key, prefix = '', suffix]) =>
        suffix !== undefined &&
        subpath.startsWith(prefix) &&
        subpath !== prefix &&
        subpath.endsWith(suffix) &&
        subpath.length >= key.length,
    )
    .sort(([key, prefix = ''], [otherKey, otherPrefix = '']) =>
      prefix.length === otherPrefix.length
        ? otherKey.length - key.length
        : otherPrefix.length - prefix.length,
    );
  const [best] = patterns;
  if (best === undefined) return undefined;
  const [key, prefix = '', suffix = ''] = best;
  return pick(targets[key], subpath.slice(prefix.length, subpath.length - suffix.length)) ?? undefined;
}
