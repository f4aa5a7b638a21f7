/** `tsvisor conform` at `tsvisor serve`: every device of this package keeps the rules of vfio-user. */
import { type ChildProcess, execFile } from 'node:child_process';
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, afterEach, expect, test } from 'vitest';
import type { VfioUserConformance } from '../vfio/user/conformance/index.js';
import { CLI } from './testing/machines.js';
import { killAll, serve } from './testing/serving.js';

const folder = mkdtempSync(join(tmpdir(), 'conform-'));
const disk = join(folder, 'disk.img');
writeFileSync(disk, '');
truncateSync(disk, 8 << 20);
const running: ChildProcess[] = [];
afterEach(() => killAll(running));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const TIMEOUT_S = '10';

async function conform(
  ...args: readonly string[]
): Promise<{ status: number; stdout: string; stderr: string }> {
  try {
    const command = [CLI, 'conform', ...args, '--timeout', TIMEOUT_S];
    return { status: 0, ...(await promisify(execFile)(process.execPath, command, { maxBuffer: 1 << 24 })) };
  } catch (error) {
    const { code, stdout, stderr } = error as { code: number; stdout: string; stderr: string };
    return { status: code, stdout, stderr };
  }
}

test.each([
  ['virtio-net', 170],
  ['vgpu-small', 165],
  ['mtty-2', 165],
  ['testcard', 170],
  [`virtio-blk,file=${disk}`, 170],
  ['virtio-input,type=tablet', 170],
  ['virtio-gpu,heads=2', 170],
])(
  '%s keeps every rule that applies to it, which are at least %i',
  async (device, least) => {
    const path = join(folder, 's.sock');
    await serve(device, { path }, running);
    const { status, stdout } = await conform(path, '--json');
    const { results, ended } = JSON.parse(stdout) as VfioUserConformance;
    expect(ended).toBeUndefined();
    expect(results.filter(({ verdict }) => verdict === 'failed')).toEqual([]);
    expect(results.filter(({ verdict }) => verdict === 'passed').length).toBeGreaterThanOrEqual(least);
    expect(status).toBe(0);
  },
  180_000,
);

test('the text has a line for each rule, and the counts', async () => {
  const path = join(folder, 't.sock');
  await serve('mtty-1', { path }, running);
  const only = ['device-info', 'migration-pre-copy'].flatMap((name) => ['--only', name]);
  const { status, stdout } = await conform(path, ...only);
  expect(stdout).toBe(
    'passed          device-info\n' +
      'not applicable  migration-pre-copy: the device has no PRE_COPY\n' +
      '\n' +
      '1 passed, 0 failed, 1 not applicable\n',
  );
  expect(status).toBe(0);
}, 60_000);

test('a socket where nobody listens is an error with a sentence, and status 69', async () => {
  const { status, stdout, stderr } = await conform(join(folder, 'nobody.sock'));
  expect(stderr).toMatch(/^tsvisor: connect on .*nobody\.sock: ENOENT\n.*start its server first/);
  expect([status, stdout]).toEqual([69, '']);
});
