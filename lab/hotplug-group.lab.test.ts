/** A virtual function, and two functions of one group, that come and go while Linux uses them. */
import { execFileSync } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { VirtualMachine } from '../vmm/virtual-machine.js';
import { came, comeAndGo, expectState, gone, memoryOf, startGuest, state } from './hotplug-guest.js';

const { LAB_IGB: IGB = '', LAB_PAIR: FIRST = '', LAB_PAIR_1: SECOND = '' } = process.env;
const both = ['group', 'iommufd'] as const;
const ROUNDS = 50;

const running: VirtualMachine[] = [];
afterEach(async () => {
  for (const vm of running.splice(0)) await vm[Symbol.asyncDispose]();
});

beforeAll(() => execFileSync('vfio-load'));

describe.skipIf(IGB === '')('a virtual function of a running Linux', () => {
  let vf = '';
  beforeAll(() => {
    vf = execFileSync('vf-create', [IGB, '1'], { encoding: 'utf8' }).trim();
    execFileSync('vfio-bind', [vf]);
  });
  afterAll(() => {
    execFileSync('vfio-unbind', [vf]);
    execFileSync('sh', ['-c', `echo 0 > /sys/bus/pci/devices/${IGB}/sriov_numvfs`]);
  });

  test(`comes and goes ${ROUNDS} times under traffic, by group and by cdev`, {
    timeout: 560_000,
  }, async () => {
    const guest = await startGuest(running);
    const devices = both.map((how) => ({ address: vf, interface: how }));
    await comeAndGo(guest, devices, ROUNDS);
  });
});

describe.skipIf(FIRST === '' || SECOND === '')('two functions of one IOMMU group', () => {
  beforeAll(() => execFileSync('vfio-bind', [FIRST, SECOND]));
  afterAll(() => execFileSync('vfio-unbind', [FIRST, SECOND]));
  const list = (how: (typeof both)[number]) =>
    [FIRST, SECOND].map((address) => ({ address, interface: how }));

  test.each(both)(
    'come together, and go one by one: the first still works without the second (%s)',
    { timeout: 300_000 },
    async (how) => {
      const guest = await startGuest(running);
      const before = memoryOf(guest);
      for (let round = 1; round <= 3; round++) {
        const slots = await guest.vm.attach(list(how));
        expect(slots).toEqual([3, 4]);
        for (const slot of slots) await guest.says(came(slot), round);
        await guest.vm.detach(4);
        await guest.says(gone(4), round);
        expect(guest.vm.devices.map(({ slot }) => slot)).toEqual([3]);
        await guest.vm.detach(3);
        await guest.says(gone(3), round);
      }
      expect(memoryOf(guest)).toEqual(before);
    },
  );

  /** What keeps the second one from being attached, and how that is undone. */
  const obstacles: readonly [
    what: string,
    how: readonly (typeof both)[number][],
    put: string,
    undo: string,
  ][] = [
    [
      'is with no driver',
      both,
      `echo > /sys/bus/pci/devices/${SECOND}/driver_override; echo ${SECOND} > /sys/bus/pci/drivers/vfio-pci/unbind`,
      `vfio-bind ${SECOND}`,
    ],
    ['is with its own driver', both, `modprobe e1000; vfio-unbind ${SECOND}`, `vfio-bind ${SECOND}`],
    [
      'has no node',
      ['iommufd'],
      `mv /dev/vfio/devices/$(ls /sys/bus/pci/devices/${SECOND}/vfio-dev) /run/node`,
      `mv /run/node /dev/vfio/devices/$(ls /sys/bus/pci/devices/${SECOND}/vfio-dev)`,
    ],
  ];
  const cases = obstacles.flatMap(([what, hows, put, undo]) =>
    hows.map((how): [string, (typeof both)[number], string, string] => [what, how, put, undo]),
  );
  test.each(cases)(
    'are both refused if the second %s (%s)',
    { timeout: 300_000 },
    async (_what, how, put, undo) => {
      const guest = await startGuest(running);
      // What the first attach opens stays open: Node's own descriptors, the event thread's modules.
      await guest.vm.detach(await guest.vm.attach({ address: FIRST, interface: how }));
      await sleep(1000);
      const before = state(guest);
      execFileSync('bash', ['-c', put]);
      try {
        const error = await guest.vm.attach(list(how)).catch((reason: unknown) => reason);
        expect(error).toBeInstanceOf(Error);
      } finally {
        execFileSync('bash', ['-c', undo]);
      }
      await expectState(guest, before);
      expect(guest.vm.devices).toEqual([]);
      expect(await guest.vm.attach(list(how))).toEqual([3, 4]);
      await guest.says(came(4));
    },
  );
});
