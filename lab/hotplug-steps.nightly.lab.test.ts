/** Two functions of one IOMMU group, attached by the real kernel while each step of the second fails in turn. */
import { execFileSync } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { assignBars } from '../devices/pci/bar-assignment.js';
import { PCI_COMMAND, PCI_COMMAND_MASTER, PCI_COMMAND_MEMORY } from '../devices/pci/pci-regs.js';
import { GsiRouting, Kvm, KvmVfio, Mapping, MemorySlots } from '../kvm/index.js';
import { gpa } from '../sys/address.js';
import { Scope } from '../sys/scope.js';
import { hostProvider } from '../vfio/host/index.js';
import { FaultInjector, faultyProvider } from '../vfio/testing/index.js';
import {
  type AssignedDevice,
  createAssignment,
  EventSignals,
  KvmInterrupts,
  PolledEventThread,
} from '../vmm/assign/index.js';
import { held } from '../vmm/testing/talking-machine.js';
import { pinnedKib, refusedDma } from './hotplug-guest.js';

const { LAB_PAIR: FIRST = '', LAB_PAIR_1: SECOND = '' } = process.env;
const RAM_BYTES = 16 << 20;
const WINDOWS = [
  { kind: 'mmio', base: 0xc000_0000n, bytes: 0x1000_0000n },
  { kind: 'pio', base: 0xc000n, bytes: 0x2000n },
] as const;
/** Steps of the second device that must have failed once each. */
const STEPS = {
  group: ['group.getDeviceFd'],
  iommufd: ['cdevs.openCdev', 'kvm-vfio.addFile', 'device.bindIommufd', 'device.attachIoas'],
} as const;
const ALWAYS = [
  ...['provider.resolve', 'device.getInfo', 'device.getRegionInfo', 'device.getIrqInfo', 'device.setIrqs'],
  ...['signals.watch', 'device.getRegionIoFds'],
];
/** What a device can do without. Without its reset by the slot, it is used as it is, and a note says so. */
const BORNE = [
  'device.getPciHotResetInfo',
  'device.pciHotReset',
  'device.setIrqs',
  'interrupts.level',
  'device.mmap',
];

describe.skipIf(FIRST === '' || SECOND === '')('two functions of one group of the host', () => {
  beforeAll(() => {
    execFileSync('vfio-load');
    execFileSync('vfio-bind', [FIRST, SECOND]);
  });
  afterAll(() => execFileSync('vfio-unbind', [FIRST, SECOND]));

  let events: PolledEventThread;
  let scope: Scope;
  beforeEach(async () => {
    events = await PolledEventThread.start();
    scope = new Scope();
  });
  afterEach(async () => {
    scope[Symbol.dispose]();
    await events[Symbol.asyncDispose]();
  });

  /** A VM without a vCPU, each of whose calls of VFIO and KVM can fail. */
  function bench() {
    const faults = new FaultInjector();
    const kvm = scope.own(Kvm.open());
    const vm = scope.own(kvm.createVm());
    vm.createIrqchip();
    const ram = scope.own(Mapping.huge(RAM_BYTES));
    const slots = new MemorySlots(vm);
    const routing = GsiRouting.create(vm, { isIoapicRouted: true, isPicRouted: true });
    const assignment = scope.own(
      createAssignment({
        ...{ vm, eventThread: faults.wrap('event', events), windows: WINDOWS },
        // Reading registers one by one would take minutes; hotplug-group.test.ts lets each of them fail.
        providers: [faultyProvider(faults, hostProvider(), ['read', 'write'])],
        slots: faults.wrap('slots', slots),
        association: faults.wrap('kvm-vfio', scope.own(KvmVfio.create(vm, undefined))),
        interrupts: faults.wrap('interrupts', new KvmInterrupts(vm, routing)),
        signals: faults.wrap('signals', scope.own(new EventSignals(events))),
      }),
    );
    assignment.ports.memoryMap.addRam(gpa(0n), ram);
    const state = () => ({ ...held(), ...pinnedKib(), slots: slots.count });
    return { faults, assignment, state };
  }
  type Bench = ReturnType<typeof bench>;

  const attachAll = ({ assignment }: Bench, how: 'group' | 'iommufd', addresses: readonly string[]) =>
    assignment.ports.assignment.attachAll(
      addresses.map((address) => ({ address, interface: how, routeIntx: () => 16 })),
    );

  function detachAll(devices: readonly AssignedDevice[]): void {
    for (const device of devices.toReversed()) device[Symbol.dispose]();
  }

  /** The kernel closes some files a little later. */
  async function expectState({ state }: Bench, before: unknown, what: string): Promise<void> {
    for (let tries = 0; tries < 50 && JSON.stringify(state()) !== JSON.stringify(before); tries++)
      await sleep(20);
    expect(state(), what).toEqual(before);
  }

  test.each(['group', 'iommufd'] as const)(
    'are attached whole or not at all, whichever step of the second fails, and nothing is left (%s)',
    { timeout: 120_000 },
    async (how) => {
      const made = bench();
      const { faults } = made;
      detachAll(attachAll(made, how, [FIRST, SECOND])); // opens what stays open
      const before = made.state();
      faults.failAt(-1, 'EIO');
      const first = attachAll(made, how, [FIRST]);
      const ofFirst = faults.count;
      detachAll(first);
      const refused = new Set<string>();
      for (let index = ofFirst; ; index++) {
        faults.failAt(index, 'EIO');
        let devices: readonly AssignedDevice[] = [];
        let error: unknown;
        try {
          devices = attachAll(made, how, [FIRST, SECOND]);
        } catch (reason) {
          error = reason;
        }
        const call = faults.calls[index];
        faults.failAt(-1, 'EIO');
        detachAll(devices);
        if (call === undefined) break;
        if (error === undefined) expect(BORNE).toContain(call);
        else expect(error).toMatchObject({ code: 'EIO' });
        if (error !== undefined) refused.add(call);
        await expectState(made, before, `${call} failed`);
      }
      expect([...refused]).toEqual(expect.arrayContaining([...ALWAYS, ...STEPS[how]]));
      expect(refusedDma()).toEqual([]);
    },
  );

  test.each(['group', 'iommufd'] as const)(
    'are used whichever map of a BAR fails, and nothing is left (%s)',
    { timeout: 120_000 },
    async (how) => {
      const made = bench();
      const { faults } = made;
      detachAll(attachAll(made, how, [FIRST, SECOND]));
      const before = made.state();
      const failed = new Set<string>();
      for (let index = 0; ; index++) {
        const devices = attachAll(made, how, [FIRST, SECOND]);
        faults.failAt(index, 'EIO');
        const functions = devices.map((device) => device.function);
        assignBars(functions, WINDOWS);
        for (const each of functions) {
          each.configWrite(PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
          expect(each.configRead(PCI_COMMAND, 2) & PCI_COMMAND_MEMORY).toBe(PCI_COMMAND_MEMORY);
        }
        const call = faults.calls[index];
        faults.failAt(-1, 'EIO');
        detachAll(devices);
        await expectState(made, before, `${call} failed`);
        if (call === undefined) break;
        failed.add(call);
      }
      expect(failed).toContain('slots.add');
      expect(refusedDma()).toEqual([]);
    },
  );
});
