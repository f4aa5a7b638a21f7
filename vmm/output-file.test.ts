import { spawn, spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, expect, test } from 'vitest';
import { outputFileProblem, writeOutputFile } from './output-file.js';

const folder = mkdtempSync(join(tmpdir(), 'tsvisor-output-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string) => join(folder, name);
beforeEach(() => {
  for (const name of readdirSync(folder)) rmSync(at(name), { recursive: true });
});
const isRoot = process.getuid?.() === 0;

const PICTURE = new Uint8Array(300_000).fill(0x41);
const save = (path: string, bytes = PICTURE) => writeOutputFile(path, bytes, `picture ${path}`);
const mkfifo = (path: string) => expect(spawnSync('mkfifo', [path]).status).toBe(0);

test('a regular file is replaced, and keeps its mode', async () => {
  writeFileSync(at('p'), 'old');
  chmodSync(at('p'), 0o600);
  const before = statSync(at('p'));
  await save(at('p'));
  expect(readFileSync(at('p'))).toHaveLength(PICTURE.length);
  const after = statSync(at('p'));
  expect(after.mode).toBe(before.mode);
  expect(after.ino).not.toBe(before.ino);
  expect(readdirSync(folder)).toEqual(['p']);
});

test('a file with two names is the same file under both afterwards', async () => {
  writeFileSync(at('p'), 'old');
  linkSync(at('p'), at('q'));
  await save(at('p'));
  expect(readFileSync(at('q'))).toHaveLength(PICTURE.length);
});

test('a symbolic link stays one, and its target gets the bytes, there or not', async () => {
  mkdirSync(at('d'));
  symlinkSync('d/target', at('p'));
  for (let i = 0; i < 2; i++) {
    await save(at('p'));
    expect(lstatSync(at('p')).isSymbolicLink()).toBe(true);
    expect(readFileSync(at('d/target'))).toHaveLength(PICTURE.length);
    expect(readdirSync(at('d'))).toEqual(['target']);
  }
});

test('a FIFO stays one: its reader gets every byte, and without a reader it is an error at once', async () => {
  mkfifo(at('p'));
  await expect(save(at('p'))).rejects.toThrowError(/^write on picture .*: ENXIO\n {2}hint: nobody reads it/);
  const reader = spawn('sh', ['-c', `wc -c < ${at('p')}`], { stdio: ['ignore', 'pipe', 'inherit'] });
  let text = '';
  reader.stdout.on('data', (piece) => {
    text += String(piece);
  });
  const ended = new Promise((resolve) => reader.on('close', resolve));
  for (;;) {
    try {
      await save(at('p'));
      break;
    } catch (error) {
      expect(String(error)).toMatch(/ENXIO/); // the shell has not opened it yet
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
  await ended;
  expect(Number(text)).toBe(PICTURE.length);
  expect(lstatSync(at('p')).isFIFO()).toBe(true);
});

test.skipIf(!isRoot)('a device node is written through (skipped unless root)', async () => {
  for (const [name, minor] of [
    ['null', '3'],
    ['full', '7'],
  ] as const)
    expect(spawnSync('mknod', [at(name), 'c', '1', minor]).status).toBe(0);
  await save(at('null'));
  await expect(save(at('full'))).rejects.toThrowError(/^write on picture .*full: ENOSPC/);
  expect(readdirSync(folder).sort()).toEqual(['full', 'null']);
  for (const name of ['null', 'full']) expect(lstatSync(at(name)).isCharacterDevice()).toBe(true);
});

test('a failure leaves the file that was there, and no other', async () => {
  writeFileSync(at('p'), 'old');
  mkdirSync(at('d'));
  await expect(save(at('d'))).rejects.toThrowError(/EISDIR/);
  await expect(save(at('no/such'))).rejects.toThrowError(/ENOENT/);
  expect(readdirSync(folder).sort()).toEqual(['d', 'p']);
  expect(readFileSync(at('p'), 'utf8')).toBe('old');
});

test('a file of the temporary name that somebody planted is not written to', async () => {
  writeFileSync(at('victim'), 'mine');
  symlinkSync(at('victim'), at(`.p.${process.pid}.part`));
  await expect(save(at('p'))).rejects.toThrowError(/EEXIST/);
  expect(readFileSync(at('victim'), 'utf8')).toBe('mine');
  expect(existsSync(at('p'))).toBe(false);
});

test('what can be known before is known: no such folder, a directory, a socket', () => {
  mkdirSync(at('d'));
  mkfifo(at('fifo'));
  expect(outputFileProblem(at('p'))).toBeUndefined();
  expect(outputFileProblem(at('fifo'))).toBeUndefined();
  expect(outputFileProblem('/dev/null')).toBeUndefined();
  expect(outputFileProblem(at('d'))).toBe(`${at('d')} is a directory`);
  expect(outputFileProblem(at('no/such'))).toBe(`there is no directory ${at('no')}`);
  expect(outputFileProblem(`${at('p')}/`)).toBe(`${at('p')}/ is the name of a directory`);
});
