/** The built-in guest as an ordinary user: what is needed beside /dev/kvm is in docs/rights.md. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, test } from 'vitest';
import { tsvisor } from './testing/machines.js';

const NOBODY = 65534;
const folder = mkdtempSync(join(tmpdir(), 'tsvisor-rights-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const AS_NOBODY = [
  ...['setpriv', `--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups'],
  ...['--bounding-set=-all', '--inh-caps=-all', '--no-new-privs'],
];
const has = (program: string): boolean => spawnSync(program, ['--version']).error === undefined;
const canRead = spawnSync(AS_NOBODY[0] as string, [
  ...AS_NOBODY.slice(1),
  'test',
  '-r',
  fileURLToPath(new URL('../dist/vmm/cli.js', import.meta.url)),
]);
const problem =
  (process.getuid?.() === 0 ? undefined : 'needs root, to become somebody else') ??
  (['setpriv', 'unshare', 'mount'].every(has) ? undefined : 'needs setpriv, unshare and mount') ??
  (canRead.status === 0 ? undefined : 'another user cannot read this folder');
const why = problem === undefined ? '' : ` (skipped: ${problem})`;

/** Own namespaces, in which /dev/kvm is of this mode and nothing else of the host is different. */
const withKvm = (mode: string, ...command: readonly string[]): string[] => {
  const script = [
    'set -e',
    `mknod -m ${mode} "$0/kvm" c $(stat -c '0x%t 0x%T' /dev/kvm)`,
    'mount --bind "$0/kvm" /dev/kvm',
    'rm "$0/kvm"',
    'exec "$@"',
  ].join('\n');
  return ['unshare', '--mount', '--net', 'sh', '-c', script, folder, ...command];
};

describe.skipIf(problem !== undefined)(`a user without capabilities${why}`, () => {
  test('runs the built-in guest with /dev/kvm alone, in a sandbox, too', () => {
    for (const more of [[], ['--sandbox', 'strict']]) {
      const args = ['run', '--cpus', '2', '--append', 'pings=3', ...more];
      const { stdout, stderr, status } = tsvisor(args, withKvm('666', ...AS_NOBODY));
      expect([stderr, status]).toEqual(['', 0]);
      expect(stdout).toMatch(/3\/3 replies/);
    }
  });

  test('is refused without it, with the command that gives access', () => {
    const { stderr, status } = tsvisor(['run'], withKvm('600', ...AS_NOBODY));
    expect(stderr).toMatch(/^tsvisor: open on \/dev\/kvm: EACCES\n {2}hint: .*kvm/);
    expect(status).toBe(69);
  });

  const page = readFileSync(new URL('../docs/rights.md', import.meta.url), 'utf8');
  const broker = /```python\n([^`]*)```/.exec(page)?.[1] as string;

  test.skipIf(!has('python3') || !has('ip'))(
    'has a TAP that the broker of docs/rights.md passed to it, and could not open it itself',
    () => {
      const path = join(folder, 'broker.py');
      writeFileSync(path, broker);
      const network = [
        'ip tuntap add tap0 mode tap',
        'ip address add 192.168.77.1/24 dev tap0',
        'ip link set tap0 up',
        'exec "$@"',
      ];
      const inNetwork = (...command: readonly string[]) =>
        withKvm('666', 'sh', '-c', network.join('\n'), 'sh', ...command);
      const words = ['--append', 'nodhcp ip=192.168.77.2 gw=192.168.77.1 pings=3'];
      for (const more of [[], ['--sandbox', 'strict']]) {
        const args = ['run', '--net', 'tap:fd=3', ...words, ...more];
        const { stdout, stderr, status } = tsvisor(args, inNetwork('python3', path));
        expect([stderr, status]).toEqual(['', 0]);
        expect(stdout).toMatch(/3\/3 replies/);
      }
      const { stderr, status } = tsvisor(['run', '--net', 'tap:tap0', ...words], inNetwork(...AS_NOBODY));
      expect(stderr).toMatch(
        /^tsvisor: (?:open on \/dev\/net\/tun for tap tap0: EACCES|TUNSETIFF on tap tap0: EPERM)\n/,
      );
      expect(status).toBe(69);
    },
    120_000,
  );
});

test('a descriptor that is no TAP, or closed, is refused with a sentence', () => {
  const run = (redirection: string) =>
    tsvisor(['run', '--net', 'tap:fd=3'], ['sh', '-c', `exec "$@" ${redirection}`, 'sh']);
  const closed = run('3<&-');
  expect(closed.stderr).toMatch(/^tsvisor: (?:fstat|open) on tap fd 3: (?:EBADF|EINVAL)\n {2}hint: /);
  const other = run('3<>/dev/null');
  expect(other.stderr).toMatch(/^tsvisor: open on tap fd 3: EINVAL\n {2}hint: this descriptor is no tap: /);
  expect([closed.status, other.status]).toEqual([69, 69]);
});
