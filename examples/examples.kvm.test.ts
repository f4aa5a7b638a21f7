import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

function runExample(name: string, ...args: string[]): { stdout: string; status: number | null } {
  const program = fileURLToPath(new URL(`../dist/examples/${name}.js`, import.meta.url));
  return spawnSync(process.execPath, [program, ...args], { encoding: 'utf8', timeout: 60_000 });
}

test('boot-nic: the guest pings through the NIC that the program gave it', () => {
  const { stdout, status } = runExample('boot-nic');
  expect(stdout).toMatch(/attach: .*associated with the VM/);
  expect(stdout).toMatch(/10\/10 replies/);
  expect(stdout).toMatch(/00:03\.0 virtio-net \{/);
  expect(status).toBe(0);
});
