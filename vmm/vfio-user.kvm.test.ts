/** A device of one tsvisor in the guest of another one, by vfio-user. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PNG } from 'pngjs';
import { afterAll, afterEach, expect, test, vi } from 'vitest';
import { DeviceServer } from './device-server.js';
import { guestPicture } from './guest-picture.js';
import { CLI, runMachine, tsvisor } from './testing/machines.js';
import { killAll, type Serving, serve } from './testing/serving.js';

const folder = mkdtempSync(join(tmpdir(), 'tsvisor-user-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const running: ChildProcess[] = [];
afterEach(() => killAll(running));
let last = 0;
const socketPath = (): string => join(folder, `${last++}.sock`);

const serveDevice = (device: string, ...args: readonly string[]): Promise<Serving> =>
  serve(device, { path: socketPath(), args }, running);

test('a NIC of another process: 10 of 10 replies, no exit on the way, and the next guest finds it as new', async () => {
  const { path } = await serveDevice('virtio-net');
  for (let round = 0; round < 2; round++) {
    const { report, serial, steps } = await runMachine({ devices: [{ address: `vfio-user:${path}` }] });
    expect(serial).toMatch(/10\/10 replies/);
    expect(report.outcome).toEqual({ kind: 'verdict', status: 0 });
    expect(steps.join('\n')).toMatch(/2 doorbell ranges/);
    const traffic = report.phases.map(({ accesses }) => accesses[`00:03.0 vfio-user:${path} BAR4`] ?? 0);
    // Doorbells are ioeventfds and interrupts irqfds, across processes: the BAR is touched at set-up and tear-down
    // only.
    expect(new Set(traffic).size).toBeLessThan(traffic.length);
    expect(steps.join('\n')).toMatch(/cannot be associated with the VM: it belongs to another process/);
  }
});

test('a server that is killed takes its device along, and the guest lives', async () => {
  const { path, child } = await serveDevice('virtio-net');
  const guest = spawn(
    process.execPath,
    [CLI, 'run', '--device', `vfio-user:${path}`, '--append', 'pings=1000'],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  running.push(guest);
  let output = '';
  const says = (text: string) =>
    new Promise<void>((resolve, reject) => {
      const check = () => output.includes(text) && resolve();
      for (const stream of [guest.stdout, guest.stderr])
        stream?.on('data', (bytes) => {
          output += String(bytes);
          check();
        });
      guest.once('exit', () => reject(new Error(output)));
    });
  await says('ping  3');
  child.kill('SIGKILL');
  await says('has disconnected');
  await says('the host wants the device back');
  expect(guest.exitCode).toBeNull();
  guest.kill('SIGTERM');
  expect(await once(guest, 'exit')).toEqual([143, null]);
});

test('SIGTERM ends serving in order: the client is sent away, the socket’s file goes, the status tells', async () => {
  const { path, child } = await serveDevice('mtty-2');
  expect(existsSync(path)).toBe(true);
  child.kill('SIGTERM');
  expect(await once(child, 'exit')).toEqual([143, null]);
  expect(existsSync(path)).toBe(false);
});

test.each([
  [['serve'], 64, /takes a device/],
  [['serve', 'virtio-net'], 64, /--socket: is missing/],
  [['serve', 'virtio-net', '--socket', '/nowhere/x'], 64, /--socket: there is no directory \/nowhere/],
  [
    ['serve', 'nothing', '--socket', join(folder, 'x')],
    64,
    /there is no device 'nothing'; there are:\n.*virtio-net/,
  ],
  [
    ['serve', 'virtio-net', '--socket', '/etc/passwd'],
    64,
    /--socket: \/etc\/passwd exists, and is not a socket/,
  ],
  [['serve', 'virtio-net', '--socket', `/tmp/${'x'.repeat(200)}`], 64, /--socket: .* at most 107 bytes/],
  [['serve', 'virtio-net', '--socket', '/tmp/x', '--trace', 'all'], 64, /'all' is not one of exit/],
  [
    ['run', '--device', 'vfio-user:/nowhere/x'],
    69,
    /connect on \/nowhere\/x: ENOENT\n.*nothing listens there/,
  ],
  [['run', '--device', 'vfio-user:/etc/passwd'], 69, /connect on \/etc\/passwd: ECONNREFUSED/],
] as const)('%o is refused with what is wrong', (args, code, message) => {
  const { status, stderr } = tsvisor(args);
  expect(stderr).toMatch(message);
  expect(status).toBe(code);
});

test('two servers do not share a socket, and iommufd is refused with what to leave out', async () => {
  const { path } = await serveDevice('mtty-1');
  const second = tsvisor(['serve', 'mtty-1', '--socket', path]);
  expect(second.stderr).toMatch(/EADDRINUSE\n.*another process listens on it/);
  const { stderr, status } = tsvisor(['run', '--device', `vfio-user:${path},interface=iommufd`]);
  expect(stderr).toMatch(/omit interface=iommufd/);
  expect(status).toBe(69);
});

test('served from a program: it tells when it is ready and who comes, and leaves nothing behind', async () => {
  const path = socketPath();
  const told: string[] = [];
  {
    let becomesReady: (text: string) => void = () => {};
    const ready = new Promise<string>((resolve) => {
      becomesReady = resolve;
    });
    await using _server = DeviceServer.start(
      { address: 'virtio-net', path },
      { ready: (text) => becomesReady(text), told: (text) => told.push(text) },
    );
    expect(await ready).toMatch(/network card/);
    const { report } = await runMachine({ devices: [{ address: `vfio-user:${path}` }] });
    expect(report.outcome).toEqual({ kind: 'verdict', status: 0 });
  }
  expect(told[0]).toMatch(/^a client has connected: process \d+, user \d+$/);
  expect(existsSync(path)).toBe(false);
  const broken = DeviceServer.start({ address: 'nothing', path });
  await expect(broken.finished).rejects.toThrowError(/there is no device 'nothing'/);
});

test('a served device gets faults with a client or without, and says what it does not know', async () => {
  const start = async (address: string) => {
    const path = socketPath();
    let tell: () => void = () => {};
    const ready = new Promise<void>((resolve) => {
      tell = resolve;
    });
    const server = DeviceServer.start({ address, path }, { ready: tell });
    await ready;
    return { server, address: `vfio-user:${path}` };
  };
  const { server: first, address } = await start('testcard');
  await using server = first;
  await server.inject('removed');
  const attach = () => runMachine({ devices: [{ address }] });
  await expect(attach()).rejects.toThrowError(/^VFIO_USER_DEVICE_RESET on .*: EIO/);
  await expect(server.inject('nonsense')).rejects.toThrowError(/EINVAL\n.*none of reset-fails/);
  await server.inject('none');
  expect((await attach()).report.outcome.kind).toBe('verdict');
  await using other = (await start('virtio-net')).server;
  await expect(other.inject('removed')).rejects.toThrowError(/inject on virtio-net: ENOTSUP/);
  await server[Symbol.asyncDispose]();
  await expect(server.inject('none')).rejects.toThrowError(/ESRCH/);
});

test('what a guest draws on a display of another process is seen there, and kept when the client is killed', async () => {
  const png = join(folder, 'served.png');
  const { child, path, output } = await serveDevice('vgpu-small,xres=320,yres=200', '--screenshot', png);
  /** Asks for a picture; undefined if there is none. */
  const shot = async (): Promise<Uint8Array | undefined> => {
    rmSync(png, { force: true });
    const before = output().length;
    const said = () => output().slice(before);
    child.kill('SIGUSR2');
    await vi.waitUntil(() => /picture saved|ENODATA\n.*hint/s.test(said()), { timeout: 10_000 });
    return existsSync(png) ? PNG.sync.read(readFileSync(png)).data : undefined;
  };
  expect(await shot()).toBeUndefined();
  expect(output()).toMatch(/no picture: .*vgpu-small: ENODATA\n.*no client/);
  const { report } = await runMachine({ devices: [{ address: `vfio-user:${path}` }] });
  expect(report.outcome).toEqual({ kind: 'verdict', status: 0 });
  expect(await shot()).toBeUndefined(); // the client has reset it
  const args = ['run', '--device', `vfio-user:${path}`, '--append', 'frames=100000'];
  const guest = spawn(process.execPath, [CLI, ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
  running.push(guest);
  let text = '';
  guest.stdout.on('data', (bytes) => {
    text += String(bytes);
  });
  await vi.waitUntil(() => text.includes('pixels of 32 bits'), { timeout: 10_000 });
  const seen = new Set<string>();
  await vi.waitUntil(
    async () => {
      const picture = await shot();
      if (picture?.length === 4 * 320 * 200) seen.add(Buffer.from(picture).toString('base64'));
      return seen.size > 3; // the bars move
    },
    { timeout: 20_000 },
  );
  guest.kill('SIGKILL');
  await once(guest, 'exit');
  await vi.waitUntil(() => output().split('the client has disconnected').length > 2, { timeout: 10_000 });
  const last = (await shot()) as Uint8Array;
  // The lower part stands still.
  const below = 4 * 320 * 120;
  expect(Buffer.compare(last.subarray(below), guestPicture(320, 200).rgba.subarray(below))).toBe(0);
  child.kill('SIGTERM');
  expect(await once(child, 'exit')).toEqual([143, null]);
});
