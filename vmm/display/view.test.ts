import { get } from 'node:http';
import { afterEach, expect, test } from 'vitest';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { InputEvent } from '../../vfio/driver.js';
import { FakeControlledMachine } from '../testing/controlled-machine.js';
import type { ScreenSize } from './screen-size.js';
import { Canvas, FakeMachine, PageModel } from './testing/page.js';
import { View } from './view.js';

const views: View[] = [];
afterEach(async () => {
  for (const view of views.splice(0)) await view[Symbol.asyncDispose]();
});

async function serve(picture: Canvas | Error): Promise<{ machine: FakeMachine; view: View }> {
  const machine = new FakeMachine(picture);
  const view = await View.start(machine, { port: 0 });
  views.push(view);
  return { machine, view };
}

/** fetch() does not allow setting these headers. */
function request(url: string, headers: Record<string, string> = {}, method = 'GET') {
  return new Promise<{ status: number; headers: Record<string, unknown>; body: Buffer }>(
    (resolve, reject) => {
      const sent = get(url, { headers, method, agent: false }, (response) => {
        const pieces: Buffer[] = [];
        response.on('data', (piece: Buffer) => pieces.push(piece));
        response.on('end', () =>
          resolve({
            status: response.statusCode ?? 0,
            headers: response.headers,
            body: Buffer.concat(pieces),
          }),
        );
      });
      sent.on('error', reject);
    },
  );
}

/** Quicker than toEqual, which takes each byte by itself. */
const expectSame = (rgba: Uint8Array | undefined, canvas: Canvas) =>
  expect(Buffer.compare(rgba ?? new Uint8Array(), canvas.rgba)).toBe(0);

const frame = (view: View, client = 'client01') => `${view.url}frame?client=${client}`;
async function take(page: PageModel, view: View, client?: string): Promise<PageModel> {
  const { status, body } = await request(frame(view, client));
  expect(status).toBe(200);
  page.take(body);
  return page;
}

/** Takes messages until one has no pixels: it waited a second for a change. */
async function settle(page: PageModel, view: View, client?: string): Promise<void> {
  do await take(page, view, client);
  while (page.pixels > 0);
}

test('each page gets the picture and then its changes, at its own pace', async () => {
  const canvas = new Canvas(320, 200);
  const { view } = await serve(canvas);
  const [first, second] = [new PageModel(), new PageModel()];
  await take(first, view);
  expect(first.pixels).toBe(320 * 200);
  canvas.fill(0x123456, 10, 20, 30, 40);
  await take(first, view);
  expectSame(first.only.rgba, canvas);
  expect(first.pixels).toBeLessThan(320 * 200);
  await take(second, view, 'client02');
  expect(second.pixels).toBe(320 * 200);
  expectSame(second.only.rgba, canvas);
  const waiting = take(first, view); // waits until something changes
  setTimeout(() => canvas.fill(0xffffff), 40);
  expect((await waiting).pixels).toBeGreaterThan(0);
  await settle(first, view);
  expectSame(first.only.rgba, canvas);
});

test('a change tells since when it was not drawn yet; a picture that may be old does not', async () => {
  const canvas = new Canvas(64, 32);
  const { view } = await serve(canvas);
  const page = new PageModel();
  const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
  const bound = async (): Promise<number | undefined> => (await take(page, view)).only.drawnBeforeMs;
  expect(await bound()).toBeUndefined();
  let colour = 0;
  /** Draws, and asks before or after. Again if this process was held up meanwhile: after a second the last look tells nothing. */
  const check = async (isDrawnFirst: boolean): Promise<void> => {
    let [told, least]: (number | undefined)[] = [];
    while (told === undefined || least === undefined) {
      const asked = isDrawnFirst ? undefined : bound();
      const askedAt = performance.now();
      await pause(50);
      canvas.fill(++colour);
      const drawnAt = performance.now();
      await pause(50);
      least = (asked === undefined ? performance.now() : askedAt) - drawnAt;
      told = await (asked ?? bound());
    }
    expect(told).toBeGreaterThanOrEqual(Math.floor(least));
  };
  for (let i = 0; i < 3; i++) {
    await check(true);
    await check(false);
  }
  canvas.fill(++colour);
  await pause(1100); // nobody looks
  expect(await bound()).toBeUndefined();
});

