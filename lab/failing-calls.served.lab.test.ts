/**
 * Each call of VFIO that tsvisor makes of the kernel fails with a chosen errno: what a person is told, and that nothing stays
 * open. The card is healthy, and so is the kernel: the calls fail before they reach it.
 */
import { execFileSync } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { PCI_COMMAND, PCI_COMMAND_MASTER } from '../devices/pci/pci-regs.js';
import { GsiRouting, Kvm, KvmVfio, Mapping, MemorySlots } from '../kvm/index.js';
import { gpa } from '../sys/address.js';
import { Scope } from '../sys/scope.js';
import { trace, type VfioEvent } from '../sys/trace.js';
import type { AssignedDevice, Assignment } from '../vfio/assign/index.js';
import { hostProvider } from '../vfio/host/index.js';
import { FailingSystem, parseSystemFailures } from '../vfio/host/testing/index.js';
import { createAssignment, EventSignals, KvmInterrupts, PolledEventThread } from '../vmm/assign/index.js';
import { held } from '../vmm/testing/talking-machine.js';
import { tsvisorRun } from './command-line.js';
import { BORNE, REFUSED, REFUSED_BY, withAddress } from './failing-calls.js';
import { pinnedKib, refusedDma } from './hotplug-guest.js';

const { LAB_QUICK: CARD = '' } = process.env;
const PLUGIN = './dist/vmm/testing/failing-host-plugin.js';
const RAM_BYTES = 16 << 20;
/** Attaching a device takes seconds on a busy machine. */
const HOOK_MS = 60_000;
const WINDOWS = [
  { kind: 'mmio', base: 0xc000_0000n, bytes: 0x1000_0000n },
  { kind: 'pio', base: 0xc000n, bytes: 0x2000n },
] as const;
/** The built-in guest's verdict without a NIC that it knows: it ran, so the device was attached. */
const RAN = 2;
/** EX_UNAVAILABLE. */
const UNAVAILABLE = 69;

const expected = (says: RegExp) => withAddress(says, CARD);

beforeAll(() => {
  if (CARD === '') return;
  execFileSync('vfio-load');
  execFileSync('vfio-bind', [CARD]);
});
afterAll(() => {
  if (CARD !== '') execFileSync('vfio-unbind', [CARD]);
});

