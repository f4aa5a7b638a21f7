import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, expect, test } from 'vitest';
import { ConfigError } from './config-error.js';
import { pluginUrl, pluginUrls } from './plugin-url.js';

const folder = realpathSync(mkdtempSync(join(tmpdir(), 'tsvisor-plugin-url-')));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function write(path: string, text = ''): string {
  const full = join(folder, path);
  mkdirSync(join(full, '..'), { recursive: true });
  writeFileSync(full, text);
  return full;
}

function writePackage(name: string, fields: object, files: readonly string[]): void {
  write(`node_modules/${name}/package.json`, JSON.stringify({ name, type: 'module', ...fields }));
  for (const file of files) write(`node_modules/${name}/${file}`);
}

const plain = write('plain.mjs');
write('below/plain.mjs');
writePackage('legacy', { main: './lib/main.js' }, ['lib/main.js', 'other.js']);
writePackage('index-only', {}, ['index.js']);
writePackage('@scope/one', { exports: './one.js' }, ['one.js']);
writePackage(
  'conditions',
  { exports: { require: './no.cjs', import: { node: './yes.js' }, default: './no.js' } },
  ['yes.js', 'no.js'],
);
writePackage(
  'subpaths',
  {
    exports: {
      '.': [null, { browser: './no.js' }, './main.js'],
      './plugin': { import: './plugin.js' },
      './devices/*': './devices/*.js',
      './devices/private/*': null,
      './devices/*/index': { default: './devices/*/entry.js' },
      './shut': null,
      './only-cjs': { require: './main.js' },
    },
  },
  ['main.js', 'plugin.js', 'devices/nic.js', 'devices/a/b.js', 'devices/c/entry.js', 'devices/private/x.js'],
);
writePackage('broken', { exports: './not-there.js' }, []);

/** What Node makes of it, imported from a module in the folder. */
function byNode(specifier: string): string | undefined {
  const program = `try { console.log(import.meta.resolve('${specifier}')) } catch (error) { console.log(error.code) }`;
  const args = ['--input-type=module', '-e', program];
  const answer = spawnSync(process.execPath, args, { cwd: folder, encoding: 'utf8' }).stdout.trim();
  return answer.startsWith('file:') ? answer : undefined;
}

function byUs(specifier: string): string | undefined {
  try {
    return pluginUrl(specifier, folder);
  } catch {
    return undefined;
  }
}

test.each([
  ['legacy', 'lib/main.js'],
  ['legacy/other.js', 'other.js'],
  ['index-only', 'index.js'],
  ['@scope/one', 'one.js'],
  ['conditions', 'yes.js'],
  ['subpaths', 'main.js'],
  ['subpaths/plugin', 'plugin.js'],
  ['subpaths/devices/nic', 'devices/nic.js'],
  ['subpaths/devices/a/b', 'devices/a/b.js'],
  ['subpaths/devices/c/index', 'devices/c/entry.js'],
  ['subpaths/devices/private/x', undefined],
  ['subpaths/shut', undefined],
  ['subpaths/only-cjs', undefined],
  ['subpaths/nothing', undefined],
  ['@scope/two', undefined],
])('the package %s is what Node imports under that name', (specifier, file) => {
  const [, name] = /^((?:@[^/]+\/)?[^/]+)/.exec(specifier) ?? [];
  const url =
    file === undefined ? undefined : pathToFileURL(join(folder, 'node_modules', name ?? '', file)).href;
  expect({ node: byNode(specifier), we: byUs(specifier) }).toEqual({ node: url, we: url });
});

test('a path is taken from the folder, an absolute path and a file: URL as they are', () => {
  const { href } = pathToFileURL(plain);
  expect(pluginUrl('./plain.mjs', folder)).toBe(href);
  expect(pluginUrl('../plain.mjs', join(folder, 'below'))).toBe(href);
  expect(pluginUrl(plain, '/')).toBe(href);
  expect(pluginUrl(href, '/')).toBe(href);
});

test.each([
  ['./no.mjs', /there is no file \S+\/no\.mjs$/],
  ['/no/such.mjs', /there is no file \/no\/such\.mjs$/],
  ['./below', /\S+\/below is a directory, and must be a regular file$/],
  ['plain.mjs', /no package of this name .*; write \.\/plain\.mjs for the file$/],
  ['no-such-package', /no package of this name can be found from \S+$/],
  ['subpaths/shut', /the package \S+\/subpaths exports no '\.\/shut'$/],
  ['broken', /there is no file \S+\/not-there\.js$/],
  ['https://example.org/x.mjs', /is named by a path/],
])('%s is refused with the reason', (specifier, reason) => {
  expect(() => pluginUrl(specifier, folder)).toThrowError(reason);
});

test('of several plug-ins all that are not there are named', () => {
  const call = () => pluginUrls(['./a.mjs', './plain.mjs', './b.mjs'], folder);
  expect(call).toThrowError(ConfigError);
  expect(call).toThrowError(
    /plugins\[0\]: '\.\/a\.mjs': there is no file .*\n {2}plugins\[2\]: '\.\/b\.mjs'/,
  );
});
