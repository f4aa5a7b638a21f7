/** Tests whose machines have booted already. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { BootedMachine } from './booted-machine.js';

const NIC = { address: 'virtio-net', options: { net: 'responder' } };

describe('a booted machine', () => {
  let booted: BootedMachine | undefined;
  beforeAll(async () => {
    booted = await BootedMachine.boot({
      config: { memory: '16M', devices: [{ address: 'mtty-2' }], cmdline: 'hotplug=1 pings=2' },
      until: 'hotplug: ready',
    });
  }, 120_000);
  afterAll(() => booted?.[Symbol.dispose]());

  test.each([1, 2, 3])('test %i has a fresh one, which knows nothing of the others', async () => {
    await using machine = (booted as BootedMachine).start();
    const slot = await machine.vm.attach(NIC);
    expect(slot).toBe(4);
    await machine.says(`the NIC in slot ${slot} works, 2/2 replies`);
    expect(machine.console).not.toContain('hotplug: ready');
    await machine.vm.detach(slot, { force: true });
    expect((await machine.vm.finished).outcome).toEqual({ kind: 'verdict', status: 0 });
  });
});
