import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openHostEnd } from '../devices/line/host-end.js';
import { until } from '../devices/mtty/testing/until.js';
import { ConfigError } from './config-error.js';
import { echoGuest } from './testing/echo-guest.js';
import { CLI, tsvisor } from './testing/machines.js';
import { atTerminal, openTerminal } from './testing/terminal.js';
import { VirtualMachine } from './virtual-machine.js';

const folder = mkdtempSync(join(tmpdir(), 'serial-'));
afterAll(() => rmSync(folder, { recursive: true }));
const guest = (port: number) => join(folder, `echo${port}.elf`);
beforeAll(() => {
  for (const port of [0, 1, 2]) writeFileSync(guest(port), echoGuest(port));
});

const bytesOf = (length: number) => {
  const bytes = Buffer.from(Uint8Array.from({ length }, (_, i) => 5 + ((i * 7 + (i >> 8)) % 250)));
  bytes[length - 1] = 4;
  return bytes;
};

test.each([1, 2])(
  'what is typed beyond 4 KiB reaches the guest whole, with %i vCPUs',
  async (vcpus) => {
    const typed = bytesOf(10 << 10);
    const heard: Uint8Array[] = [];
    await using vm = VirtualMachine.start(
      { guest: guest(0), vcpus },
      { serial: (bytes, port) => port === 0 && heard.push(bytes) },
    );
    expect(await vm.typeSerial(typed.subarray(0, 6000))).toBe(true);
    expect(await vm.typeSerial(typed.subarray(6000))).toBe(true);
    expect((await vm.finished).outcome).toEqual({ kind: 'verdict', status: 0 });
    expect(Buffer.concat(heard).equals(typed.subarray(0, -1))).toBe(true);
    expect(await vm.typeSerial(typed)).toBe(false);
  },
  60_000,
);

test('a machine that is stopped does not take what its guest has not read', async () => {
  await using vm = VirtualMachine.start({ guest: guest(1) });
  const typing = vm.typeSerial(new Uint8Array(1 << 20));
  vm.stop('test');
  expect(await typing).toBe(false);
  expect(() => vm.typeSerial(new Uint8Array(1), 1)).toThrowError('serial port 1 is not there');
});

test('each port has its end: COM2 is a terminal, COM1 a file, and COM3 the observer', async () => {
  const log = join(folder, 'com1.log');
  await using vm = VirtualMachine.start({ guest: guest(1), serial: [`file:${log}`, 'pty', 'observer'] });
  const ports = await vm.serialPorts();
  expect(ports.map(({ name, end }) => [name, end])).toEqual([
    ['COM1', `file:${log}`],
    ['COM2', 'pty'],
    ['COM3', 'observer'],
  ]);
  expect(() => vm.typeSerial(new Uint8Array(1), 1)).toThrowError('serial port 1 is connected to pty');
  using terminal = openTerminal(ports[1]?.address ?? '');
  await terminal.types('hello');
  await terminal.says('hello');
  await terminal.types('\x04');
  expect((await vm.finished).outcome).toEqual({ kind: 'verdict', status: 0 });
  expect(readFileSync(log, 'latin1')).toBe('');
});

test('a socket is this user’s alone, and goes with the machine', async () => {
  const path = join(folder, 'com3.sock');
  await using vm = VirtualMachine.start({ guest: guest(2), serial: ['none', 'none', `unix:${path}`] });
  await vm.serialPorts();
  expect(statSync(path).mode & 0o777).toBe(0o600);
  const client = createConnection(path);
  client.write('over the socket\x04');
  let heard = '';
  client.on('data', (piece) => {
    heard += String(piece);
  });
  expect((await vm.finished).outcome).toEqual({ kind: 'verdict', status: 0 });
  await once(client, 'close');
  expect(heard).toBe('over the socket');
  expect(statSync(path, { throwIfNoEntry: false })).toBeUndefined();
});

test('an end that cannot be opened ends the run before a machine is made', async () => {
  using _taken = openHostEnd({ kind: 'listen', path: join(folder, 'taken') });
  const vm = VirtualMachine.start({ guest: guest(0), serial: [`unix:${join(folder, 'taken')}`] });
  await expect(vm.finished).rejects.toThrowError(/EADDRINUSE/);
  await expect(vm.serialPorts()).rejects.toThrowError(/EADDRINUSE/);
  expect(() => VirtualMachine.start({ serial: ['telnet'] })).toThrowError(ConfigError);
});

test('--serial stdio is a raw terminal with Ctrl-A x, and leaves it as it was', async () => {
  using at = atTerminal([CLI, 'run', '--guest', guest(0), '--serial', 'stdio']);
  const { screen, ended, mode, before, errors } = at;
  await until(() => mode() !== before);
  await screen.types('a\x03b\r');
  await screen.says('a\x03b\r');
  await screen.types('\x01h');
  await until(() => /Ctrl-A x {2}end the machine/.test(errors()));
  await screen.types('\x01x');
  expect(await ended).toEqual([0, null]);
  expect(mode()).toBe(before);
});

test.each([
  ['SIGTERM', 143],
  ['SIGHUP', 129],
] as const)('after %s the terminal is as it was', async (signal, status) => {
  using at = atTerminal([CLI, 'run', '--guest', guest(0), '--serial', 'stdio']);
  const { child, ended, mode, before } = at;
  await until(() => mode() !== before);
  await sleep(50);
  child.kill(signal);
  expect(await ended).toEqual([status, null]);
  expect(mode()).toBe(before);
});

test('a pipe is typed whole and has no escape key; its end does not end the machine', () => {
  const typed = Buffer.concat([Buffer.from('\x01x'), bytesOf(5 << 10)]);
  const args = [CLI, 'run', '--guest', guest(0), '--serial', 'stdio'];
  const { stdout, stderr, status } = spawnSync(process.execPath, args, { input: typed, timeout: 60_000 });
  expect([String(stderr), status]).toEqual(['', 0]);
  expect(stdout.equals(typed.subarray(0, -1))).toBe(true);
});

test('--json and a port at stdio exclude each other', () => {
  const { stderr, status } = tsvisor(['run', '--json', '--serial', 'stdio']);
  expect(stderr).toMatch(
    /^tsvisor: --json: prints the report on stdout, where the serial port at stdio prints\n/,
  );
  expect(status).toBe(64);
});
