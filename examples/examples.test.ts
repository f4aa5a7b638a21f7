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
