/** What `tsvisor ctl` asks a machine for. */
import { PassThrough } from 'node:stream';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { Output, type OutputStream } from '../output.js';
import { ServedApi } from '../testing/served-api.js';
import { ctl } from './cli-ctl.js';

let api: ServedApi;
beforeEach(async () => {
  api = await ServedApi.start();
});
afterEach(() => api[Symbol.asyncDispose]());

const run = (...args: string[]): Promise<number> =>
  ctl([api.path, ...args], new Output(new PassThrough() as unknown as OutputStream));

test('resize gives a screen of a slot a size: the first, or the one that --head names', async () => {
  expect(await run('resize', '3', '1280x720')).toBe(0);
  expect(await run('resize', '31', '800x600', '--head', '15')).toBe(0);
  expect(api.machine.calls).toEqual(['resize 3 1280x720 0', 'resize 31 800x600 15']);
});

test.each(['ENOTSUP', 'EINVAL', 'ENODEV'] as const)(
  'a size that the machine refuses with %s is told with its reason',
  async (code) => {
    const hint = 'what can be done';
    api.machine.failure = new SysError({ call: 'resize', target: 'card', errno: errno[code], hint });
    await expect(run('resize', '3', '1280x720')).rejects.toThrowError(
      new RegExp(`^resize on card: ${code}\\n.*${hint}`),
    );
  },
);

test('what is no size, or no slot, does not reach the machine', async () => {
  for (const args of [
    ['3', '1280'],
    ['3', '1280x'],
    ['3', '-1x720'],
    ['3', '0x720'],
    ['3', '4096x720'],
    ['3', '123456x720'],
    ['3', '1280x720x2'],
    ['3.1', '1280x720'],
    ['0', '1280x720'],
    ['3', '1280x720', '--head', '16'],
    ['3', '1280x720', '--head', 'x'],
  ])
    await expect(run('resize', ...args), args.join(' ')).rejects.toThrowError();
  expect(api.machine.calls).toEqual([]);
});