test('all displays are shown in slot order, or the one asked for; each that comes, goes or changes is followed', async () => {
  const { view, machine } = await serve(new Canvas(64, 32));
  const other = new Canvas(100, 70);
  machine.pictures.set(5, other);
  const page = await take(new PageModel(), view);
  expect([...page.displays].map(([slot, { name }]) => [slot, name])).toEqual([
    [3, '00:03.0 card'],
    [5, '00:05.0 card'],
  ]);
  expectSame(page.displays.get(5)?.rgba, other);
  other.fill(0xff8800, 0, 0, 10, 10);
  await settle(page, view);
  expectSame(page.displays.get(5)?.rgba, other);
  machine.pictures.delete(5);
  await expect.poll(async () => (await take(page, view)).displays.size, { timeout: 20_000 }).toBe(1);
  const another = new Canvas(100, 70);
  another.fill(0x00ff00);
  machine.pictures.set(5, another); // another device in the same slot
  await expect.poll(async () => (await take(page, view)).displays.size, { timeout: 20_000 }).toBe(2);
  await settle(page, view);
  expectSame(page.displays.get(5)?.rgba, another);
  const single = await View.start(machine, { port: 0, slot: 5 });
  views.push(single);
  const [name] = [...(await take(new PageModel(), single)).displays.values()].map((each) => each.name);
  expect(name).toBe('00:05.0 card');
});

test('a page gets the reason while nothing is shown, and the whole picture once there is one again', async () => {
  const off = new SysError({ call: 'QUERY', target: 'card', errno: errno.ENODATA });
  const { view, machine } = await serve(off);
  const page = await take(new PageModel(), view);
  expect(page.only.text).toBe('The guest shows nothing now');
  machine.picture = new SysError({ call: 'QUERY', target: 'card', errno: errno.ENODEV, hint: 'no display' });
  await take(page, view);
  expect(page.only.text).toMatch(/card: ENODEV\n.*no display/);
  page.only.text = 'not sent again';
  await take(page, view);
  expect(page.only.text).toBe('not sent again');
  machine.picture = new Canvas(64, 32);
  await take(page, view);
  expect([page.pixels, page.only.text]).toEqual([64 * 32, '']);
});

test('an open page gets the last picture and then the end, before the server closes', async () => {
  const canvas = new Canvas(64, 32);
  const { view, machine } = await serve(canvas);
  const page = new PageModel();
  await take(page, view);
  canvas.fill(0x00ff00);
  machine.end();
  await machine.finished;
  const closing = view[Symbol.asyncDispose]();
  await take(page, view);
  expect([page.ended, page.only.rgba]).toEqual([undefined, canvas.rgba]);
  await take(page, view);
  expect([page.ended, page.only.rgba]).toEqual(['The guest has ended', canvas.rgba]);
  expect((await request(`${view.url}done?client=client01`)).status).toBe(204);
  await closing;
  await expect(request(frame(view))).rejects.toThrowError(/ECONNREFUSED/);
});

