/** Tests of tier qemu, with the cache's QEMU, kernel and busybox. */
import { once } from 'node:events';
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { projectFolder } from './paths.js';
import { spawnBound } from './process.js';
import { Scratch } from './scratch.js';
import { rootOf, userland } from './userland.js';

/**
 * Runs them, and prints the time of each.
 * @param qemu command that starts a QEMU with vfio-user-pci
 */
export async function runDriverTests(
  qemu: readonly string[],
): Promise<{ readonly isPassed: boolean; readonly output: string }> {
  using scratch = Scratch.create();
  const boot = join(rootOf(userland), 'boot');
  const kernel = readdirSync(boot).find((name) => name.startsWith('vmlinuz-')) as string;
  // A variable has room for a path, not for a loader and its arguments.
  const program = join(scratch.folder, 'qemu');
  const words = qemu.map((word) => `'${word}'`).join(' ');
  writeFileSync(program, `#!/bin/sh\nexec ${words} "$@"\n`, { mode: 0o755 });
  const env = {
    ...process.env,
    TSVISOR_QEMU: program,
    TSVISOR_KERNEL: join(boot, kernel),
    TSVISOR_BUSYBOX: join(rootOf(userland), 'usr/bin/busybox'),
    TSVISOR_REQUIRED_TIERS: 'qemu',
  };
  // One guest at a time: each takes a CPU for itself, and another one for its devices.
  const args = ['run', '.qemu.test.ts', '--maxWorkers', '1', '--reporter', 'verbose'];
  const vitest = join(projectFolder, 'node_modules/vitest/vitest.mjs');
  const child = spawnBound([process.execPath, vitest, ...args], {
    cwd: projectFolder,
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    output += text;
    process.stdout.write(text);
  });
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    output += text;
  });
  const [status] = (await once(child, 'close')) as [number | null];
  return { isPassed: status === 0, output };
}
