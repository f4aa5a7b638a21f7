import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { writeFolder } from './folders.js';

let parent: string;
let folder: string;
beforeEach(() => {
  parent = mkdtempSync(join(tmpdir(), 'folders-'));
  folder = join(parent, 'made');
});
afterEach(() => rmSync(parent, { recursive: true, force: true }));

const put = (text: string) => (path: string) => writeFileSync(join(path, 'file'), text);
const contents = () => [readdirSync(parent), readFileSync(join(folder, 'file'), 'utf8')];

test('a folder is there once it is whole, and replaces one with other files', () => {
  writeFolder(folder, (path) => {
    expect(readdirSync(parent)).not.toContain('made');
    put('one')(path);
  });
  expect(contents()).toEqual([['made'], 'one']);
  writeFileSync(join(folder, 'other'), 'left over');
  writeFolder(folder, (path) => {
    expect(readFileSync(join(folder, 'file'), 'utf8')).toBe('one');
    put('two')(path);
  });
  expect(contents()).toEqual([['made'], 'two']);
  expect(readdirSync(folder)).toEqual(['file']);
});

test('a failure leaves the folder that was there, and nothing else', () => {
  writeFolder(folder, put('one'));
  expect(() =>
    writeFolder(folder, (path) => {
      put('two')(path);
      throw new RangeError('no more');
    }),
  ).toThrowError('no more');
  expect(contents()).toEqual([['made'], 'one']);
});

test('where it cannot be made, the error names the call and the place', () => {
  expect(() => writeFolder(join(parent, 'no', 'made'), put('x'))).toThrowError(
    /mkdir on .*no\/made.*: ENOENT\n.*to be there/,
  );
  mkdirSync(join(parent, 'a'));
  writeFileSync(folder, 'a file');
  writeFolder(folder, put('one'));
  expect(contents()[1]).toBe('one');
});
