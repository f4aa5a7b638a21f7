/** Which module a plug-in's name means. Main thread: a name that means none is a mistake in the configuration. */
import { existsSync, readFileSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { isAbsolute, join, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { ConfigError, type ConfigProblem } from './config-error.js';
import { exportedFile } from './package-exports.js';

function fileUrl(path: string): string {
  const stats = statSync(path, { throwIfNoEntry: false });
  if (stats === undefined) throw new Error(`there is no file ${path}`);
  if (!stats.isFile()) throw new Error(`${path} is not a file`);
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
  const { exports } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { exports?: unknown };
  if (exports === undefined || exports === null) return fileUrl(require.resolve(join(root, rest)));
  const file = exportedFile(exports, `.${rest}`);
  if (file === undefined) throw new Error(`the package ${root} exports no '.${rest}'`);
  return fileUrl(join(root, file));
}

/**
 * The URL of the module that `specifier` means in `folder`: a path (absolute, or `./` and `../` in front), a file: URL, or
 * a package's name, with or without a path behind it.
 * @throws Error if there is no such module
 */
export function pluginUrl(specifier: string, folder: string): string {
  if (specifier.startsWith('file:')) return fileUrl(fileURLToPath(specifier));
  if (isAbsolute(specifier) || /^\.{1,2}(\/|$)/.test(specifier)) return fileUrl(resolve(folder, specifier));
  if (/^[a-z][a-z\d+.-]*:/i.test(specifier))
    throw new Error("a plug-in is named by a path (./plug-in.mjs), a file: URL or a package's name");
  return packageUrl(specifier, folder);
}

/**
 * The URLs of several plug-ins.
 * @param path of the list, for the error: `plugins`
 * @throws ConfigError naming all that are not there
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
