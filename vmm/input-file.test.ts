import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { inputFileProblem, readInputFile } from './input-file.js';

const folder = mkdtempSync(join(tmpdir(), 'tsvisor-input-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string) => join(folder, name);

/** The problem as it is known before opening, and what reading throws. */
function problems(path: string, mostBytes?: number): (string | undefined)[] {
  let thrown: string | undefined;
  try {
    readInputFile(path, mostBytes);
  } catch (error) {
    thrown = (error as Error).message;
  }
  return [inputFileProblem(path, mostBytes), thrown];
}

test('a regular file is read whole, also through a symbolic link, and if its size is said to be 0', () => {
  const bytes = Uint8Array.from({ length: 70_000 }, (_, i) => i);
  writeFileSync(at('file'), bytes);
  symlinkSync(at('file'), at('link'));
  expect(readInputFile(at('link'))).toEqual(bytes);
  expect(Buffer.from(readInputFile('/proc/self/cmdline')).toString()).toBe(
    readFileSync('/proc/self/cmdline', 'utf8'),
  );
  expect(problems(at('link'))).toEqual([undefined, undefined]);
});

test('what could block or never end is refused without opening it, and by who opens it', async () => {
  expect(spawnSync('mkfifo', [at('fifo')]).status).toBe(0);
  const server = createServer().listen(at('socket'));
  await new Promise((resolve) => server.once('listening', resolve));
  const text = (path: string, kind: string) => `${path} is ${kind}, and must be a regular file`;
  expect(problems('/dev/zero')).toEqual(new Array(2).fill(text('/dev/zero', 'a character device')));
  expect(problems(at('fifo'))).toEqual(new Array(2).fill(text(at('fifo'), 'a FIFO')));
  expect(problems('/tmp')).toEqual(new Array(2).fill(text('/tmp', 'a directory')));
  expect(inputFileProblem(at('socket'))).toBe(text(at('socket'), 'a socket'));
  server.close();
});

test('a file is read up to a limit, whatever its size is said to be', () => {
  writeFileSync(at('large'), '');
  truncateSync(at('large'), 5 * 2 ** 20);
  const text = `${at('large')} is larger than 4 MiB, the most that is read`;
  expect(problems(at('large'), 4 * 2 ** 20)).toEqual([text, text]);
  // An endless regular file of size 0.
  expect(problems('/proc/self/environ', 0)[1]).toMatch(/is larger than 0 MiB/);
});

test('a missing file is named', () => {
  expect(problems('/no/such')).toEqual(new Array(2).fill('there is no file /no/such'));
  expect(problems('/dev/null/x')).toEqual(new Array(2).fill('there is no file /dev/null/x'));
});
