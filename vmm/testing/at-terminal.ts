/** For tests: programs at a terminal of their own. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, constants, openSync, readSync } from 'node:fs';
import { onTestFinished } from 'vitest';
import { openHostEnd } from '../../devices/line/host-end.js';
import { until } from '../../devices/mtty/testing/until.js';
import { CLI } from './machines.js';

/** Reads this many characters of a nonblocking descriptor. */
export async function readText(fd: number, count: number): Promise<string> {
  const buffer = Buffer.alloc(4096);
  let heard = '';
  await until(() => {
    try {
      heard += buffer.toString('latin1', 0, readSync(fd, buffer));
    } catch {}
    return heard.length >= count;
  });
  return heard;
}

/** Runs tsvisor at a terminal of its own: stdin and stdout. */
export function atTerminal(args: readonly string[]) {
  const end = openHostEnd({ kind: 'pty', path: '' });
  const slave = openSync(end.numbers.address, constants.O_RDWR | constants.O_NOCTTY);
  const close = () => {
    closeSync(slave);
    end[Symbol.dispose]();
  };
  // As one line that can be compared.
  const mode = () =>
    spawnSync('stty', ['-g'], { stdio: [slave, 'pipe', 'inherit'], encoding: 'utf8' }).stdout;
  const before = mode();
  const child: ChildProcess = spawn(process.execPath, [CLI, ...args], { stdio: [slave, slave, 'pipe'] });
  onTestFinished(() => void child.kill('SIGKILL'));
  const ended = once(child, 'exit');
  let errors = '';
  child.stderr?.on('data', (piece) => {
    errors += String(piece);
  });
  const terminal = end.numbers.fd;
  return { terminal, child, ended, mode, before, errors: () => errors, [Symbol.dispose]: close };
}
