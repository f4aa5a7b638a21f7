/** What `tsvisor serve` prints of its clients, by `--log-level`. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, expect, onTestFinished, test } from 'vitest';
import { CLI } from './testing/machines.js';

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
