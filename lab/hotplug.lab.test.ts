/** A NIC that comes and goes while Linux uses it: under traffic, by group and by cdev, on request and pulled out. */
import { execFileSync } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { PCI_COMMAND, PCI_COMMAND_MASTER, PCI_COMMAND_MEMORY } from '../devices/pci/pci-regs.js';
import { Scope } from '../sys/scope.js';
import { hostProvider } from '../vfio/host/index.js';
import {
  VFIO_PCI_BAR0_REGION_INDEX,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_TYPE1v2_IOMMU,
} from '../vfio/uapi.js';
import type { VirtualMachine } from '../vmm/virtual-machine.js';
import {
  attachUsed,
  comeAndGo,
  detachUsed,
  expectState,
  type Guest,
  refusedDma,
  startGuest,
  state,
  warmUp,
} from './hotplug-guest.js';

const { LAB_E1000E: NIC = '', LAB_E1000E_PORT: PORT_NIC = '' } = process.env;
const NICS = [NIC, PORT_NIC].filter((address) => address !== '');
const both = ['group', 'iommufd'] as const;
const ROUNDS = 20;

const running: VirtualMachine[] = [];
const endAll = async () => {
  for (const vm of running.splice(0)) await vm[Symbol.asyncDispose]();
};

beforeAll(() => {
  execFileSync('vfio-load');
  execFileSync('vfio-bind', NICS);
});
afterAll(() => execFileSync('vfio-unbind', NICS));

describe.skipIf(NIC === '' || PORT_NIC === '')('a NIC of a running Linux', () => {
  let guest: Guest;
  const ways = both.map((how) => ({ address: NIC, interface: how }));
  beforeAll(async () => {
    guest = await startGuest(running);
    await warmUp(guest, ways);
  }, 120_000);
  afterAll(endAll);

  test(`comes and goes ${ROUNDS} times under traffic, by group and by cdev, and leaves nothing`, {
    timeout: 300_000,
  }, async () => {
    await comeAndGo(guest, ways, ROUNDS);
  });

  // Below a port, so that its bus is reset.
  test.each(both)(
    'may be pulled out under traffic: Linux goes on, and takes it again (%s)',
    { timeout: 100_000 },
    async (how) => {
      const before = state(guest);
      for (let round = 1; round <= 3; round++) {
        await attachUsed(guest, [{ address: PORT_NIC, interface: how }]);
        await sleep(500);
        expect(refusedDma(), `in use, round ${round}`).toEqual([]);
        await detachUsed(guest, 3, { force: true });
        expect(refusedDma(), `removed by force, round ${round}`).toEqual([]);
        await expectState(guest, before);
      }
    },
  );

  test('is cut off from memory when it is pulled out, though its only reset, D3hot, leaves its DMA as it was', {
    timeout: 100_000,
  }, async () => {
    const before = state(guest);
    await attachUsed(guest, ways.slice(0, 1));
    await sleep(500);
    await detachUsed(guest, 3, { force: true });
    await sleep(500);
    expect(refusedDma()).toEqual([]);
    expect(resetByItself(NIC)).toEqual({ isMaster: false, receives: true });
    // Without that reset, it goes on with what its last driver has set up as soon as Linux lets it master the bus again.
    await attachUsed(guest, ways.slice(0, 1));
    await detachUsed(guest, 3);
    expect(refusedDma()).toEqual([]);
    await expectState(guest, before);
  });
});

describe.skipIf(NIC === '')('a Linux without acpiphp', () => {
  afterEach(endAll);

  test('does not release a NIC in time: it works on, until it is removed by force', {
    timeout: 150_000,
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

/** The e1000e's own registers, in BAR0: device control with its reset, and receive control with its enable bit. */
const [CTRL, CTRL_RST, RCTL, RCTL_EN] = [0x0000, 1 << 26, 0x0100, 1 << 1];

/**
 * Opens an e1000e, which tries all resets of the kernel, and resets it by its own register then. Returns in what state it
 * was: may it master the bus, and is its receiver on?
 */
function resetByItself(address: string): { readonly isMaster: boolean; readonly receives: boolean } {
  using scope = new Scope();
  const provider = hostProvider();
  const device = scope.own(provider.resolve(address, {}));
  const container = scope.own(provider.groups.openContainer());
  const group = scope.own(provider.groups.openGroup(device.group));
  group.setContainer(container);
  container.setIommu(VFIO_TYPE1v2_IOMMU);
  const file = scope.own(group.getDeviceFd(address));
  file.reset();
  const registers = (index: number) => {
    const { offset } = file.getRegionInfo(index);
    const word = new Uint32Array(1);
    const bytes = new Uint8Array(word.buffer);
    return {
      get(at: number): number {
        file.read(offset + at, bytes);
        return word[0] as number;
      },
      set(at: number, value: number): void {
        word[0] = value;
        file.write(offset + at, bytes);
      },
    };
  };
  const [config, bar] = [registers(VFIO_PCI_CONFIG_REGION_INDEX), registers(VFIO_PCI_BAR0_REGION_INDEX)];
  const command = config.get(PCI_COMMAND) & 0xffff;
  config.set(PCI_COMMAND, command | PCI_COMMAND_MEMORY);
  const receives = (bar.get(RCTL) & RCTL_EN) !== 0;
  bar.set(CTRL, bar.get(CTRL) | CTRL_RST);
  return { isMaster: (command & PCI_COMMAND_MASTER) !== 0, receives };
}
