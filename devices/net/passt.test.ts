import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeEach, expect, test } from 'vitest';
import { sleep } from '../../sys/child.js';
import { passt, passtProgram, passtSocket } from './passt.js';
import type { NetPort } from './port.js';
import { arp } from './testing/frames.js';
import { childrenNamed, passtProblem } from './testing/passt.js';

const problem = passtProblem();

/** The next frame within five seconds; undefined if there is none. */
function awaitFrame(port: NetPort): Uint8Array | undefined {
  const buffer = new Uint8Array(65_553);
  for (let i = 0; i < 5000; i++) {
    const length = port.receive([buffer]);
    if (length > 0) return buffer.slice(0, length);
    sleep(1);
  }
  return undefined;
}

beforeEach(() => expect(childrenNamed('passt')).toEqual([]));

test('without passt installed, opening fails with ENOENT and a hint how to install it', () => {
  expect(() => passtProgram('passt-of-nowhere').open('')).toThrowError(/ENOENT\n.*apt install passt/);
});

test('a program that exits at once is EINVAL with its output, and leaves nothing open', () => {
  expect(() => passtProgram('false').open('')).toThrowError(/start on passt: EINVAL\n.*exit code 1/);
  expect(childrenNamed('false')).toEqual([]);
});

test('validate names every wrong option and opens nothing', () => {
  expect(passt.validate('speed=9,x')).toMatch(/unknown option "speed=9".*unknown option "x"/);
  expect(passt.validate('tcp-ports=80')).toBeUndefined();
  expect(() => passt.open('x')).toThrowError(TypeError);
});

test.skipIf(problem !== undefined)(
  `a wrong value is EINVAL with passt's own message ${problem ?? ''}`,
  () => {
    expect(() => passt.open('tcp-ports=99999')).toThrowError(/start on passt: EINVAL\n.*Invalid port.*99999/);
    expect(childrenNamed('passt')).toEqual([]);
  },
);

/** `--gateway` and `--interface` stop passt from looking for the default network. */
function openReal(): NetPort | undefined {
  try {
    return passt.open('address=192.0.2.15,gateway=192.0.2.2,netmask=24');
  } catch (error) {
    // passt requires a route, which not every sandbox has; the test in a network namespace creates one.
    if (/No external|not usable|routable/.test(String(error))) return undefined;
    throw error;
  }
}

test.skipIf(problem !== undefined)(
  `passt answers for the gateway, and ends with the port ${problem ?? ''}`,
  (context) => {
    const opened = openReal();
    context.skip(opened === undefined, 'passt finds no route here');
    using port = opened as NetPort;
    expect(childrenNamed('passt')).toHaveLength(1);
    port.transmit([arp({ senderIp: '192.0.2.15', targetIp: '192.0.2.2' })]);
    const reply = awaitFrame(port);
    expect(reply?.length).toBeGreaterThanOrEqual(42);
    port[Symbol.dispose]();
    expect(childrenNamed('passt')).toEqual([]);
  },
);

test.skipIf(problem !== undefined)(
  `a passt that is killed is reported with its signal, and leaves no zombie ${problem ?? ''}`,
  (context) => {
    const opened = openReal();
    context.skip(opened === undefined, 'passt finds no route here');
    using port = opened as NetPort;
    const [pid] = childrenNamed('passt') as [number];
    process.kill(pid, 'SIGKILL');
    expect(() => awaitFrame(port)).toThrowError(
      new RegExp(`net on passt .pid ${pid}.: ECONNRESET\\n.*signal 9`),
    );
    expect(childrenNamed('passt')).toEqual([]);
  },
);

test('a socket without a listener is ECONNREFUSED or ENOENT with a hint; one with a peer becomes a port', async () => {
  expect(() => passtSocket.open('/nowhere/passt.socket')).toThrowError(
    /connect on .*: ENOENT\n.*start its server/,
  );
  const path = join(tmpdir(), `passt-test-${process.pid}`);
  const frame = new Uint8Array(60).fill(7);
  const server = createServer((socket) => socket.end(Buffer.concat([Buffer.of(0, 0, 0, 60), frame])));
  await new Promise<void>((resolve) => server.listen(path, resolve));
  {
    using port = passtSocket.open(path);
    while (port.pending() === 0) await new Promise((resolve) => setTimeout(resolve, 1));
    const buffer = new Uint8Array(100);
    expect([port.receive([buffer]), buffer.subarray(0, 60)]).toEqual([60, frame]);
    while (port.pending() === 0) await new Promise((resolve) => setTimeout(resolve, 1));
    expect(() => port.receive([buffer])).toThrowError(
      /net on passt at .*: ECONNRESET\n.*closed the connection/,
    );
  }
  await new Promise((resolve) => server.close(resolve));
  expect(() => readFileSync(path)).toThrow();
});
