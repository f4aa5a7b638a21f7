/** `tsvisor conform --listen` with a program as the client. */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, expect, test } from 'vitest';
import { CLI } from './testing/machines.js';

const folder = mkdtempSync(join(tmpdir(), 'conform-client-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Sends VFIO_USER_VERSION, and waits; or dies of what comes. */
const program = join(folder, 'client.mjs');
writeFileSync(
  program,
  `import { connect } from 'node:net';
const [path, how] = process.argv.slice(2);
const message = Buffer.concat([Buffer.alloc(20), Buffer.from('{"capabilities":{}}\\0')]);
message.writeUInt16LE(1, 2);
message.writeUInt32LE(message.length, 4);
message.writeUInt16LE(how === 'major' ? 3 : 0, 16);
const socket = connect(path, () => socket.write(message));
socket.on('data', () => how === 'crash' && process.kill(process.pid, 'SIGSEGV'));
`,
);

async function conform(...args: readonly string[]) {
  try {
    const command = [CLI, 'conform', '--listen', join(folder, 'c.sock'), ...args];
    return { status: 0, ...(await promisify(execFile)(process.execPath, command)) };
  } catch (error) {
    const { code, stdout, stderr } = error as { code: number; stdout: string; stderr: string };
    return { status: code, stdout, stderr };
  }
}
const only = ['--only', 'version-first', '--only', 'version-major', '--only', 'dma-map-range'];

test('a program that keeps the rules that apply to it ends with status 0', async () => {
  const { status, stdout } = await conform(...only, '--', process.execPath, program, '{}');
  expect(stdout).toBe(
    'passed          version-first\n' +
      'passed          version-major\n' +
      'not applicable  dma-map-range: it sends nothing that the rule is about\n' +
      '\n' +
      '2 passed, 0 failed, 1 not applicable\n',
  );
  expect(status).toBe(0);
}, 120_000);

test('a program that breaks one fails that with what it has sent', async () => {
  const { status, stdout } = await conform(...only, '--json', '--', process.execPath, program, '{}', 'major');
  const { results } = JSON.parse(stdout);
  expect(results.filter((each: { verdict: string }) => each.verdict === 'failed')).toEqual([
    expect.objectContaining({ name: 'version-major', got: 'major version 3' }),
  ]);
  expect(status).toBe(1);
}, 120_000);

test('a program that dies of a signal is told so', async () => {
  const args = ['--only', 'detach', '--', process.execPath, program, '{}', 'crash'];
  const { status, stdout } = await conform(...args);
  expect(stdout).toMatch(/got {7}.*(it closed the connection|died by SIGSEGV)/);
  expect(status).toBe(1);
  const survivor = ['--only', 'version-refused', ...args.slice(2)];
  expect((await conform(...survivor)).stdout).toContain('the end of the connection; then it died by SIGSEGV');
}, 120_000);

test('a program that does not exist is an error with status 69', async () => {
  const { status, stderr } = await conform('--', join(folder, 'nothing'), '{}');
  expect(stderr).toMatch(/^tsvisor: execve on .*nothing: ENOENT\n.*COMMAND is no program/);
  expect(status).toBe(69);
}, 60_000);
