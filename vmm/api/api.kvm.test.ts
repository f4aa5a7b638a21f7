/** `tsvisor run --api` and `tsvisor ctl`, on the built-in guest. */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { CLI } from '../testing/machines.js';
import { ApiClient } from './client.js';
import { devicesSchema, memorySchema } from './schemas.js';

const CURL = '/usr/bin/curl';
const PAGE = 4096;

interface Said {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

const execute = (file: string, args: readonly string[]): Promise<Said> =>
  new Promise((resolve) => {
    const child: ChildProcess = execFile(file, [...args], { timeout: 60_000 }, (_error, stdout, stderr) =>
      resolve({ status: child.exitCode ?? -1, stdout, stderr }),
    );
  });

const ctl = (...args: string[]): Promise<Said> => execute(process.execPath, [CLI, 'ctl', ...args]);

let folder = '';
let path = '';
let machine: ChildProcess;
let ended: Promise<unknown>;
beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'tsvisor-api-'));
  path = join(folder, 'sock');
  const args = ['run', '--quiet', '--api', `unix:${path}`, '--append', 'pings=1 tcp=0x7fffffff'];
  machine = spawn(process.execPath, [CLI, ...args], { stdio: 'ignore' });
  ended = new Promise((resolve) => machine.once('exit', resolve));
  while (!existsSync(path) && machine.exitCode === null) await sleep(20);
}, 60_000);
afterEach(async () => {
  machine.kill('SIGKILL');
  await ended;
  rmSync(folder, { recursive: true });
});

test('a machine is inspected, paused, resumed, reset and stopped by commands', {
  timeout: 180_000,
}, async () => {
  expect(statSync(path).mode & 0o777).toBe(0o600);
  const devices = await ctl(path, 'devices');
  expect(devices).toMatchObject({ status: 0, stderr: '' });
  expect(devices.stdout).toMatch(/00:03\.0 virtio-net.*\n {2}core, group \d+, by group/);
  expect(devices.stdout).toMatch(/BAR4 16 KiB 64-bit prefetchable/);
  expect(await ctl(path, 'fault', '3', 'removed')).toMatchObject({
    status: 69,
    stderr: expect.stringMatching(/^tsvisor: inject on 00:03\.0 virtio-net: ENOTSUP\n {2}hint: .*testcard/),
  });
  expect(await ctl(path, 'attach', 'testcard')).toMatchObject({
    status: 0,
    stdout: 'testcard is in slot 4\n',
  });
  expect(await ctl(path, 'fault', '4', 'sloow')).toMatchObject({
    status: 69,
    stderr: expect.stringMatching(/EINVAL\n {2}hint: "sloow" is none of reset-fails/),
  });
  expect(await ctl(path, 'fault', '4', 'removed')).toMatchObject({ status: 0, stdout: '', stderr: '' });
  expect((await ctl(path, 'detach', '4', '--force')).status).toBe(0);
  expect((await ctl(path, 'pause')).status).toBe(0);
  expect((await ctl(path, 'info')).stdout).toMatch(/^state +paused\n/);
  expect((await ctl(path, 'resume')).status).toBe(0);
  expect(JSON.parse((await ctl(path, 'info', '--json')).stdout)).toMatchObject({
    state: 'running',
    restarts: 0,
  });
  expect((await ctl(path, 'reset')).status).toBe(0);
  while (!/, 1 restarts\n/.test((await ctl(path, 'info')).stdout)) await sleep(50);
  expect((await ctl(path, 'timeline')).stdout).toMatch(/set_kvm/);
  const refused = await ctl(path, 'screenshot', join(folder, 'picture.png'));
  expect(refused.status).toBe(69);
  expect(refused.stderr).toMatch(/ENODEV/);
  expect((await ctl(path, 'stop')).status).toBe(0);
  await ended;
  expect(existsSync(path)).toBe(false);
  const late = await ctl(path, 'info');
  expect(late.status).toBe(69);
  expect(late.stderr).toMatch(/connect on .*: ENOENT\n {2}hint: .*tsvisor run --api/);
});

