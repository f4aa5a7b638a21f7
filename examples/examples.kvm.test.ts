import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

/** @param program `examples/NAME`, or the command line program `vmm/cli` */
function run(name: string, ...args: string[]): { stdout: string; status: number | null } {
  const program = fileURLToPath(new URL(`../dist/${name}.js`, import.meta.url));
  return spawnSync(process.execPath, [program, ...args], { encoding: 'utf8', timeout: 60_000 });
}

test('vendor-driver: the guest finds the card of the plug-in beside its NIC', () => {
  const module = new URL('../dist/examples/vendor-driver.js', import.meta.url).href;
  const devices = ['--device', 'virtio-net', '--device', 'dice,sides=20'];
  const { stdout, status } = run('vmm/cli', 'run', '--plugin', module, ...devices, '--append', 'pings=1');
  expect(stdout).toMatch(/00:04\.0 dice: BAR2 4 KiB 32-bit: 4 KiB mapped/);
  expect(stdout).toMatch(/guest \| 00:04\.0 1234:d1ce class ff0000/);
  expect(stdout).toMatch(/00:04\.0 dice: nothing/);
  expect(status).toBe(0);
});

test('boot-nic: the guest pings through the NIC that the program gave it', () => {
  const { stdout, status } = run('examples/boot-nic');
  expect(stdout).toMatch(/attach: .*associated with the VM/);
  expect(stdout).toMatch(/10\/10 replies/);
  expect(stdout).toMatch(/00:03\.0 virtio-net \{/);
  expect(status).toBe(0);
});
