/** Connections of the two ends of a move. */
import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { acceptAt, connectTo, moveAddressProblem } from './address.js';
import { FRAME, FrameStream } from './frames.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'move-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Both ends of a connection. */
async function connected(address: string) {
  let listen: () => void = () => {};
  const listening = new Promise<void>((resolve) => {
    listen = resolve;
  });
  const accepted = acceptAt(address, listen);
  await listening;
  return Promise.all([connectTo(address, 1000), accepted]);
}

test('frames pass both ways over a unix socket and over TCP, and what follows the last one is an end', async () => {
  for (const address of [`unix:${join(folder, 'socket')}`, `tcp:127.0.0.1:${await freePort()}`]) {
    const [here, there] = await connected(address);
    using a = new FrameStream(here, address, 1000);
    {
      using b = new FrameStream(there, address, 1000);
      await a.send(FRAME.config, Buffer.from('{}'));
      expect((await b.next(FRAME.config)).data.toString()).toBe('{}');
      await b.send(FRAME.ready);
      await b.send(FRAME.loaded);
    }
    expect((await a.next(FRAME.ready)).kind).toBe(FRAME.ready);
    expect((await a.next(FRAME.loaded)).kind).toBe(FRAME.loaded);
    await expect(a.next(FRAME.running)).rejects.toThrowError(/ECONNRESET\n.*connection is lost/);
    await expect(a.send(FRAME.go)).rejects.toThrowError(/ECONNRESET/);
  }
});

test('the unix socket is for its owner alone, and is gone with the first connection', async () => {
  const path = join(folder, 'socket');
  let mode = 0;
  const accepted = acceptAt(`unix:${path}`, () => {
    mode = statSync(path).mode & 0o777;
  });
  while (mode === 0) await new Promise(setImmediate);
  expect(mode).toBe(0o600);
  const here = await connectTo(`unix:${path}`, 1000);
  const there = await accepted;
  expect(existsSync(path)).toBe(false);
  await expect(connectTo(`unix:${path}`, 1000)).rejects.toThrowError(
    /connect on unix:.*: ENOENT\n.*--incoming/,
  );
  here.destroy();
  there.destroy();
});

test('nobody there, a port in use, and an abort are errors that say so', async () => {
  await expect(connectTo(`tcp:127.0.0.1:${await freePort()}`, 1000)).rejects.toThrowError(/ECONNREFUSED/);
  const server = createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const { port } = server.address() as AddressInfo;
  await expect(acceptAt(`tcp:127.0.0.1:${port}`)).rejects.toThrowError(
    /listen on tcp:127.0.0.1:.*EADDRINUSE/,
  );
  await new Promise((resolve) => server.close(resolve));
  const controller = new AbortController();
  const waiting = acceptAt(
    `unix:${join(folder, 'socket')}`,
    () => controller.abort(new Error('enough')),
    controller.signal,
  );
  await expect(waiting).rejects.toThrowError('enough');
  expect(existsSync(join(folder, 'socket'))).toBe(false);
});

test('what is no address is said before anything is opened', async () => {
  for (const [text, problem] of [
    ['tcp:host:4444', undefined],
    ['tcp:[::1]:4444', undefined],
    ['unix:/run/vm', undefined],
    ['unix:', /needs its path/],
    ['tcp:host', /neither unix:PATH nor tcp:HOST:PORT/],
    ['tcp:host:0', /neither/],
    ['tcp:host:65536', /neither/],
    ['host:4444', /neither/],
  ] as const) {
    const found = moveAddressProblem(text);
    if (problem === undefined) expect(found).toBeUndefined();
    else expect(found).toMatch(problem);
  }
  await expect(connectTo('nowhere', 1000)).rejects.toThrowError(/move on nowhere: EINVAL/);
});
