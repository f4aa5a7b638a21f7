/** Calls on a machine while it runs, on the built-in guest. */
import { expect, test } from 'vitest';
import { VirtualMachine } from './virtual-machine.js';

/** A guest that waits for a reply that never comes: by polling, or halted until its timer. */
const WAITING = { address: 'virtio-net', options: { net: 'responder:drop=1' } } as const;

test.each([1, 2])(
  'the counters of a guest that never exits are read while it runs, %i vCPU',
  async (vcpus) => {
    await using vm = VirtualMachine.start({ devices: [WAITING], vcpus, cmdline: 'spin pings=1' });
    const { devices, exits } = await vm.counters();
    expect(devices.map(({ name }) => name)).toEqual(['00:03.0 virtio-net']);
    expect(Object.keys(devices[0]?.counters ?? {})).toContain('txPackets');
    expect(exits).toBeTypeOf('object');
    vm.stop('test');
    await vm.finished;
    await expect(vm.counters()).rejects.toMatchObject({ code: 'ESRCH' });
  },
);

test('a call on a machine that cannot start fails with the reason', async () => {
  await using vm = VirtualMachine.start({ devices: [{ address: 'warp-drive' }] });
  await expect(vm.counters()).rejects.toThrowError(/there is no device 'warp-drive'/);
});
