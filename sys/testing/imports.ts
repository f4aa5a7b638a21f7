/** For tests of the architecture: sources, and what they import. */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

/** Sources by path from the root. */
export type Files = ReadonlyMap<string, string>;

/** All TypeScript below a folder. */
export function sources(folder: string): Files {
  const entries = readdirSync(join(ROOT, folder), { withFileTypes: true, recursive: true });
  const paths = entries
    .filter((entry) => entry.isFile() && entry.name.endsWith('.ts'))
    .map((entry) => relative(ROOT, join(entry.parentPath, entry.name)))
    .sort();
  return new Map(paths.map((path) => [path, readFileSync(join(ROOT, path), 'utf8')]));
}

/** Specifiers that a source imports or re-exports, for types or for values. */
export const specifiersOf = (source: string): string[] =>
  [...source.matchAll(/(?:from|import|require)\s*\(?\s*'([^']+)'/g)].map((match) => match[1] as string);

/** Our files that a source imports, by path from the root. */
export const importsOf = (path: string, source: string): string[] =>
  specifiersOf(source)
    .filter((specifier) => specifier.startsWith('.'))
    .map((specifier) => normalize(join(dirname(path), specifier)).replace(/\.js$/, '.ts'));
