/** Drives a machine by a client that is generated from docs/openapi.json. The argument is the package's folder. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import createClient from 'openapi-fetch';
import { Request } from 'undici';
import { CheckedFetch, type OpenApi } from './checked-fetch.js';
import type { components, paths } from './schema.js';

const [tsvisor = ''] = process.argv.slice(2);
const folder = mkdtempSync(join(tmpdir(), 'tsvisor-client-'));
const socketPath = join(folder, 'sock');
const document = JSON.parse(readFileSync(join(tsvisor, 'docs/openapi.json'), 'utf8')) as OpenApi;
const devices = ['--device', 'virtio-net,net=responder', '--device', 'vgpu-small'];
const machine = spawn(
  process.execPath,
  [
    ...[join(tsvisor, 'dist/vmm/cli.js'), 'run', '--quiet', '--api', `unix:${socketPath}`],
    ...[...devices, '--append', 'frames=100000'],
  ],
  { stdio: ['ignore', 'ignore', 'inherit'] },
);
const ended = once(machine, 'exit');
process.once('exit', () => {
  machine.kill('SIGKILL');
  rmSync(folder, { recursive: true });
});
while (!existsSync(socketPath) && machine.exitCode === null) await sleep(20);

const checked = new CheckedFetch(document, socketPath);
const api = createClient<paths>({
  baseUrl: 'http://localhost',
  fetch: checked.fetch as unknown as (input: globalThis.Request) => Promise<Response>,
  Request: Request as unknown as typeof globalThis.Request,
});

interface Answer<T> {
  readonly data?: T;
  readonly error?: components['schemas']['Error'];
  readonly response: Response;
}

function must<T>({ data, error }: Answer<T>): T {
  if (error !== undefined) throw new Error(JSON.stringify(error));
  return data as T;
}

function refused({ error, response }: Answer<unknown>, status: number, code: string): string {
  assert.equal(response.status, status);
  assert.equal(error?.error.code, code);
  return error?.error.message ?? '';
}

assert.deepEqual(await checked.served(), document);

const info = must(await api.GET('/v1/info'));
const state: 'starting' | 'running' | 'paused' | 'ended' = info.state;
assert.ok(state === 'starting' || state === 'running');
assert.equal(info.pid, machine.pid);
assert.equal(info.config.vcpus, 1);

const [nic, card] = must(await api.GET('/v1/devices'));
assert.ok(nic?.bars && card);
assert.deepEqual([nic.name, card.name], ['00:03.0 virtio-net', '00:04.0 vgpu-small']);
assert.ok(nic.bars.some(({ bytes }) => bytes === 16384));
const ram = must(await api.GET('/v1/memory')).find(({ kind }) => kind === 'ram');
assert.deepEqual([ram?.gpa, ram?.bytes], ['0x0', 64 << 20]);
const counters = must(await api.GET('/v1/counters'));
assert.deepEqual(
  counters.devices.map(({ name }) => name),
  [nic.name, card.name],
);
const { events, dropped } = must(await api.GET('/v1/timeline'));
assert.equal(dropped, 0);
assert.ok(events.some(({ what }) => what === 'set_kvm'));

const console = async (): Promise<string> =>
  Buffer.from(must(await api.GET('/v1/console', { parseAs: 'arrayBuffer' }))).toString();
while (!(await console()).includes('display: ')) await sleep(20);

// The guest does not read it; the port holds it.
must(
  await api.POST('/v1/console', {
    body: 'hello\n',
    bodySerializer: (text) => text,
    headers: { 'Content-Type': 'application/octet-stream' },
  }),
);

const screenshot = (slot?: number) =>
  api.GET('/v1/screenshot', {
    params: { query: slot === undefined ? {} : { slot: String(slot) } },
    parseAs: 'arrayBuffer',
  });
let picture = await screenshot();
while (picture.error?.error.code === 'ENODATA') picture = await screenshot(); // nothing is drawn yet
assert.deepEqual([...new Uint8Array(must(picture)).subarray(1, 4)], [...Buffer.from('PNG')]);

const one = must(await api.POST('/v1/devices', { body: { address: 'mtty-1' } }));
assert.deepEqual(one.slots, [5]);
const two = must(
  await api.POST('/v1/devices', {
    body: [
      { address: 'mtty-2', slot: 9 },
      { address: 'virtio-net', options: { net: 'responder' } },
    ],
  }),
);
assert.deepEqual(two.slots, [9, 6]);
const faulty = must(await api.POST('/v1/devices', { body: { address: 'testcard' } }));
assert.deepEqual(faulty.slots, [7]);
const save = (path: string) =>
  api.POST('/v1/snapshot', { body: { folder: path, detachUnmigratable: false, timeoutMs: 1000 } });
refused(await save('saved'), 400, 'EINVAL');
const saved = await save(join(folder, 'saved'));
// A device that cannot be saved is named.
if (saved.error === undefined)
  assert.ok(must(saved).memoryBytes > 0 && existsSync(join(folder, 'saved/state')));
else assert.match(refused(saved, 409, 'ENOTSUP'), /00:0\d\.0 \S+: it has no migration/);
refused(await api.POST('/v1/move', { body: { address: 'nowhere', downtimeMs: 100 } }), 400, 'EINVAL');
const fault = (slot: number, faults: string) =>
  api.PUT('/v1/devices/{slot}/faults', { params: { path: { slot } }, body: { faults } });
must(await fault(7, 'removed'));
refused(await fault(6, 'removed'), 409, 'ENOTSUP');
const keyboard = must(await api.POST('/v1/devices', { body: { address: 'virtio-input', slot: 8 } }));
assert.deepEqual(keyboard.slots, [8]);
const input = (slot: number, code: number) =>
  api.PUT('/v1/devices/{slot}/input', {
    params: { path: { slot } },
    body: { events: [{ type: 1, code, value: 1 }] },
  });
must(await input(8, 30));
refused(await input(8, 0x110), 400, 'EINVAL');
refused(await input(6, 30), 409, 'ENOTSUP');
const resize = (slot: number) =>
  api.PUT('/v1/devices/{slot}/size', { params: { path: { slot } }, body: { width: 800, height: 600 } });
refused(await resize(8), 404, 'ENODEV');
for (const slot of [9, 8, 7, 6, 5])
  must(await api.DELETE('/v1/devices/{slot}', { params: { path: { slot }, query: { force: 'true' } } }));
assert.equal(must(await api.GET('/v1/devices')).length, 2);

must(await api.PUT('/v1/pause'));
assert.equal(must(await api.GET('/v1/info')).state, 'paused');
must(await api.PUT('/v1/resume'));
must(await api.PUT('/v1/power-button'));

// @ts-expect-error: the generated types know the names
const wrong = await api.POST('/v1/devices', { body: { adress: 'mtty-1' } });
assert.match(refused(wrong, 400, 'ECONFIG'), /there is no adress/);
const unknown = await api.POST('/v1/devices', { body: { address: 'warp-drive' } });
assert.match(refused(unknown, 400, 'ECONFIG'), /warp-drive/);
const taken = await api.POST('/v1/devices', { body: { address: 'mtty-1', slot: 3 } });
refused(taken, 409, 'EBUSY');
refused(await api.DELETE('/v1/devices/{slot}', { params: { path: { slot: 20 } } }), 404, 'ENODEV');
refused(await screenshot(3), 404, 'ENODEV');

must(await api.PUT('/v1/reset'));
let now = await api.GET('/v1/info');
while (now.data?.restarts !== 1) now = await api.GET('/v1/info');
must(await api.PUT('/v1/stop'));
await ended;
await checked.close();
assert.deepEqual(checked.missing, []);
process.stdout.write(`${[...checked.answers].sort().join(', ')}\n`);