test('the table of maps has RAM and the mapped parts of BARs, once for each address', async () => {
  const client = new ApiClient(path);
  const read = async () =>
    memorySchema.parse(JSON.parse((await client.call('GET', '/v1/memory')).body.toString()));
  const ranges = await read();
  const ram = ranges.find(({ kind }) => kind === 'ram');
  expect(ram).toMatchObject({ gpa: '0x0', bytes: 64 << 20, dma: [{ space: 'core container', iova: '0x0' }] });
  expect(ram?.pages?.residentBytes).toBeGreaterThan(0);
  expect(ram?.pages?.pageBytes).toBeGreaterThanOrEqual(PAGE);
  for (const [i, { gpa, bytes }] of ranges.entries()) {
    const next = ranges[i + 1];
    if (next !== undefined) expect(BigInt(gpa) + BigInt(bytes)).toBeLessThanOrEqual(BigInt(next.gpa));
  }
});

test('each exit of a trapped page is counted', async () => {
  const client = new ApiClient(path);
  interface Bar {
    readonly parts: readonly { readonly offset: number; readonly bytes: number; readonly kind: string }[];
    readonly exits: readonly { readonly offset: number; readonly reads: number; readonly writes: number }[];
  }
  const bars = async (): Promise<readonly Bar[]> =>
    JSON.parse((await client.call('GET', '/v1/devices')).body.toString())[0].bars;
  // The guest sets up its NIC through trapped registers before it sends anything.
  while ((await bars()).every(({ exits }) => exits.length === 0)) await sleep(20);
  for (const { parts, exits } of await bars()) {
    for (const { offset, reads, writes } of exits) {
      const part = parts.find((each) => offset >= each.offset && offset < each.offset + each.bytes);
      expect(part?.kind).toBe('trapped');
      expect(reads + writes).toBeGreaterThan(0);
    }
  }
});

test('each interrupt is counted by its vector', async () => {
  const client = new ApiClient(path);
  const read = async () => {
    const [device] = devicesSchema.parse(
      JSON.parse((await client.call('GET', '/v1/devices')).body.toString()),
    );
    const sent = (device?.interrupts?.vectors ?? []).map((vector) => vector.sent ?? Number.NaN);
    return { total: device?.counters.interrupts ?? 0, sent };
  };
  while ((await read()).total < 100) await sleep(20);
  await client.call('PUT', '/v1/pause');
  // The device sends what it has still to send.
  let [before, now] = [await read(), await read()];
  while (before.total !== now.total) [before, now] = [now, await read()];
  expect(now.sent.reduce((sum, count) => sum + count, 0)).toBe(now.total);
  expect(now.sent.filter((count) => count > 0).length).toBe(2); // of the queues; the configuration does not change
});

test.runIf(existsSync(CURL))('curl drives it', async () => {
  const curl = (...args: string[]): Promise<Said> =>
    execute(CURL, ['--silent', '--show-error', '--unix-socket', path, ...args]);
  expect(JSON.parse((await curl('http://localhost/v1/info')).stdout)).toMatchObject({ config: { vcpus: 1 } });
  expect(JSON.parse((await curl('http://localhost/openapi.json')).stdout)).toMatchObject({
    openapi: '3.1.0',
  });
  expect((await curl('-X', 'PUT', 'http://localhost/v1/pause')).stdout).toBe('');
  expect(JSON.parse((await curl('http://localhost/v1/info')).stdout)).toMatchObject({ state: 'paused' });
  const wrong = await curl('-d', '{"adress":"virtio-net"}', 'http://localhost/v1/devices');
  expect(JSON.parse(wrong.stdout)).toMatchObject({ error: { code: 'ECONFIG' } });
  expect(wrong.stdout).toMatch(/there is no adress/);
});
