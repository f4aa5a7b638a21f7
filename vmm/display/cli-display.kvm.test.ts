/** Pictures from the command line. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PNG } from 'pngjs';
import { afterAll, expect, test } from 'vitest';
import { guestPicture } from '../guest-picture.js';
import { CLI, tsvisor } from '../testing/machines.js';
import { PageModel } from './testing/page.js';

const folder = mkdtempSync(join(tmpdir(), 'tsvisor-display-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const pixelsOf = (path: string) => PNG.sync.read(readFileSync(path)).data;
const SMALL = ['run', '--device', 'vgpu-small,xres=320,yres=200'];

test('--screenshot saves the last picture, pixel for pixel, of the slot that --display names', () => {
  const path = join(folder, 'end.png');
  const one = tsvisor([...SMALL, '--screenshot', path]);
  expect(one.stdout).toContain(`picture saved in ${path}`);
  expect(one.stdout).toMatch(/drawing +0 KVM exits/);
  expect(one.status).toBe(0);
  expect(Buffer.compare(pixelsOf(path), guestPicture(320, 200).rgba)).toBe(0);
  const two = tsvisor([...SMALL, '--device', 'vgpu-small', '--display', '4', '--screenshot', path]);
  expect(two.stderr).toMatch(/no picture: .*00:04\.0 vgpu-small: ENODATA/);
  expect(two.status).toBe(69);
});

test('a picture that cannot be saved is reported, and the exit code is 69', () => {
  const { stderr, status } = tsvisor([...SMALL, '--append', 'xres=64 yres=32', '--screenshot', '/dev/full']);
  expect(stderr).toMatch(/^tsvisor: no picture: write on picture \/dev\/full: ENOSPC\n/);
  expect(status).toBe(69);
});

test('--view shows what the guest draws, and its last picture before the port is closed', async () => {
  const child = spawn(process.execPath, [CLI, ...SMALL, '--append', 'frames=15', '--view', '--quiet'], {
    stdio: ['ignore', 'inherit', 'pipe'],
  });
  const [said] = await once(child.stderr, 'data');
  const [url = ''] = /http:\/\/127\.0\.0\.1:\d+\/[\w-]{32}\//.exec(String(said)) ?? [];
  const ended = once(child, 'exit');
  const page = new PageModel();
  let pictures = 0;
  while (page.ended === undefined) {
    const reply = await fetch(`${url}frame?client=test0001`);
    expect(reply.status).toBe(200);
    page.take(Buffer.from(await reply.arrayBuffer()));
    if (page.pixels > 0) pictures++;
  }
  expect(pictures).toBeGreaterThan(3);
  expect(Buffer.compare(page.only.rgba, guestPicture(320, 200).rgba)).toBe(0);
  expect(await ended).toEqual([0, null]);
  await expect(fetch(url)).rejects.toThrowError();
});

test('SIGUSR2 saves a picture while the guest keeps drawing', async () => {
  const path = join(folder, 'now.png');
  const child = spawn(process.execPath, [CLI, ...SMALL, '--append', 'frames=100000', '--screenshot', path], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let output = '';
  const says = (text: string) =>
    new Promise<void>((resolve) => {
      child.stdout.on('data', (bytes) => {
        output += String(bytes);
        if (output.includes(text)) resolve();
      });
    });
  await says('pixels of 32 bits');
  expect(existsSync(path)).toBe(false);
  const saved = says('picture saved');
  child.kill('SIGUSR2');
  await saved;
  const drawn = pixelsOf(path);
  expect(drawn).toHaveLength(320 * 200 * 4);
  child.kill('SIGTERM');
  const [status] = await once(child, 'exit');
  expect(status).toBe(143);
});
