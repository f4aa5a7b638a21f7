import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { COMMANDS } from './cli-help.js';
import { completionScript, SHELLS } from './completion.js';

const folder = mkdtempSync(join(tmpdir(), 'completion-'));
afterAll(() => rmSync(folder, { recursive: true }));
mkdirSync(join(folder, 'kernels'));
writeFileSync(join(folder, 'kernel.img'), '');

writeFileSync(join(folder, 'bash'), completionScript('bash', COMMANDS));

/** What bash offers at the end of a line, split into words as readline does. */
function offered(line: string): string[] {
  const script = `
    source ./bash
    COMP_LINE=$1 COMP_POINT=\${#1}
    shift
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
    _tsvisor
    printf '%s\\n' "\${COMPREPLY[@]}"`;
  const words = line.split(/\s+|(?<=[=:])|(?=[=:])/);
  const { stdout, stderr } = spawnSync('bash', ['-c', script, 'bash', line, ...words], {
    cwd: folder,
    encoding: 'utf8',
  });
  expect(stderr).toBe('');
  return stdout.split('\n').filter(Boolean).sort();
}

test.each([
  ['tsvisor ru', ['run']],
  ['tsvisor m', ['man', 'mdev']],
  ['tsvisor run --mem', ['--memory']],
  ['tsvisor serve --mem', []],
  ['tsvisor serve --trust', ['--trust-client']],
  ['tsvisor run --net pas', ['passt', 'passt-socket:']],
  ['tsvisor run --net=pas', ['passt', 'passt-socket:']],
  ['tsvisor run --cpus 2 --log-level w', ['warn']],
  ['tsvisor run --device vgpu-h', ['vgpu-half']],
  ['tsvisor run --device vgpu-s', ['vgpu-small']],
  ['tsvisor run --device virtio-net,m', ['virtio-net,mac=', 'virtio-net,mtu=']],
  ['tsvisor run --device vfio-user:/s,tr', ['/s,trust=']],
  ['tsvisor run --device virtio-net --device mtty-2,po', ['mtty-2,port0=', 'mtty-2,port1=']],
  ['tsvisor serve vgpu-s', ['vgpu-small']],
  ['tsvisor run --kernel ker', ['kernel.img', 'kernels']],
  ['tsvisor run --kernel=ker', ['kernel.img', 'kernels']],
  ['tsvisor run --serial file:ker', ['kernel.img', 'kernels']],
  ['tsvisor run --serial ', ['file:', 'none', 'pty', 'stdio', 'unix:']],
  ['tsvisor mdev ', ['create', 'list', 'remove']],
  ['tsvisor mdev create --par', ['--parent']],
  ['tsvisor bind --driver v', ['vfio-pci']],
  ['tsvisor completion ', ['bash', 'fish', 'zsh']],
] as const)('bash completes `%s`', (line, words) => {
  const got = offered(line);
  expect(line.endsWith(' ') ? got.filter((word) => !word.startsWith('-')) : got).toEqual([...words]);
});

test('every command and every option is in each script', () => {
  for (const shell of SHELLS) {
    const script = completionScript(shell, COMMANDS);
    for (const { name, options } of COMMANDS) {
      expect(script).toContain(name);
      for (const option of options)
        expect(script).toContain(shell === 'fish' ? `-l ${option.name} ` : `--${option.name}`);
    }
  }
});
