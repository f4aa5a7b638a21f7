/** Resolves a plug-in's name to a module. Runs in the main thread: an unresolved name is a configuration error. */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { isAbsolute, join, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { ConfigError, type ConfigProblem } from './config-error.js';
import { inputFileProblem, MOST_TEXT_BYTES, readInputFile } from './input-file.js';
import { exportedFile } from './package-exports.js';

function fileUrl(path: string): string {
  const problem = inputFileProblem(path, MOST_TEXT_BYTES);
  if (problem !== undefined) throw new Error(problem);
  return pathToFileURL(path).href;
}

function packageUrl(specifier: string, folder: string): string {
  const [, name = '', rest = ''] = /^((?:@[^/]+\/)?[^/]+)(\/.+)?$/.exec(specifier) ?? [];
  const require = createRequire(join(folder, 'plug-in'));
  const root = require.resolve
    .paths(name)
    ?.map((modules) => join(modules, name))
    .find((candidate) => existsSync(join(candidate, 'package.json')));
  if (name === '' || root === undefined) {
    const hint = existsSync(join(folder, specifier)) ? `; write ./${specifier} for the file` : '';
    throw new Error(`no package of this name can be found from ${folder}${hint}`);
  }
  const exports = packageExports(join(root, 'package.json'));
  if (exports === undefined || exports === null) return fileUrl(require.resolve(join(root, rest)));
  const file = exportedFile(exports, `.${rest}`);
  if (file === undefined) throw new Error(`the package ${root} exports no '.${rest}'`);
  return fileUrl(join(root, file));
}

function packageExports(path: string): unknown {
  const text = Buffer.from(readInputFile(path, MOST_TEXT_BYTES)).toString();
  try {
    const { exports } = JSON.parse(text) as { exports?: unknown };
    return exports;
  } catch (error) {
    throw new Error(`${path} is not JSON: ${(error as Error).message}`);
  }
}

/**
 * Resolves `specifier` from `folder` to a module's URL. It is a path (absolute, or with a leading `./` or `../`), a
 * file: URL, or the name of a package, which a subpath can follow.
 * @throws Error if there is no such module
 */
export function pluginUrl(specifier: string, folder: string): string {
  if (specifier === '')
    throw new Error("is empty: a plug-in is named by a path (./plug-in.mjs) or a package's name");
  if (specifier.startsWith('file:')) return fileUrl(fileURLToPath(specifier));
  if (isAbsolute(specifier) || /^\.{1,2}(\/|$)/.test(specifier)) return fileUrl(resolve(folder, specifier));
  if (/^[a-z][a-z\d+.-]*:/i.test(specifier))
    throw new Error("a plug-in is named by a path (./plug-in.mjs), a file: URL or a package's name");
  return packageUrl(specifier, folder);
}

/**
 * Resolves several plug-ins.
 * @param path path of the list in the configuration, for the error: `plugins`
 * @throws ConfigError listing every plug-in that does not resolve
 */
export function pluginUrls(
  specifiers: readonly string[],
  folder = process.cwd(),
  path = 'plugins',
): readonly string[] {
  const problems: ConfigProblem[] = [];
  const urls = specifiers.map((specifier, i) => {
    try {
      return pluginUrl(specifier, folder);
    } catch (error) {
      problems.push({ path: `${path}[${i}]`, text: `'${specifier}': ${(error as Error).message}` });
      return specifier;
    }
  });
  if (problems.length > 0) throw new ConfigError(problems);
  return urls;
}
