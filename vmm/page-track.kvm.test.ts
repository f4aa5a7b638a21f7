/** A vendor driver that tracks its guest's writes, in whole machines: with one vCPU, and with two that it has to stop. */
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { NIC, runMachine } from './testing/machines.js';
import { startTalking } from './testing/talking-machine.js';

const PLUGIN = fileURLToPath(new URL('../dist/vmm/testing/page-track-plugin.js', import.meta.url));
const TRACKER = { address: 'page-tracker' };
const ROUNDS = 5;

test.each([1, 2])(
  'a guest whose frames are tracked works, and each write is told: %i vCPU',
  async (vcpus) => {
    const devices = [NIC, TRACKER];
    const { report } = await runMachine({ vcpus, devices, plugins: [PLUGIN], cmdline: 'pings=3' });
    expect(report.outcome).toEqual({ kind: 'verdict', status: 0 });
    const { writes, wrong } = report.devices[1]?.counters ?? {};
    expect(wrong).toBe(0);
    expect(writes).toBeGreaterThan(100);
  },
);

test(`pages begin and end to be tracked ${ROUNDS} times while two vCPUs run`, async () => {
  const { vm, says } = startTalking({
    vcpus: 2,
    devices: [NIC],
    plugins: [PLUGIN],
    cmdline: 'pings=100',
  });
  await using _vm = vm;
  await says('ping  1:');
  for (let round = 0; round < ROUNDS; round++) {
    const slot = await vm.attach(TRACKER);
    const [tracker] = (await vm.counters()).devices.filter(({ name }) => name.includes('page-tracker'));
    expect(tracker?.counters.wrong).toBe(0);
    await vm.detach(slot, { force: true });
  }
  expect((await vm.finished).outcome).toEqual({ kind: 'verdict', status: 0 });
});
