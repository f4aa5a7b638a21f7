import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

test('kvm-vfio-association: every expectation holds, and the timeline tells why', () => {
  const program = fileURLToPath(new URL('../dist/examples/kvm-vfio-association.js', import.meta.url));
  const { stdout, stderr, status } = spawnSync(process.execPath, [program], {
    encoding: 'utf8',
    timeout: 60_000,
  });
  expect(stderr).toBe('');
  const what = stdout.replace(/^ +[\d.]+ /gm, '').split('\n');
  const at = (line: RegExp) => {
    const index = what.findIndex((each) => line.test(each));
    expect(index, `${line} in\n${stdout}`).toBeGreaterThanOrEqual(0);
    return index;
  };
  // Association before open, then the replay, then the second VM: in this order, each under its cause.
  const order = [
    /^set_kvm group=0 kvm=kvm 1/,
    /^ +open_device .*kvm=kvm 1/,
    /^ *replay .*listener=late kvm=kvm 1/,
    /^set_kvm group=0 kvm=null/,
    /^set_kvm group=0 kvm=kvm 2/,
  ].map(at);
  expect(order).toEqual([...order].sort((a, b) => a - b));
  expect(stdout).toMatch(/open_device .*\[GET_DEVICE_FD\]/);
  expect(stdout).toMatch(/^\d{2,} interleavings, and none uses the VM after its end$/m);
  expect(status).toBe(0);
});

test('divided-vgpu: two cards are divided by their policies, what does not fit is refused, and all comes back', () => {
  const program = fileURLToPath(new URL('../dist/examples/divided-vgpu.js', import.meta.url));
  const { stdout, stderr, status } = spawnSync(process.execPath, [program], {
    encoding: 'utf8',
    timeout: 60_000,
  });
  expect([stderr, status]).toEqual(['', 0]);
  expect(stdout).toBe(`vgpu-half on left: made
mdev create on vgpu-quarter UUID: ENOSPC
  hint: vgpu-quarter takes 32 MiB and 8 engines; of left, 64 MiB of 128 are left, and 16 engines of 32: all instances are of one size, and there are some of 64 MiB already; the rest is held by vgpu-half UUID (64 MiB)
vgpu-large on left: made
vgpu-half on right: made
vgpu-quarter on right: made
mdev_device_create on vgpu-half: ENOSPC
  hint: vgpu-half takes 128 MiB and 4 engines; of right, 64 MiB of 256 are left, and 2 engines of 8: too few engines; the rest is held by vgpu-quarter UUID (64 MiB), vgpu-half UUID (128 MiB)
left: 0 of 128 MiB video memory, 15 of 32 engines left
  vgpu-half: 64 MiB at 0 MiB, engines 0-15
  vgpu-large: 64 MiB at 64 MiB, engines 16
  could have: nothing more
right: 64 of 256 MiB video memory, 2 of 8 engines left
  vgpu-quarter: 64 MiB at 64 MiB, engines 4-5
  vgpu-half: 128 MiB at 128 MiB, engines 0-3
  could have: 2 vgpu-small, or 2 vgpu-medium, or 1 vgpu-large, or 1 vgpu-quarter, or 2 vgpu-eighth
after all are removed:
left: 128 of 128 MiB video memory, 32 of 32 engines left
  could have: 16 vgpu-small, or 8 vgpu-medium, or 2 vgpu-large, or 1 vgpu-whole, or 2 vgpu-half, or 4 vgpu-quarter, or 8 vgpu-eighth
right: 256 of 256 MiB video memory, 8 of 8 engines left
  could have: 8 vgpu-small, or 8 vgpu-medium, or 4 vgpu-large, or 1 vgpu-whole, or 2 vgpu-half, or 4 vgpu-quarter, or 8 vgpu-eighth
`);
});
