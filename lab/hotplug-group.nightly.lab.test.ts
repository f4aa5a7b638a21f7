/** Two functions of one IOMMU group that come and go while Linux uses them, whole or not at all. */
import { execFileSync } from 'node:child_process';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { VirtualMachine } from '../vmm/virtual-machine.js';
import {
  attachUsed,
  detachUsed,
  expectState,
  type Guest,
  refusedDma,
  startGuest,
  state,
  warmUp,
} from './hotplug-guest.js';

const { LAB_PAIR: FIRST = '', LAB_PAIR_1: SECOND = '' } = process.env;

/** What keeps the second one from being attached, and how that is undone. */
const withoutDriver = {
  what: 'it is with no driver',
  code: 'EBUSY',
  put: `echo > /sys/bus/pci/devices/${SECOND}/driver_override; echo ${SECOND} > /sys/bus/pci/drivers/vfio-pci/unbind`,
  undo: `vfio-bind ${SECOND}`,
};
const ownDriver = {
  what: 'it is with its own driver',
  code: 'EPERM',
  put: `modprobe e1000; vfio-unbind ${SECOND}`,
  undo: `vfio-bind ${SECOND}`,
};
const node = `/dev/vfio/devices/$(ls /sys/bus/pci/devices/${SECOND}/vfio-dev)`;
const noNode = {
  what: 'it has no node',
  code: 'ENODEV',
  put: `mv ${node} /run/node`,
  undo: `mv /run/node ${node}`,
};
const ways = ['group', 'iommufd'] as const;
const obstacles = { group: [withoutDriver, ownDriver], iommufd: [withoutDriver, ownDriver, noNode] } as const;

describe.skipIf(FIRST === '' || SECOND === '')('two functions of one IOMMU group', () => {
  const running: VirtualMachine[] = [];
  let guest: Guest;
  beforeAll(async () => {
    execFileSync('vfio-load');
    execFileSync('vfio-bind', [FIRST, SECOND]);
    guest = await startGuest(running);
    await warmUp(
      guest,
      ways.map((how) => ({ address: FIRST, interface: how })),
    );
  }, 120_000);
  afterAll(async () => {
    for (const vm of running.splice(0)) await vm[Symbol.asyncDispose]();
    execFileSync('vfio-unbind', [FIRST, SECOND]);
  });

  describe.each(ways)('by %s', (how) => {
    const list = [FIRST, SECOND].map((address) => ({ address, interface: how }));

    test('come together, and go one by one: the first still works without the second', {
      timeout: 180_000,
    }, async () => {
      const before = state(guest);
      for (let round = 1; round <= 3; round++) {
        expect(await attachUsed(guest, list)).toEqual([3, 4]);
        await detachUsed(guest, 4);
        expect(guest.vm.devices.map(({ slot }) => slot)).toEqual([3]);
        await detachUsed(guest, 3);
        expect(refusedDma(), `round ${round}`).toEqual([]);
        await expectState(guest, before);
      }
    });

    test('are both refused if the second cannot be attached, whatever keeps it, and nothing is left', {
      timeout: 180_000,
    }, async () => {
      const before = state(guest);
      for (const { what, code, put, undo } of obstacles[how]) {
        execFileSync('bash', ['-c', put]);
        try {
          const error = await guest.vm.attach(list).catch((reason: unknown) => reason);
          expect(error, what).toMatchObject({ code });
        } finally {
          execFileSync('bash', ['-c', undo]);
        }
        expect(guest.vm.devices).toEqual([]);
        await expectState(guest, before);
      }
      expect(await attachUsed(guest, list)).toEqual([3, 4]);
      for (const slot of [4, 3]) await detachUsed(guest, slot);
      await expectState(guest, before);
      expect(refusedDma()).toEqual([]);
      expect(guest.serial()).not.toMatch(/L2-MUTE|Oops|BUG|WARNING/);
    });
  });
});
