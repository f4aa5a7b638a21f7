import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { PNG } from 'pngjs';
import { guestPicture } from 'tsvisor';
import { expect, test } from 'vitest';

/** @param program `examples/NAME`, or the command line program `vmm/cli` */
function run(name: string, ...args: string[]): { stdout: string; stderr: string; status: number | null } {
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

test('mdev-vgpu: the PNG has every pixel that the guest drew', () => {
  const folder = mkdtempSync(join(tmpdir(), 'tsvisor-example-'));
  try {
    const out = join(folder, 'vgpu.png');
    const { stdout, status } = run('examples/mdev-vgpu', '--xres', '400', '--yres', '300', '--out', out);
    expect(stdout).toMatch(/attach: vgpu-small: display card .*mediated device/);
    expect(stdout).toMatch(/display: drawn and read back/);
    expect(stdout).toMatch(/every pixel is the one that the guest drew/);
    expect(status).toBe(0);
    const { data } = PNG.sync.read(readFileSync(out));
    expect(Buffer.compare(data, guestPicture(400, 300).rgba)).toBe(0);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('boot-nic: the guest pings through the NIC that the program gave it', () => {
  const { stdout, status } = run('examples/boot-nic');
  expect(stdout).toMatch(/attach: .*associated with the VM/);
  expect(stdout).toMatch(/10\/10 replies/);
  expect(stdout).toMatch(/00:03\.0 virtio-net \{/);
  expect(status).toBe(0);
});

test('fresh-machines: three machines begin where one has booted', () => {
  const { stdout, status } = run('examples/fresh-machines');
  expect(stdout).toMatch(/^booted and saved in \d+ ms\nfirst: 2\/2 replies/);
  expect(stdout.match(/2\/2 replies after \d+ ms/g)).toHaveLength(3);
  expect(status).toBe(0);
});

test('moved-vgpu: a picture is the same before the machine is saved, and in two that are restored', () => {
  const { stdout, status } = run('examples/moved-vgpu');
  expect(stdout).toMatch(
    /^saved: \d+ bytes of state, \d+ of memory; picture right: true\n(restored: picture right: true\n){2}$/,
  );
  expect(status).toBe(0);
});

test('own-hypervisor: the guest pings through the NIC that a program of 90 lines gave it', () => {
  const { stdout, status } = run('examples/own-hypervisor');
  expect(stdout).toMatch(/attach: .*associated with the VM/);
  expect(stdout).toMatch(/10\/10 replies, 1\d rx interrupts/);
  expect(stdout).toMatch(/txPackets: 1\d/);
  expect(status).toBe(0);
  const source = readFileSync(new URL('./own-hypervisor.ts', import.meta.url), 'utf8');
  expect(source.trimEnd().split('\n').length).toBeLessThanOrEqual(90);
  expect([...source.matchAll(/from '(tsvisor[^']*)'/g)].map(([, name]) => name).sort()).toEqual([
    'tsvisor/assign',
    'tsvisor/devices',
    'tsvisor/kvm',
  ]);
});

test('own-hypervisor: what cannot be attached ends it with the reason, and nothing keeps it from exiting', () => {
  const { stderr, status } = run('examples/own-hypervisor', '--device', '0000:99:00.0');
  expect(stderr).toMatch(/SysError: .* 0000:99:00\.0: ENODEV/);
  expect(status).toBe(1);
});
