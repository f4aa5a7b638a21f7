/** A NIC that comes and goes while Linux uses it: under traffic, by group and by cdev, on request and pulled out. */
import { execFileSync } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { VirtualMachine } from '../vmm/virtual-machine.js';
import { came, comeAndGo, gone, memoryOf, refusedDma, startGuest } from './hotplug-guest.js';

const { LAB_E1000E: NIC = '', LAB_E1000E_PORT: PORT_NIC = '' } = process.env;
const both = ['group', 'iommufd'] as const;
const ROUNDS = 50;

const running: VirtualMachine[] = [];
afterEach(async () => {
  for (const vm of running.splice(0)) await vm[Symbol.asyncDispose]();
});

beforeAll(() => execFileSync('vfio-load'));

describe.skipIf(NIC === '' || PORT_NIC === '')('a NIC of a running Linux', () => {
  beforeAll(() => execFileSync('vfio-bind', [NIC, PORT_NIC]));
  afterAll(() => execFileSync('vfio-unbind', [NIC, PORT_NIC]));

  test(`comes and goes ${ROUNDS} times under traffic, by group and by cdev, and leaves nothing`, {
    timeout: 560_000,
  }, async () => {
    const guest = await startGuest(running);
    const devices = both.map((how) => ({ address: NIC, interface: how }));
    await comeAndGo(guest, devices, ROUNDS);
  });

  // Below a port: the other one has no reset that ends its DMA (docs/hotplug.md).
  test.each(both)(
    'may be pulled out under traffic: Linux goes on, and takes it again (%s)',
    { timeout: 300_000 },
    async (how) => {
      const guest = await startGuest(running);
      const before = memoryOf(guest);
      for (let round = 1; round <= 3; round++) {
        const slot = await guest.vm.attach({ address: PORT_NIC, interface: how });
        await guest.says(came(slot), round);
        expect(refusedDma(), `attached, round ${round}`).toEqual([]);
        await sleep(500);
        expect(refusedDma(), `in use, round ${round}`).toEqual([]);
        await guest.vm.detach(slot, { force: true });
        expect(refusedDma(), `removed by force, round ${round}`).toEqual([]);
        await guest.says(gone(slot), round);
        expect(refusedDma(), `noticed by the guest, round ${round}`).toEqual([]);
      }
      expect(memoryOf(guest)).toEqual(before);
    },
  );

  test('a Linux without acpiphp does not release it in time: it works on, until it is removed by force', {
    timeout: 300_000,
  }, async () => {
    const guest = await startGuest(running, 'acpiphp.disable=1');
    const slot = await guest.vm.attach({ address: NIC });
    await sleep(1000);
    expect(guest.serial()).not.toContain('L2-CAME'); // nor is it told of it
    await expect(guest.vm.detach(slot, { timeoutMs: 3000 })).rejects.toMatchObject({ code: 'ETIMEDOUT' });
    expect(guest.vm.devices).toHaveLength(1);
    await guest.vm.detach(slot, { force: true });
    expect(guest.vm.devices).toEqual([]);
  });
});
