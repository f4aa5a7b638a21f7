/** A virtual function, and a NIC of this process, that come and go while Linux uses them. */
import { execFileSync } from 'node:child_process';
import { afterAll, beforeAll, describe, test } from 'vitest';
import type { VirtualMachine } from '../vmm/virtual-machine.js';
import { comeAndGo, type Guest, startGuest, warmUp } from './hotplug-guest.js';

const { LAB_IGB: IGB = '' } = process.env;
const IN_PROCESS = 'virtio-net';
const ways = (address: string) => (['group', 'iommufd'] as const).map((how) => ({ address, interface: how }));
const [ROUNDS, ROUNDS_IN_PROCESS] = [50, 20];

describe.skipIf(IGB === '')('in one Linux guest', () => {
  const running: VirtualMachine[] = [];
  let guest: Guest;
  let vf = '';
  beforeAll(async () => {
    execFileSync('vfio-load');
    vf = execFileSync('vf-create', [IGB, '1'], { encoding: 'utf8' }).trim();
    execFileSync('vfio-bind', [vf]);
    guest = await startGuest(running);
    await warmUp(guest, [...ways(vf), ...ways(IN_PROCESS)]);
  }, 120_000);
  afterAll(async () => {
    for (const vm of running.splice(0)) await vm[Symbol.asyncDispose]();
    execFileSync('vfio-unbind', [vf]);
    execFileSync('sh', ['-c', `echo 0 > /sys/bus/pci/devices/${IGB}/sriov_numvfs`]);
  });

  test(`a VF comes and goes ${ROUNDS} times under traffic, by group and by cdev, and leaves nothing`, {
    timeout: 300_000,
  }, async () => {
    await comeAndGo(guest, ways(vf), ROUNDS);
  });

  test(`a NIC of this process comes and goes ${ROUNDS_IN_PROCESS} times likewise`, {
    timeout: 200_000,
  }, async () => {
    await comeAndGo(guest, ways(IN_PROCESS), ROUNDS_IN_PROCESS);
  });
});
