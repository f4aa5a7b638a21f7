import { readFileSync, readSync } from 'node:fs';
import { expect, test } from 'vitest';
import { Child, sleep } from './child.js';
import { Fd } from './fd.js';
import { unixSocketPair } from './unix-socket.js';

const start = (program: string, args: readonly string[] = [], fds: readonly Fd[] = []): Child => {
  using stderr = Fd.memfd('stderr');
  return Child.start(program, { args, stderr, fds, hint: 'buy it' });
};

const stateOf = (pid: number): string => {
  try {
    return /\) (\w)/.exec(readFileSync(`/proc/${pid}/stat`, 'latin1'))?.[1] ?? '?';
  } catch {
    return 'gone';
  }
};

test('a missing program is reported as ENOENT with the hint', () => {
  expect(() => start('no-such-program-anywhere')).toThrowError(
    /execve on no-such-program-anywhere: ENOENT\n.*buy it/,
  );
});

test.each([
  [['-c', 'exit 3'], 'exit code 3'],
  [['-c', 'kill -9 $$'], 'signal 9'],
])('sh %j ends by %s, and leaves no zombie though no event loop turns', (args, ending) => {
  using child = start('sh', args);
  while (!child.hasEnded) sleep(1);
  expect([child.ending, stateOf(child.pid)]).toEqual([ending, 'gone']);
});

test('a child has the descriptors passed to it, from 3 up', () => {
  const [ours, its] = unixSocketPair('test');
  using socket = ours;
  {
    using _its = its;
    using _child = start('sh', ['-c', 'echo hello >&3'], [its]);
  }
  const buffer = Buffer.alloc(64);
  expect(buffer.toString('latin1', 0, readSync(socket.number, buffer))).toBe('hello\n');
});

test('disposing kills a program that does not exit by itself, once', () => {
  const child = start('sleep', ['1000']);
  child[Symbol.dispose]();
  child[Symbol.dispose]();
  expect([child.ending, stateOf(child.pid)]).toEqual(['signal 9', 'gone']);
});
