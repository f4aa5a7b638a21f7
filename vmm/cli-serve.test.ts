/** What `tsvisor serve` prints of its clients, by `--log-level`. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, expect, onTestFinished, test } from 'vitest';
import { DrawingGuest, pixelAt } from '../devices/vgpu/testing/drawing-guest.js';
import { userProvider } from '../vfio/user/client/provider.js';
import { noEvents } from '../vfio/user/testing/peer.js';
import { DeviceServer } from './device-server.js';
import { CLI, tsvisor } from './testing/machines.js';

const folder = mkdtempSync(join(tmpdir(), 'serve-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Serves a device to one client that leaves at once, and to one that sends no message of the protocol. */
async function printed(level: string): Promise<string> {
  const path = join(folder, level);
  // As --api and --serial write a socket.
  const args = ['serve', 'mtty-1', '--socket', `unix:${path}`, '--log-level', level];
  const child = spawn(process.execPath, [CLI, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  onTestFinished(() => void child.kill('SIGKILL'));
  const ended = once(child, 'exit');
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (piece) => (output += String(piece)));
  while (!existsSync(path)) await sleep(20);
  for (const bytes of ['', 'x'.repeat(64)]) {
    const client = createConnection(path);
    const closed = once(client, 'close');
    client
      .on('error', () => {})
      .end(bytes)
      .resume();
    await closed;
  }
  child.kill('SIGTERM');
  expect(await ended).toEqual([143, null]);
  return output;
}

test.each([
  ['error', [], [/./]],
  ['warn', [/^tsvisor: .*(was disconnected|is refused)/m], [/serves it at|has connected|trace/]],
  ['info', [/serves it at/, /has connected/, /was disconnected|is refused/], [/trace/]],
  ['debug', [/serves it at/, /has connected/, /^trace vfio /m], []],
] as const)(
  'at level %s, it prints what is that important',
  { timeout: 60_000 },
  async (level, has, lacks) => {
    const output = await printed(level);
    for (const line of has) expect(output).toMatch(line);
    for (const line of lacks) expect(output).not.toMatch(line);
  },
);

test('served devices that take events are told by their place once they are ready, and after the end', async () => {
  const path = (name: string) => join(folder, `input-${name}`);
  const server = DeviceServer.start({
    address: 'mtty-1',
    path: path('a'),
    beside: [
      { address: 'virtio-input', options: { type: 'tablet' }, path: path('b') },
      { address: 'virtio-input', path: path('c') },
    ],
  });
  const inputs = [
    { slot: 1, input: 'tablet' },
    { slot: 2, input: 'keyboard' },
  ];
  try {
    expect(await server.inputs()).toEqual(inputs);
    await expect(server.input([{ type: 1, code: 30, value: 1 }], 0)).rejects.toThrowError(/mtty-1: ENOTSUP/);
    await server.input([{ type: 1, code: 30, value: 1 }], 2);
  } finally {
    await server[Symbol.asyncDispose]();
  }
  expect(await server.inputs()).toEqual(inputs);
});

test('parts of one card, each with a socket and a client: both draw at once, and the page’s source shows both', async () => {
  const paths = ['one', 'two'].map((name) => join(folder, `part-${name}`));
  const [first = '', second = ''] = paths;
  const said: string[] = [];
  let isReady: () => void = () => {};
  const ready = new Promise<void>((resolve) => {
    isReady = resolve;
  });
  await using server = DeviceServer.start(
    {
      address: 'vgpu-half',
      path: first,
      beside: [{ address: 'vgpu-quarter', path: second }],
      vgpuCards: [{ name: 'card', memory: '64M' }],
    },
    { ready: (_text, path) => path === second && isReady(), told: (text) => said.push(text) },
  );
  await Promise.race([ready, server.finished]);
  const provider = userProvider(noEvents);
  const guests = paths.map((path) => {
    const device = provider.resolve(`vfio-user:${path}`, {});
    return { device, guest: new DrawingGuest(provider, device) };
  });
  for (let round = 0; round < 3; round++)
    for (const [i, { guest }] of guests.entries()) guest.draw(320, 200 + i, 2 * round + i);
  expect(await server.displays()).toEqual([
    { slot: 0, name: 'vgpu-half', largest: { width: 2560, height: 1440 } },
    { slot: 1, name: 'vgpu-quarter', largest: { width: 1920, height: 1080 } },
  ]);
  const check = async () => {
    for (const [i] of guests.entries()) {
      const { plane, pixels } = await server.capture(i);
      const shown = new Uint32Array(pixels.slice().buffer);
      expect([plane.height, shown.every((pixel, at) => pixel === pixelAt(at, 4 + i))]).toEqual([
        200 + i,
        true,
      ]);
    }
  };
  await check();
  await expect(server.capture(2)).rejects.toThrowError(/device 2: ENODEV\n.*0 vgpu-half, 1 vgpu-quarter/);
  await expect(server.inject('removed', 1)).rejects.toThrowError(/vgpu-quarter.*ENOTSUP/);
  guests[1]?.guest.reset(); // as tsvisor's client and others do at their end
  for (const { device, guest } of guests) {
    guest[Symbol.dispose]();
    device[Symbol.dispose]();
  }
  while (said.filter((text) => text.includes('has disconnected')).length < 2) await sleep(10);
  await check(); // the last pictures of both
  expect(
    said.every((text) =>
      paths.some((path) => text.startsWith(`${path}: the client`) || text.startsWith(`${path}: a client`)),
    ),
  ).toBe(true);
});

test('a pool that is short for the parts that are to be served is told, and no socket is left', () => {
  const paths = ['a', 'b', 'c'].map((name) => join(folder, `short-${name}`));
  const sockets = paths.flatMap((path) => ['--socket', path]);
  const { status, stderr } = tsvisor(['serve', 'vgpu-half', 'vgpu-half', 'vgpu-quarter', ...sockets]);
  expect(stderr).toMatch(/vgpu-quarter.*: ENOSPC\n.*are left/);
  expect(status).toBe(69);
  expect(paths.filter((path) => existsSync(path))).toEqual([]);
});