describe.skipIf(CARD === '').each(['group', 'iommufd'] as const)('by %s, the host’s call', (how) => {
  const system = new FailingSystem();
  const steps: string[] = [];
  const hear = ({ text }: VfioEvent) => {
    if (text !== undefined) steps.push(text);
  };
  let scope: Scope;
  let events: PolledEventThread;
  let assignment: Assignment;
  const request = { address: CARD, interface: how, routeIntx: () => 16 };
  const attach = () => assignment.attach(request);
  const state = () => ({ ...held(), ...pinnedKib() });
  let before: ReturnType<typeof state>;

  beforeAll(async () => {
    scope = new Scope();
    events = await PolledEventThread.start();
    trace.vfio.subscribe(hear);
    // A VM without a vCPU.
    const vm = scope.own(scope.own(Kvm.open()).createVm());
    vm.createIrqchip();
    const ram = scope.own(Mapping.huge(RAM_BYTES));
    const routing = GsiRouting.create(vm, { isIoapicRouted: true, isPicRouted: true });
    const made = scope.own(
      createAssignment({
        ...{ vm, eventThread: events, windows: WINDOWS, providers: [hostProvider({ system })] },
        slots: new MemorySlots(vm),
        association: scope.own(KvmVfio.create(vm, undefined)),
        interrupts: new KvmInterrupts(vm, routing),
        signals: scope.own(new EventSignals(events)),
      }),
    );
    made.ports.memoryMap.addRam(gpa(0n), ram);
    assignment = made.ports.assignment;
    attach()[Symbol.dispose](); // opens what stays open
    before = state();
  }, HOOK_MS);
  afterAll(async () => {
    trace.vfio.unsubscribe(hear);
    scope[Symbol.dispose]();
    await events[Symbol.asyncDispose]();
  });
  beforeEach(() => steps.splice(0));
  afterEach(async () => {
    system.fail([]);
    // The kernel closes some files a little later.
    for (let tries = 0; tries < 50 && JSON.stringify(state()) !== JSON.stringify(before); tries++)
      await sleep(20);
    expect(state()).toEqual(before);
    expect(refusedDma()).toEqual([]);
  }, HOOK_MS);

  test.each([...REFUSED, ...REFUSED_BY[how]])('%s refuses the device, and says so', (fails, says) => {
    system.fail(parseSystemFailures(fails));
    expect(() => attach()[Symbol.dispose]()).toThrowError(expected(says));
  });

  test.each(BORNE)('%s is borne, and a step says so', (fails, says) => {
    system.fail(parseSystemFailures(fails));
    attach()[Symbol.dispose]();
    expect(steps.join('\n')).toMatch(expected(says));
  });

  describe('in another thread, while the guest boots,', () => {
    const map = how === 'group' ? 'VFIO_IOMMU_MAP_DMA' : 'IOMMU_IOAS_MAP';
    const attachAhead = () => {
      const [card] = assignment.attachAll([request], { mapIn: events });
      return card as AssignedDevice;
    };
    const heard = async (isHeard: () => boolean) => {
      for (let tries = 0; tries < 500 && !isHeard(); tries++) {
        await sleep(20);
        events.poll();
      }
    };
    const mapped = () => steps.some((step) => step.startsWith('DMA map'));
    const master = ({ function: card }: AssignedDevice): number => {
      card.configWrite(PCI_COMMAND, 2, PCI_COMMAND_MASTER);
      return card.configRead(PCI_COMMAND, 2) & PCI_COMMAND_MASTER;
    };

    test('maps memory, of which its owner hears', async () => {
      using card = attachAhead();
      expect(mapped()).toBe(false);
      await heard(mapped);
      expect(master(card)).toBe(PCI_COMMAND_MASTER);
      const { locked, pinned } = pinnedKib();
      expect(locked + pinned).toBeGreaterThanOrEqual(RAM_BYTES >> 10);
    });

    test('maps memory, for which a card that is to master the bus waits', () => {
      using card = attachAhead();
      expect([mapped(), master(card), mapped()]).toEqual([false, PCI_COMMAND_MASTER, true]);
    });

    test('fails there, and does not fail again', async () => {
      system.fail(parseSystemFailures(`${map}:ENOMEM:1`));
      using card = attachAhead();
      await heard(mapped);
      expect(master(card)).toBe(PCI_COMMAND_MASTER);
    });

    test('fails for good: the card never masters the bus, and the owner of the thread is told why', async () => {
      system.fail(parseSystemFailures(`${map}:ENOMEM`));
      using card = attachAhead();
      expect(master(card)).toBe(0);
      await expect(heard(() => false)).rejects.toThrowError(new RegExp(`^${map} on .*: ENOMEM\n  hint: `));
    });
  });

  test('of nothing fails in the end: the device is usable as before', () => {
    attach()[Symbol.dispose]();
    expect(steps.join('\n')).toMatch(/the device is reset$/m);
  });
});

describe.skipIf(CARD === '').each(['group', 'iommufd'] as const)('what a person sees by %s:', (how) => {
  const run = (fails: string) =>
    tsvisorRun(
      ['--plugin', PLUGIN, '--device', `${CARD},interface=${how}`],
      `TSVISOR_TEST_FAIL='${fails}' "$@"`,
    );
  const map = how === 'group' ? 'VFIO_IOMMU_MAP_DMA' : 'IOMMU_IOAS_MAP';

  test.each([
    [
      'VFIO_DEVICE_RESET:EIO+VFIO_DEVICE_PCI_HOT_RESET:ENOTTY',
      /^tsvisor: VFIO_DEVICE_RESET on ADDRESS: EIO\n {2}hint: .*power-cycle it/s,
    ],
    [`${map}:ENOMEM`, new RegExp(`^tsvisor: ${map} on .*: ENOMEM\\n  hint: `)],
    ['VFIO_DEVICE_SET_IRQS:ENOSPC:1', /^tsvisor: VFIO_DEVICE_SET_IRQS on ADDRESS, irq index \d: ENOSPC/],
  ])('%s ends the run with the call, the errno and what to do, and the device is free', (fails, says) => {
    const { status, error } = run(fails);
    expect(error).toMatch(expected(says));
    expect(error).not.toMatch(/ at .*\.js:/);
    expect(status).toBe(UNAVAILABLE);
    execFileSync('vfio-unbind', [CARD]);
    execFileSync('vfio-bind', [CARD]);
  });

  test('the same device, whose calls succeed, is used', () => {
    expect(run('VFIO_DEVICE_RESET:EIO:99').status).toBe(RAN);
  });
});
