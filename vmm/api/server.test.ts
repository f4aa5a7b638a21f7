import { linkSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { UnixListener } from '../../sys/unix-socket.js';
import type { FakeControlledMachine } from '../testing/controlled-machine.js';
import { ServedApi } from '../testing/served-api.js';
import { MOST_TYPING } from './console-input.js';
import { MOST_BODY_BYTES } from './dispatcher.js';
import { createOpenApi } from './openapi.js';
import { createRoutes } from './routes.js';
import * as schemas from './schemas.js';
import { ApiServer, MOST_CONNECTIONS } from './server.js';

let api: ServedApi;
let folder = '';
let path = '';
let machine: FakeControlledMachine;
let server: ApiServer;
beforeEach(async () => {
  api = await ServedApi.start();
  ({ folder, path, machine, server } = api);
});
afterEach(() => api[Symbol.asyncDispose]());

interface Reply {
  readonly status: number;
  readonly text: string;
  readonly json: { readonly error: { readonly message: string; readonly problems?: unknown } };
}

function call(method: string, target: string, body?: string): Promise<Reply> {
  return new Promise((resolve, reject) => {
    const sent = httpRequest({ socketPath: path, method, path: target, agent: false }, (response) => {
      const pieces: Buffer[] = [];
      response.on('data', (piece: Buffer) => pieces.push(piece));
      response.on('end', () => {
        const text = Buffer.concat(pieces).toString('latin1');
        const isJson = response.headers['content-type'] === 'application/json';
        resolve({ status: response.statusCode ?? 0, text, json: isJson ? JSON.parse(text) : undefined });
      });
    });
    sent.on('error', reject);
    sent.end(body);
  });
}

/** What a raw connection answers until it is closed. */
function raw(bytes: string): Promise<string> {
  return new Promise((resolve) => {
    let text = '';
    const socket: Socket = connect(path);
    socket.on('data', (piece: Buffer) => {
      text += piece.toString('latin1');
    });
    socket.on('error', () => {});
    socket.on('close', () => resolve(text));
    socket.write(bytes);
  });
}

describe('the API', () => {
  test('answers with what its schemas say', async () => {
    const info = await call('GET', '/v1/info');
    expect(info.status).toBe(200);
    const parsed = schemas.infoSchema.parse(info.json);
    expect(parsed).toMatchObject({ version: '1.2.3', state: 'running', config: { memory: 64 << 20 } });
    expect(schemas.countersSchema.parse((await call('GET', '/v1/counters')).json).exits).toEqual({ io: 3 });
    expect((await call('GET', '/v1/screenshot?slot=5')).text).toBe('\x01\x02\x03');
    await call('GET', '/v1/screenshot?slot=5&head=1');
    expect(machine.calls).toEqual(['screenshot 5', 'screenshot 5 1']);
    expect((await call('GET', '/v1/screenshot?head=16')).status).toBe(400);
  });

  test('passes each action on, once', async () => {
    for (const action of ['pause', 'resume', 'reset', 'power-button', 'stop'])
      expect((await call('PUT', `/v1/${action}`)).status).toBe(204);
    expect(machine.calls).toEqual(['pause', 'resume', 'reset', 'power-button', 'stop API']);
  });

  test('gives the timeline from an event on', async () => {
    const events = [1, 2, 3].map((seq) => ({
      ...{ at: seq, what: 'map_dma', seq, cause: 0, task: '', details: { iova: 4096n } },
    }));
    machine.record = { events, dropped: 7 };
    const read = async (query: string) =>
      schemas.timelineSchema.parse((await call('GET', `/v1/timeline${query}`)).json);
    const all = await read('');
    expect(all.events.map(({ seq, details }) => [seq, details])).toEqual(
      [1, 2, 3].map((seq) => [seq, { iova: '0x1000' }]),
    );
    expect(await read('?from=2')).toEqual({ events: all.events.slice(2), dropped: 7 });
    expect((await read('?from=4')).events).toEqual([]);
  });

  test('gives a device faults, and refuses what is no text', async () => {
    const put = (body: object) => call('PUT', '/v1/devices/3/faults', JSON.stringify(body));
    expect((await put({ faults: 'removed' })).status).toBe(204);
    expect((await put({ faults: 'slow', function: 1 })).status).toBe(204);
    expect(machine.calls).toEqual(['inject 3 removed 0', 'inject 3 slow 1']);
    for (const body of [
      {},
      { faults: '' },
      { faults: 3 },
      { faults: 'removed', slot: 4 },
      { faults: 'slow', function: 8 },
    ])
      expect((await put(body)).status).toBe(400);
    expect(machine.calls).toHaveLength(2);
  });

  test('gives a screen another size, and refuses what no screen can have', async () => {
    const put = (body: object) => call('PUT', '/v1/devices/3/size', JSON.stringify(body));
    expect((await put({ width: 1280, height: 720 })).status).toBe(204);
    expect((await put({ width: 800, height: 600, head: 1 })).status).toBe(204);
    expect(machine.calls).toEqual(['resize 3 1280x720 0', 'resize 3 800x600 1']);
    for (const body of [
      {},
      { width: 800 },
      { width: 0, height: 600 },
      { width: 4096, height: 600 },
      { width: 800.5, height: 600 },
      { width: 800, height: 600, head: 16 },
      { width: 800, height: 600, slot: 4 },
    ])
      expect((await put(body)).status).toBe(400);
    expect(machine.calls).toHaveLength(2);
  });

  test('sends a keyboard events, and refuses what is no packet', async () => {
    const put = (body: object) => call('PUT', '/v1/devices/3/input', JSON.stringify(body));
    const event = { type: 1, code: 30, value: 1 };
    expect((await put({ events: [event] })).status).toBe(204);
    expect((await put({ events: [event, { type: 3, code: 0, value: -1 }], function: 1 })).status).toBe(204);
    expect(machine.calls).toEqual(['input 3 1:30:1 0', 'input 3 1:30:1,3:0:-1 1']);
    for (const body of [
      {},
      { events: [] },
      { events: Array(33).fill(event) },
      { events: [{ ...event, code: 65_536 }] },
      { events: [{ ...event, value: 0.5 }] },
      { events: [{ ...event, time: 1 }] },
      { events: [event], function: 8 },
    ])
      expect((await put(body)).status).toBe(400);
    expect(machine.calls).toHaveLength(2);
  });

  test('saves a machine to an absolute path, and refuses another one', async () => {
    const post = (body: object) => call('POST', '/v1/snapshot', JSON.stringify(body));
    const saved = await post({ folder: '/tmp/saved' });
    expect([saved.status, schemas.savedSchema.parse(saved.json).folder]).toEqual([200, '/tmp/saved']);
    const unplugging = { detachUnmigratable: true, timeoutMs: 500 };
    expect((await post({ folder: '/tmp/saved', ...unplugging })).status).toBe(200);
    expect(machine.calls).toEqual([
      'snapshot /tmp/saved',
      `snapshot /tmp/saved ${JSON.stringify(unplugging)}`,
    ]);
    for (const body of [{}, { folder: '' }, { folder: 'saved' }, { folder: '/tmp/saved', force: true }])
      expect((await post(body)).status).toBe(400);
    expect(machine.calls).toHaveLength(2);
  });

  test('moves a machine, and refuses what is no address to move to', async () => {
    const post = (body: object) => call('POST', '/v1/move', JSON.stringify(body));
    const moved = await post({ address: 'unix:/tmp/there', downtimeMs: 50 });
    expect([moved.status, schemas.movedSchema.parse(moved.json).rounds]).toEqual([200, 3]);
    expect(machine.calls).toEqual(['move unix:/tmp/there {"downtimeMs":50}']);
    for (const body of [{}, { address: '' }, { address: 'tcp:a:1', downtimeMs: -1 }])
      expect((await post(body)).status).toBe(400);
  });

  test('attaches one device or several, and detaches by slot', async () => {
    const one = await call('POST', '/v1/devices', JSON.stringify({ address: 'mtty-1' }));
    expect([one.status, one.json]).toEqual([201, { slots: [3] }]);
    const two = await call(
      'POST',
      '/v1/devices',
      JSON.stringify([{ address: 'mtty-1' }, { address: 'vgpu-small' }]),
    );
    expect(two.json).toEqual({ slots: [3, 4] });
    expect((await call('DELETE', '/v1/devices/3?force=true&timeoutMs=50')).status).toBe(204);
    expect(machine.calls.at(-1)).toBe('detach 3 {"force":true,"timeoutMs":50}');
  });

  test('returns an error with its errno, its hint and a fitting status', async () => {
    const failing: readonly (readonly [number, number])[] = [
      [errno.EBUSY, 409],
      [errno.ENODEV, 404],
      [errno.ETIMEDOUT, 504],
      [errno.ESRCH, 410],
      [errno.EIO, 500],
    ];
    for (const [code, status] of failing) {
      machine.failure = new SysError({ call: 'pause', target: 'the machine', errno: code, hint: 'do that' });
      const { status: answered, json } = await call('PUT', '/v1/pause');
      expect(answered).toBe(status);
      expect(json.error).toMatchObject({ code: (machine.failure as SysError).code, hint: 'do that' });
    }
  });

  test.each([
    ['GET', '/v1/nothing', undefined, 404, /there is no \/v1\/nothing/],
    ['GET', '/', undefined, 404, /openapi\.json/],
    ['DELETE', '/v1/info', undefined, 405, /takes GET/],
    ['GET', '/v1/timeline?from=x', undefined, 400, /from.*is not a whole number/s],
    ['POST', '/v1/console', 'x'.repeat(MOST_BODY_BYTES + 1), 413, /bytes at most/],
    ['GET', '/v1/info?slot=3', undefined, 400, /there is no slot/],
    ['GET', '/v1/console?from=-1', undefined, 400, /from.*is not a whole number/s],
    ['GET', '/v1/console?from=1&from=2', undefined, 400, /given twice/],
    ['DELETE', '/v1/devices/99', undefined, 400, /99 is too large: 31 is the most/],
    ['DELETE', '/v1/devices/x', undefined, 400, /is not a whole number/],
    ['DELETE', '/v1/devices/3?force=maybe', undefined, 400, /'maybe' is not one of true, false/],
    ['POST', '/v1/devices', '{', 400, /is not JSON/],
    ['POST', '/v1/devices', '', 400, /is not JSON/],
    ['POST', '/v1/devices', '{"address":7}', 400, /7 is not a text/],
    ['POST', '/v1/devices', '{"address":"x","colour":"red"}', 400, /there is no colour/],
    ['POST', '/v1/devices', 'null', 400, /null is not an object/],
    ['POST', '/v1/devices', 'x'.repeat(MOST_BODY_BYTES + 1), 413, /bytes at most/],
    ['PUT', '/v1/pause', 'x'.repeat(MOST_BODY_BYTES + 1), 413, /bytes at most/],
  ])('refuses %s %s with the reason (%#)', async (method, target, body, status, reason) => {
    const answer = await call(method, target, body);
    expect(answer.status).toBe(status);
    expect(answer.text).toMatch(reason);
    expect(machine.calls).toEqual([]);
  });
});

describe('a hostile client', () => {
  test('that sends garbage is closed, and the next one is served', async () => {
    for (const garbage of ['\0\0\0\0\r\n\r\n', 'GET\r\n\r\n', `GET /${'a'.repeat(20_000)} HTTP/1.1\r\n\r\n`])
      expect(await raw(garbage)).toMatch(/^HTTP\/1\.1 4/);
    expect((await call('GET', '/v1/info')).status).toBe(200);
  });

  test('that closes in the middle of a request does no harm', async () => {
    for (const part of [
      'POST /v1/devices HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"a',
      'GET /v1/con',
    ]) {
      const socket = connect(path);
      socket.on('error', () => {});
      socket.resume();
      socket.end(part);
      await new Promise((resolve) => socket.once('close', resolve));
    }
    expect((await call('GET', '/v1/info')).status).toBe(200);
    expect(machine.calls).toEqual([]);
  });

  test('that never finishes its headers is closed', { timeout: 60_000 }, async () => {
    expect(await raw('GET /v1/info HTTP/1.1\r\nX: y')).toMatch(/408/);
  });

  test('with 1000 connections gets as many as are allowed, and frees them for others', {
    timeout: 180_000,
  }, async () => {
    const sockets = Array.from({ length: 1000 }, () => connect(path).on('error', () => {}));
    const ends = sockets.map((socket) => new Promise((resolve) => socket.once('close', resolve)));
    let closed = 0;
    for (const end of ends) void end.then(() => closed++);
    // All but those that are allowed are closed by the server; the kernel refuses some itself.
    while (closed < 1000 - MOST_CONNECTIONS) await new Promise((resolve) => setTimeout(resolve, 10));
    expect(closed).toBe(1000 - MOST_CONNECTIONS);
    for (const socket of sockets) socket.destroy();
    await Promise.all(ends);
    expect((await call('GET', '/v1/info')).status).toBe(200);
  });

  test('that follows the console and does not read gets no more than the ring, and keeps nobody waiting', async () => {
    const socket = connect(path).on('error', () => {});
    socket.write('GET /v1/console?follow=true HTTP/1.1\r\nHost: x\r\n\r\n');
    await new Promise((resolve) => socket.once('readable', resolve));
    for (let i = 0; i < 1000; i++) machine.console.write(new Uint8Array(64 << 10));
    expect((await call('GET', '/v1/info')).status).toBe(200);
    const closed = new Promise((resolve) => socket.once('close', resolve));
    socket.destroy();
    await closed;
  });
});

describe('the console', () => {
  test('is returned from the byte on that is asked for', async () => {
    machine.console.write(Buffer.from('hello, world'));
    expect((await call('GET', '/v1/console')).text).toBe('hello, world');
    expect((await call('GET', '/v1/console?from=7')).text).toBe('world');
  });

  test('is followed until the machine ends', async () => {
    machine.console.write(Buffer.from('before '));
    const following = call('GET', '/v1/console?follow=true');
    await call('GET', '/v1/info');
    machine.console.write(Buffer.from('after'));
    machine.end();
    expect((await following).text).toBe('before after');
    expect((await call('GET', '/v1/console?follow=true')).text).toBe('before after');
  });
});

describe('typing', () => {
  const type = (text: string) => call('POST', '/v1/console', text);

  test('is answered once the port has taken it, in the order of the requests', async () => {
    machine.room = 3;
    const first = type('first ');
    await call('GET', '/v1/info');
    const second = type('second');
    expect((await call('GET', '/v1/info')).status).toBe(200);
    expect(machine.typed).toBe('');
    machine.takeTyped(100);
    expect([(await first).status, (await second).status]).toEqual([204, 204]);
    expect(machine.typed).toBe('first second');
  });

  test('of a client that goes away is dropped, and the next one types', async () => {
    machine.room = 0;
    const text = 'x'.repeat(20_000);
    const head = `POST /v1/console HTTP/1.1\r\nHost: x\r\nContent-Length: ${text.length}\r\n\r\n`;
    for (let i = 0; i < 3 * MOST_TYPING; i++) {
      const socket = connect(path).on('error', () => {});
      socket.write(head + text);
      await call('GET', '/v1/info');
      const closed = new Promise((resolve) => socket.once('close', resolve));
      socket.destroy();
      await closed;
    }
    const next = type('y');
    await call('GET', '/v1/info');
    machine.takeTyped(1 << 20);
    expect((await next).status).toBe(204);
    // At most the piece that the port had.
    expect(machine.typed).toMatch(/^x{0,4096}y$/);
  });

  test('of too many at once is refused, and ends with the machine', async () => {
    machine.room = 0;
    const waiting = Array.from({ length: MOST_TYPING }, () => type('z'));
    await call('GET', '/v1/info');
    const late = await type('z');
    expect([late.status, late.json.error.message]).toEqual([503, expect.stringMatching(/read COM1/)]);
    machine.end();
    machine.takeTyped(0);
    expect((await Promise.all(waiting)).map(({ status }) => status)).toEqual(
      Array.from({ length: MOST_TYPING }, () => 410),
    );
    expect(machine.typed).toBe('');
  });

  test('at a port with another end is refused with the reason', async () => {
    machine.failure = new RangeError('serial port 0 is connected to pty');
    expect(await type('x')).toMatchObject({
      status: 409,
      json: { error: { message: 'serial port 0 is connected to pty' } },
    });
  });
});

describe('the socket', () => {
  test("is its owner's alone, and is removed at the end", async () => {
    expect(statSync(path).mode & 0o777).toBe(0o600);
    await server[Symbol.asyncDispose]();
    expect(() => statSync(path)).toThrowError(/ENOENT/);
  });

  test('of a server that runs is not taken, and that of a dead one is', async () => {
    await expect(ApiServer.start(machine, path, '1')).rejects.toMatchObject({ code: 'EADDRINUSE' });
    expect((await call('GET', '/v1/info')).status).toBe(200);
    const stale = join(folder, 'stale');
    const listener = UnixListener.listen(join(folder, 'killed'));
    linkSync(listener.path, stale); // as a process that was killed leaves it
    listener[Symbol.dispose]();
    await using other = await ApiServer.start(machine, stale, '1');
    expect(statSync(other.path).mode & 0o777).toBe(0o600);
  });

  test('does not replace a file', async () => {
    const file = join(folder, 'file');
    writeFileSync(file, 'x');
    await expect(ApiServer.start(machine, file, '1')).rejects.toMatchObject({ code: 'EADDRINUSE' });
    expect(readFileSync(file, 'utf8')).toBe('x');
  });
});

test('docs/openapi.json describes this API: npm run openapi', () => {
  const root = fileURLToPath(new URL('../../', import.meta.url));
  const { version } = JSON.parse(readFileSync(`${root}package.json`, 'utf8')) as { version: string };
  const document = createOpenApi(createRoutes({ version, by: 'API' }), version);
  const file = `${root}docs/openapi.json`;
  if (process.env.TSVISOR_UPDATE_OPENAPI !== undefined)
    writeFileSync(file, `${JSON.stringify(document, undefined, 2)}\n`);
  expect(JSON.parse(readFileSync(file, 'utf8'))).toEqual(document);
});
