import { execFileSync } from 'node:child_process';
import { expect, test } from 'vitest';
import { Fd } from './fd.js';
import { Scope } from './scope.js';
import { MessageSocket } from './socket-messages.js';
import { unixSocketPair } from './unix-socket.js';

test('bytes and descriptors arrive as they were sent, in small messages and large ones', () => {
  using scope = new Scope();
  const [near, far] = unixSocketPair('test').map((fd) => scope.own(new MessageSocket(fd, 8192)));
  const bell = scope.own(Fd.eventfd());
  for (const size of [1, 40, 4095, 5000]) {
    const bytes = Uint8Array.from({ length: size }, (_, i) => i + size);
    near?.send(bytes, [bell.number, bell.number]);
    const got = far?.receive(0, 8192);
    if (typeof got !== 'object') throw new RangeError(`${got}`);
    expect([got.bytes, got.fds.length]).toEqual([size, 2]);
    for (const fd of got.fds) Fd.adopt(fd, 'received')[Symbol.dispose]();
    expect(far?.buffer.subarray(0, size)).toEqual(bytes);
  }
});

test('a message of which the kernel has dropped descriptors is refused, and what came of them is closed', () => {
  using scope = new Scope();
  const [near, far] = unixSocketPair('test').map((fd) => scope.own(new MessageSocket(fd, 4096)));
  const limit = execFileSync('prlimit', [
    '--pid',
    `${process.pid}`,
    '--nofile',
    '--noheadings',
    '--output=SOFT',
  ])
    .toString()
    .trim();
  const taken: Fd[] = [];
  try {
    execFileSync('prlimit', ['--pid', `${process.pid}`, '--nofile=120:']);
    expect(() => {
      for (;;) taken.push(Fd.eventfd('filler'));
    }).toThrowError(/EMFILE/);
    const [first] = taken;
    near?.send(Uint8Array.of(1), [first?.number ?? -1, first?.number ?? -1]);
    taken.pop()?.[Symbol.dispose](); // room for one of them
    expect(() => far?.receive(0, 4096)).toThrowError(/^recvmsg on test: EMFILE\n.*more descriptors/);
  } finally {
    for (const fd of taken) fd[Symbol.dispose]();
    execFileSync('prlimit', ['--pid', `${process.pid}`, `--nofile=${limit}:`]);
  }
});
