/** `tsvisor ctl SOCKET console` on a guest that sends back what it receives. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, expect, test } from 'vitest';
import { until } from '../../devices/mtty/testing/until.js';
import { echoGuest } from '../testing/echo-guest.js';
import { CLI } from '../testing/machines.js';
import { atTerminal } from '../testing/terminal.js';

const folder = mkdtempSync(join(tmpdir(), 'tsvisor-console-'));
afterAll(() => rmSync(folder, { recursive: true }));
const guest = join(folder, 'echo.elf');
writeFileSync(guest, echoGuest(0));

const children: ChildProcess[] = [];
afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
});

function start(args: readonly string[]) {
  const child = spawn(process.execPath, [CLI, ...args], { stdio: 'pipe' });
  children.push(child);
  const pieces: Buffer[] = [];
  let errors = '';
  child.stdout.on('data', (piece: Buffer) => pieces.push(piece));
  child.stderr.on('data', (piece: Buffer) => {
    errors += String(piece);
  });
  const ended = once(child, 'close').then(([status]) => status as number);
  return { child, ended, heard: () => Buffer.concat(pieces), errors: () => errors };
}

let count = 0;
async function startMachine(...args: string[]) {
  const path = join(folder, `sock${count++}`);
  const machine = start(['run', '--quiet', '--guest', guest, '--api', `unix:${path}`, ...args]);
  while (!existsSync(path) && machine.child.exitCode === null) await sleep(20);
  return { path, ...machine };
}

const LIMIT_MS = 180_000;

test(
  'what is piped reaches the guest whole, as the one who follows sees; its end does not end the machine',
  async () => {
    const typed = Buffer.from(
      Uint8Array.from({ length: 20 << 10 }, (_, i) => 5 + ((i * 7 + (i >> 8)) % 250)),
    );
    const { path, ended } = await startMachine();
    const following = start(['ctl', path, 'console', '--follow']);
    const typing = start(['ctl', path, 'console', '--type']);
    typing.child.stdin.end(typed);
    expect([await typing.ended, typing.errors(), typing.heard().length]).toEqual([0, '', 0]);
    const last = start(['ctl', path, 'console', '--type', '--follow']);
    last.child.stdin.end('\x04');
    expect([await last.ended, await following.ended, await ended]).toEqual([0, 0, 0]);
    expect(following.heard().equals(typed)).toBe(true);
    expect(last.heard().equals(typed)).toBe(true);
  },
  LIMIT_MS,
);

test(
  'a terminal is raw until Ctrl-A x, which leaves the machine running',
  async () => {
    const { path, child } = await startMachine();
    using at = atTerminal([CLI, 'ctl', path, 'console', '--type']);
    const { screen, ended, mode, before, errors } = at;
    await until(() => mode() !== before);
    await screen.types('a\x03b\r');
    await screen.says('a\x03b\r');
    await screen.types('\x01h');
    await until(() => /Ctrl-A x {2}leave the console; the machine runs on/.test(errors()));
    await screen.types('\x01x');
    expect(await ended).toEqual([0, null]);
    expect(mode()).toBe(before);
    expect(child.exitCode).toBe(null);
    const shown = start(['ctl', path, 'console']);
    expect([await shown.ended, shown.heard().toString()]).toEqual([0, 'a\x03b\r']);
  },
  LIMIT_MS,
);

test(
  'a terminal is as it was when the machine ends',
  async () => {
    const { path, ended: machineEnded } = await startMachine();
    using at = atTerminal([CLI, 'ctl', path, 'console', '--type']);
    await until(() => at.mode() !== at.before);
    await at.screen.types('\x04');
    expect([await at.ended, await machineEnded]).toEqual([[0, null], 0]);
    expect(at.mode()).toBe(at.before);
  },
  LIMIT_MS,
);

test(
  'a port that is connected elsewhere cannot be typed at, from a pipe or a terminal',
  async () => {
    const { path } = await startMachine('--serial', `file:${join(folder, 'com1.log')}`);
    const reason = /serial port 0 is connected to file:.*: only an observer's port can be typed at/;
    const typing = start(['ctl', path, 'console', '--type']);
    typing.child.stdin.end('x');
    expect([await typing.ended, typing.errors()]).toEqual([69, expect.stringMatching(reason)]);
    using at = atTerminal([CLI, 'ctl', path, 'console', '--type']);
    expect(await at.ended).toEqual([69, null]);
    expect(at.errors()).toMatch(reason);
    expect(at.mode()).toBe(at.before);
  },
  LIMIT_MS,
);
