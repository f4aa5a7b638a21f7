import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, expect, test } from 'vitest';
import { keepCompiledCode } from './compile-cache.js';

const folder = mkdtempSync(join(tmpdir(), 'tsvisor-compile-cache-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

let home = '';
let enabled: string[] = [];
const enable = (path: string): unknown => enabled.push(path);
beforeEach(() => {
  home = mkdtempSync(join(folder, 'home-'));
  enabled = [];
});

test('compiled code is kept in the cache folder of the home directory, for the user alone', () => {
  const kept = join(home, '.cache/tsvisor');
  expect(keepCompiledCode(enable, { HOME: home })).toBe(kept);
  expect(enabled).toEqual([kept]);
  expect(statSync(kept).mode & 0o777).toBe(0o700);
});

test('XDG_CACHE_HOME comes first, unless it is a relative path', () => {
  const xdg = mkdtempSync(join(folder, 'xdg-'));
  expect(keepCompiledCode(enable, { HOME: home, XDG_CACHE_HOME: xdg })).toBe(join(xdg, 'tsvisor'));
  expect(keepCompiledCode(enable, { HOME: home, XDG_CACHE_HOME: 'cache' })).toBe(
    join(home, '.cache/tsvisor'),
  );
});

test.each([
  ['NODE_COMPILE_CACHE', '/elsewhere'],
  ['NODE_DISABLE_COMPILE_CACHE', '1'],
  ['TSVISOR_SANDBOX', '7 3'],
])('with %s in the environment, no folder is made', (name, value) => {
  expect(keepCompiledCode(enable, { HOME: home, [name]: value })).toBeUndefined();
  expect([enabled, readdirSync(home)]).toEqual([[], []]);
});

test('a Node without a compile cache makes no folder', () => {
  expect(keepCompiledCode(undefined, { HOME: home })).toBeUndefined();
  expect(readdirSync(home)).toEqual([]);
});

test('a home directory that others may write to is not trusted', () => {
  chmodSync(home, 0o777);
  expect(keepCompiledCode(enable, { HOME: home })).toBeUndefined();
  expect([enabled, readdirSync(home)]).toEqual([[], []]);
});

test('a cache folder that others may write to, or that is a link, is not trusted', () => {
  const kept = join(home, '.cache/tsvisor');
  mkdirSync(kept, { recursive: true });
  chmodSync(kept, 0o770);
  expect(keepCompiledCode(enable, { HOME: home })).toBeUndefined();
  rmSync(kept, { recursive: true });
  symlinkSync(folder, kept);
  expect(keepCompiledCode(enable, { HOME: home })).toBeUndefined();
  expect(enabled).toEqual([]);
});

test.skipIf(process.getuid?.() !== 0)(
  'the home directory of another user, as after sudo -E, is left alone (skipped unless root)',
  () => {
    chownSync(home, 54321, 54321);
    expect(keepCompiledCode(enable, { HOME: home })).toBeUndefined();
    expect([enabled, readdirSync(home)]).toEqual([[], []]);
  },
);

test('whatever is wrong with the folder, nothing is thrown', () => {
  writeFileSync(join(home, '.cache'), 'a file');
  const refuse = () => {
    throw new Error('no');
  };
  expect(keepCompiledCode(enable, { HOME: home })).toBeUndefined();
  expect(keepCompiledCode(enable, { HOME: join(home, 'missing') })).toBeUndefined();
  expect(keepCompiledCode(enable, {})).toBeUndefined();
  expect(keepCompiledCode(enable, { HOME: '/proc' })).toBeUndefined();
  expect(keepCompiledCode(refuse, { HOME: mkdtempSync(join(folder, 'home-')) })).toBeUndefined();
  expect(existsSync(join(home, 'missing'))).toBe(false);
  expect(enabled).toEqual([]);
});
