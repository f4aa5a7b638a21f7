import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { Fd } from './fd.js';
import { Scope } from './scope.js';
import { connectUnix, peerCredentials, UnixListener } from './unix-socket.js';

function listen(scope: Scope, mode?: number): UnixListener {
  const folder = mkdtempSync(join(tmpdir(), 'unix-socket-'));
  scope.defer(() => rmSync(folder, { recursive: true }));
  return scope.own(UnixListener.listen(join(folder, 'sock'), mode));
}

/** Sets this process's limit of descriptors. */
const limitFiles = (most: number | string): void => {
  execFileSync('prlimit', ['--pid', `${process.pid}`, `--nofile=${most}:`]);
};
const currentLimit = (): string =>
  execFileSync('prlimit', ['--pid', `${process.pid}`, '--nofile', '--noheadings', '--output=SOFT'])
    .toString()
    .trim();

test('a client for whom no descriptor is left is sent away, and the next one accepted', () => {
  using scope = new Scope();
  const listener = listen(scope);
  const client = scope.own(connectUnix(listener.path));
  const limit = currentLimit();
  const taken: Fd[] = [];
  try {
    limitFiles(client.number + 60);
    expect(() => {
      for (;;) taken.push(Fd.eventfd('filler'));
    }).toThrowError(/EMFILE/);
    expect(() => listener.accept()).toThrowError(/^accept on .*: EMFILE/);
    expect(listener.accept()).toBeUndefined(); // nobody waits any more
  } finally {
    for (const fd of taken) fd[Symbol.dispose]();
    limitFiles(limit);
  }
  scope.own(connectUnix(listener.path));
  const accepted = listener.accept();
  expect(accepted).toBeDefined();
  expect(peerCredentials(accepted as Fd)).toEqual({ pid: process.pid, uid: process.getuid?.() });
  accepted?.[Symbol.dispose]();
});

test('fifty clients may come at once', () => {
  using scope = new Scope();
  const listener = listen(scope);
  for (let i = 0; i < 50; i++) scope.own(connectUnix(listener.path));
});

test('the file of a socket that listens has its mode from the start', () => {
  using scope = new Scope();
  const { path } = listen(scope, 0o600);
  expect(statSync(path).mode & 0o777).toBe(0o600);
});