test('another site reads nothing: neither through its own name for this address nor from its scripts', async () => {
  const { view } = await serve(new Canvas(64, 32));
  const { port } = new URL(view.url);
  for (const host of ['evil.example', `evil.example:${port}`, '127.0.0.1', '127.0.0.1:1'])
    for (const url of [view.url, frame(view)]) expect((await request(url, { host })).status).toBe(403);
  expect((await request(view.url, { host: `localhost:${port}` })).status).toBe(200);
  for (const site of ['cross-site', 'same-site', 'none'])
    expect((await request(frame(view), { 'sec-fetch-site': site })).status).toBe(403);
  const { headers } = await request(frame(view), { 'sec-fetch-site': 'same-origin' });
  expect(headers['cross-origin-resource-policy']).toBe('same-origin');
  expect(headers['access-control-allow-origin']).toBeUndefined();
  for (const file of ['', 'page.css']) {
    const policy = String((await request(`${view.url}${file}`)).headers['content-security-policy']);
    expect(policy).toMatch(/^default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';/);
    expect(policy).not.toMatch(/unsafe|http|\*/);
  }
});

test('without its token nothing is served: not the page, not a picture, and no other answer than 403', async () => {
  const { view, machine } = await serve(new Canvas(64, 32));
  const { origin, pathname } = new URL(view.url);
  const token = pathname.slice(1, -1);
  expect(token).toMatch(/^[\w-]{32}$/);
  const other = (token.startsWith('A') ? 'B' : 'A') + token.slice(1);
  const looks = machine.looks;
  for (const wrong of ['', 'x', other, token.slice(1), `${token}x`, token.toUpperCase() + token, '%00', '..'])
    for (const path of ['', 'frame?client=client01', 'other'])
      for (const method of ['GET', 'POST', 'OPTIONS']) {
        const reply = await request(`${origin}/${wrong}/${path}`, {}, method);
        expect([wrong, reply.status]).toEqual([wrong, 403]);
        expect(reply.body.toString()).not.toContain(token);
      }
  for (const path of [
    '',
    '/',
    '/frame?client=client01',
    `/frame?client=client01&token=${token}`,
    `/${token}`,
  ])
    expect((await request(`${origin}${path}`)).status).toBe(403);
  expect(machine.looks).toBe(looks);
  expect((await request(view.url)).status).toBe(200);
  const second = await serve(new Canvas(64, 32));
  expect(new URL(second.view.url).pathname).not.toBe(pathname);
  expect((await request(`${new URL(second.view.url).origin}${pathname}`)).status).toBe(403);
});

test('a request to upgrade the connection is not answered with one, whatever its token', async () => {
  const { view } = await serve(new Canvas(64, 32));
  const upgrade = { connection: 'Upgrade', upgrade: 'websocket', 'sec-websocket-version': '13' };
  expect((await request(new URL(view.url).origin, upgrade)).status).toBe(403);
  expect((await request(`${view.url}frame`, upgrade)).status).toBe(400);
});

/** A machine with a picture, whose calls are recorded. */
async function serveMachine() {
  const machine = new FakeControlledMachine();
  const { displays, capture } = pictures(new Canvas(64, 32));
  const view = await View.start(Object.assign(machine, { displays, capture }), { port: 0 });
  views.push(view);
  return { view, machine };
}

function pictures(canvas: Canvas) {
  const fake = new FakeMachine(canvas);
  return {
    displays: () => fake.displays(),
    capture: (slot?: number, into?: Uint8Array) => fake.capture(slot, into),
  };
}

/** Calls the API as the page does, or with other headers. */
async function api(url: string, method: string, body?: string, headers: Record<string, string> = {}) {
  const type = body === undefined ? {} : { 'Content-Type': 'application/json' };
  const reply = await fetch(url, { method, headers: { ...type, ...headers }, ...(body && { body }) });
  return { status: reply.status, text: await reply.text() };
}

test('below its page, a machine has its API; a served device has none', async () => {
  const { view, machine } = await serveMachine();
  const url = (path: string) => `${view.url}v1/${path}`;
  expect(JSON.parse((await api(url('info'), 'GET')).text)).toMatchObject({ state: 'running' });
  expect((await api(url('stop'), 'PUT')).status).toBe(204);
  const device = '{"address":"mtty-1","options":{"port0":"pty"}}';
  expect(await api(url('devices'), 'POST', device)).toEqual({ status: 201, text: '{"slots":[3]}' });
  machine.failure = new SysError({ call: 'detach', target: 'slot 3', errno: errno.EBUSY });
  const refused = await api(url('devices/3?force=true'), 'DELETE');
  expect(refused).toMatchObject({ status: 409, text: expect.stringContaining('EBUSY') });
  expect(machine.calls).toEqual([
    'stop the page',
    'attach [["mtty-1",{"port0":"pty"}]]',
    'detach 3 {"force":true}',
  ]);
  expect((await api(url('nothing'), 'GET')).status).toBe(404);
  const { view: served } = await serve(new Canvas(64, 32));
  expect((await api(`${served.url}v1/info`, 'GET')).status).toBe(204);
  expect((await api(`${served.url}v1/stop`, 'PUT')).status).toBe(405);
  expect((await api(`${served.url}v1/counters`, 'GET')).status).toBe(404);
});

test('below its page, served devices take events and sizes, and nothing else', async () => {
  const calls: string[] = [];
  const server = Object.assign(new FakeMachine(new Canvas(64, 32)), {
    inputs: async () => [{ slot: 0, input: 'keyboard' }] as const,
    input: async (events: readonly InputEvent[], slot: number) =>
      void calls.push(`input ${slot} ${JSON.stringify(events)}`),
    resize: async ({ width, height }: ScreenSize, head = 0, slot = 0) => {
      if (slot === 9) throw new SysError({ call: 'resize', target: 'device 9', errno: errno.ENODEV });
      calls.push(`resize ${slot} ${width}x${height} ${head}`);
    },
  });
  const view = await View.start(server, { port: 0 });
  views.push(view);
  const url = (path: string) => `${view.url}v1/${path}`;
  expect((await api(url('info'), 'GET')).status).toBe(204);
  expect(JSON.parse((await api(url('inputs'), 'GET')).text)).toEqual(await server.inputs());
  const events = '{"events":[{"type":1,"code":30,"value":1}]}';
  expect((await api(url('devices/0/input'), 'PUT', events)).status).toBe(204);
  expect((await api(url('devices/1/size'), 'PUT', '{"width":800,"height":600,"head":2}')).status).toBe(204);
  expect(calls).toEqual(['input 0 [{"type":1,"code":30,"value":1}]', 'resize 1 800x600 2']);
  expect((await api(url('devices/9/size'), 'PUT', '{"width":800,"height":600}')).status).toBe(404);
  for (const [path, body, status] of [
    ['devices/0/input', '{"events":[]}', 400],
    ['devices/0/input', '{"events":', 400],
    ['devices/x/input', events, 400],
    ['devices/0/size', '{"width":0,"height":1}', 400],
    ['stop', '{}', 404],
    ['devices/0/faults', '{"faults":"removed"}', 404],
  ] as const)
    expect((await api(url(path), 'PUT', body)).status, path).toBe(status);
  expect((await api(url('devices/0/input'), 'PUT', events, { 'Content-Type': 'text/plain' })).status).toBe(
    204,
  );
  const { origin } = new URL(view.url);
  expect((await api(`${origin}/x/v1/devices/0/input`, 'PUT', events)).status).toBe(403);
  const foreign = await request(url('inputs'), { 'sec-fetch-site': 'cross-site' });
  expect(foreign.status).toBe(403);
  expect(calls).toHaveLength(3);
});

test('a foreign call, and one without the token, changes and tells nothing', async () => {
  const { view, machine } = await serveMachine();
  const { origin } = new URL(view.url);
  const device = '{"address":"mtty-1"}';
  const url = `${view.url}v1/devices`;
  expect((await api(url, 'POST', device, { 'Content-Type': 'text/plain' })).status).toBe(403);
  for (const site of ['cross-site', 'same-site', 'none'])
    for (const [path, method] of [
      ['info', 'GET'],
      ['stop', 'PUT'],
      ['devices/3', 'DELETE'],
    ] as const) {
      const reply = await request(`${view.url}v1/${path}`, { 'sec-fetch-site': site }, method);
      expect([reply.status, reply.body.toString()]).toEqual([403, 'not from another site']);
    }
  for (const base of [origin, `${origin}/x`]) {
    expect((await api(`${base}/v1/stop`, 'PUT')).status).toBe(403);
    expect((await api(`${base}/v1/info`, 'GET')).status).toBe(403);
  }
  expect(machine.calls).toEqual([]);
  const { headers } = await request(`${view.url}v1/info`);
  expect(headers['cross-origin-resource-policy']).toBe('same-origin');
});

test('responses are not cached, and only GET of the known paths is answered', async () => {
  const { view } = await serve(new Canvas(64, 32));
  for (const url of [view.url, frame(view), `${view.url}other`])
    expect((await request(url)).headers['cache-control']).toBe('no-store');
  expect((await request(`${view.url}other`)).status).toBe(404);
  expect((await request(`${view.url}..%2fpackage.json`)).status).toBe(404);
  expect((await request(`${view.url}../package.json`)).status).toBe(403);
  for (const [method, status] of [
    ['POST', 403],
    ['HEAD', 405],
    ['OPTIONS', 405],
  ] as const)
    expect((await request(view.url, {}, method)).status).toBe(status);
  for (const client of ['', 'short', 'with%20space', 'x'.repeat(65)])
    expect((await request(frame(view, client))).status).toBe(400);
});

test('the number of pages is limited, and a page has one request at a time', async () => {
  const { view } = await serve(new Canvas(64, 32));
  for (let i = 0; i < 8; i++) await take(new PageModel(), view, `page000${i}`);
  expect((await request(frame(view, 'page0008'))).status).toBe(503);
  const [one, other] = await Promise.all([
    request(frame(view, 'page0000')),
    request(frame(view, 'page0000')),
  ]);
  expect([one.status, other.status].sort()).toEqual([200, 409]);
});

test('a port in use is reported with a remedy', async () => {
  const { view, machine } = await serve(new Canvas(64, 32));
  const port = Number(new URL(view.url).port);
  await expect(View.start(machine, { port })).rejects.toThrowError(
    /listen on 127\.0\.0\.1:\d+: EADDRINUSE\n.*another port/,
  );
});
