import { describe, expect, test } from 'vitest';
import { InlineEventThread } from '../../sys/inline-event-thread.js';
import { disposable, Scope } from '../../sys/scope.js';
import { trace } from '../../sys/trace.js';
import { type AssignedDevice, Assignment, type VfioInterface } from '../../vfio/assign/index.js';
import { hostProvider } from '../../vfio/host/index.js';
import { type FakeDevice, FakeHost, FakeKernel } from '../../vfio/host/testing/index.js';
import { VfioCore } from '../../vfio/index.js';
import { RecordingDevice } from '../../vfio/testing/recording-device.js';
import { VFIO_DEVICE_FLAGS_PCI, VFIO_DEVICE_FLAGS_RESET } from '../../vfio/uapi.js';
import { ConfigSpace } from '../pci/config-space.js';
import {
  PCI_CAP_ID_AF,
  PCI_CAP_ID_EXP,
  PCI_CAP_ID_PM,
  PCI_COMMAND,
  PCI_DEVICE_ID,
  PCI_EXP_DEVCAP_FLR,
  PCI_PM_CTRL,
  PCI_VENDOR_ID,
} from '../pci/pci-regs.js';
import { start as startCardTask } from '../testcard/card-task.js';
import { createTestCardDriver } from '../testcard/driver.js';
import { fakeEnvironment, recordTrace } from '../testing/fake-ports.js';
import { walkCapabilities } from './capabilities.js';
import { VfioPciFunctions } from './functions.js';

const A = '0000:01:00.0';
const B = '0000:01:00.1';
const BOTH = [
  { group: 26, bus: 1, devfn: 0 },
  { group: 27, bus: 1, devfn: 1 },
];
const ALONE = BOTH.slice(0, 1);

/** How a device can be reset, as its capabilities and its info tell. */
interface Methods {
  readonly isNoReset?: boolean;
  readonly flr?: 'express' | 'af';
  readonly pm?: 'resets' | 'keeps';
  /** It is in D3hot. */
  readonly sleep?: 'wakes' | 'stuck';
}

function config({ flr, pm, sleep }: Methods): Uint8Array {
  const space = new ConfigSpace();
  space.set(PCI_VENDOR_ID, 2, 0x10de);
  space.set(PCI_DEVICE_ID, 2, 0x1c82);
  if (pm !== undefined)
    space.addCapability(
      PCI_CAP_ID_PM,
      Uint8Array.of(3, 0, (pm === 'keeps' ? 8 : 0) | (sleep === undefined ? 0 : 3), 0, 0, 0),
    );
  if (flr === 'af') space.addCapability(PCI_CAP_ID_AF, Uint8Array.of(6, 3, 0, 0));
  const express = new Uint8Array(0x3a);
  new DataView(express.buffer).setUint32(2, flr === 'express' ? PCI_EXP_DEVCAP_FLR : 0, true);
  space.addCapability(PCI_CAP_ID_EXP, express);
  return space.values;
}

const none = { flags: 0, size: 0 };
const regionsWith = (bytes: Uint8Array, stuck: readonly number[] = []) =>
  Array.from({ length: 9 }, (_, i) => (i === 7 ? { flags: 3, size: bytes.length, bytes, stuck } : none));
/** Where the first capability is, and so the power state. */
const POWER_AT = 0x40 + PCI_PM_CTRL;

interface Machine {
  readonly kernel: FakeKernel;
  readonly assignment: Assignment;
  readonly notes: () => string[];
  readonly warnings: () => string[];
  attach(address: string): AssignedDevice;
  add(address: string, methods: Methods, slot?: typeof BOTH): FakeDevice;
}

/** A machine on a scripted kernel. */
function machine(scope: Scope, how: VfioInterface = 'group'): Machine {
  const host = scope.own(FakeHost.create());
  const kernel = new FakeKernel(host.roots.dev);
  const recorded = scope.own(recordTrace(trace.vfio));
  const assignment = scope.own(
    new Assignment({
      memory: { listen: () => disposable(() => {}) },
      association: { addFile: () => {}, removeFile: () => {} },
      providers: [hostProvider({ system: kernel, sysfs: host.sysfs, roots: host.roots })],
      functions: new VfioPciFunctions(fakeEnvironment()),
    }),
  );
  return {
    kernel,
    assignment,
    notes: () =>
      recorded.events.filter(({ what }) => what === 'reset').map(({ device, text }) => `${device}: ${text}`),
    warnings: () =>
      recorded.events.filter(({ level }) => level === 'warn').map(({ device, text }) => `${device}: ${text}`),
    attach: (address) => assignment.attach({ address, interface: how }),
    add(address, methods, slot) {
      const group = address === A ? 26 : 27;
      const cdev = `vfio${group}`;
      host.addPci({ address, driver: 'vfio-pci', group, cdev });
      const flags = VFIO_DEVICE_FLAGS_PCI | (methods.isNoReset ? 0 : VFIO_DEVICE_FLAGS_RESET);
      return kernel.addDevice({
        ...{
          name: address,
          group,
          cdev,
          flags,
          regions: regionsWith(config(methods), methods.sleep === 'stuck' ? [POWER_AT] : []),
        },
        irqs: Array.from({ length: 5 }, () => ({ flags: 0, count: 0 })),
        ...(slot === undefined ? {} : { hotReset: slot }),
      });
    },
  };
}

const counts = (...devices: FakeDevice[]) => devices.map(({ resets, hotResets }) => [resets, hotResets]);
const use = ({ function: pci }: AssignedDevice): void => pci.configWrite(PCI_COMMAND, 2, 0x6);

describe.each(['group', 'iommufd'] as const)(
  'a slot of two functions without a function level reset, by %s',
  (how) => {
    test('is reset once when both are attached, and once when the machine ends', () => {
      using scope = new Scope();
      const { assignment, kernel, add, attach, notes } = machine(scope, how);
      const fakes = [add(A, { pm: 'resets' }, BOTH), add(B, { pm: 'resets' }, BOTH)] as const;
      const a = attach(A);
      expect(counts(...fakes)).toEqual([
        [1, 0],
        [0, 0],
      ]);
      const b = attach(B);
      expect(counts(...fakes)).toEqual([
        [1, 1],
        [0, 1],
      ]);
      expect(notes()).toEqual([
        expect.stringMatching(
          /^0000:01:00\.0: went through D3hot only, .*No reset of its slot: 0000:01:00\.1 is on its slot, and it.* not attached to this machine/,
        ),
        `${A}: the device is reset with its slot, by ${B}`,
        `${B}: the device is reset with its slot: ${A}, ${B}`,
      ]);
      use(a);
      use(b);
      const count = notes().length;
      assignment[Symbol.dispose]();
      expect(counts(...fakes)).toEqual([
        [1, 2],
        [0, 2],
      ]);
      expect(notes().slice(count)).toEqual([
        `${B}: the device is reset with its slot, by ${A}`,
        `${A}: the device is reset with its slot: ${A}, ${B}`,
      ]);
      expect(kernel.openFiles).toBe(0);
    });

    test('is reset once by a machine reset, though both are used', () => {
      using scope = new Scope();
      const { assignment, add, attach } = machine(scope, how);
      const fakes = [add(A, { pm: 'resets' }, BOTH), add(B, { isNoReset: true }, BOTH)] as const;
      const devices = [attach(A), attach(B)];
      for (const device of devices) use(device);
      assignment.reset();
      assignment.reset();
      expect(counts(...fakes)).toEqual([
        [1, 2],
        [0, 2],
      ]);
    });

    test('is not reset under a function that the guest uses, and the note names that', () => {
      using scope = new Scope();
      const { add, attach, notes } = machine(scope, how);
      const fakes = [add(A, { pm: 'resets' }, BOTH), add(B, { pm: 'resets' }, BOTH)] as const;
      const a = attach(A);
      use(a);
      const b = attach(B);
      expect(counts(...fakes)).toEqual([
        [1, 0],
        [1, 0],
      ]);
      expect(notes().at(-1)).toMatch(
        /^0000:01:00\.1: went through D3hot only, .*: 0000:01:00\.0 is on its slot, and the guest uses it$/,
      );
      a.function.configWrite(PCI_COMMAND, 2, 0);
      use(b);
      b[Symbol.dispose]();
      expect(counts(...fakes)).toEqual([
        [1, 1],
        [1, 1],
      ]);
    });

    test('is not reset without a function that is the host’s, and no note says that the device is reset', () => {
      using scope = new Scope();
      const { add, attach, notes } = machine(scope, how);
      const fake = add(A, { isNoReset: true }, BOTH);
      use(attach(A));
      expect(counts(fake)).toEqual([[0, 0]]);
      expect(notes()).toEqual([
        expect.stringMatching(
          /^0000:01:00\.0: not reset: it keeps the state .*: 0000:01:00\.1 is on its slot/,
        ),
      ]);
      scope[Symbol.dispose]();
    });
  },
);

test.each([
  ['a function level reset of PCI Express', { flr: 'express', pm: 'resets' }, [1, 0]],
  ['a function level reset of Advanced Features', { flr: 'af', pm: 'resets' }, [1, 0]],
  ['a reset that is not through D3hot', { pm: 'keeps' }, [1, 0]],
  ['D3hot only', { pm: 'resets' }, [0, 1]],
  ['no reset of its own', { isNoReset: true }, [0, 1]],
] as const)('a device alone in its slot with %s is reset by the right call', (_what, methods, expected) => {
  using scope = new Scope();
  const { add, attach, notes } = machine(scope);
  const fake = add(A, methods, ALONE);
  attach(A);
  expect(counts(fake)).toEqual([expected]);
  expect(notes()[0]).toBe(
    expected[1] === 0 ? `${A}: the device is reset` : `${A}: the device is reset with its slot: ${A}`,
  );
});

test('a device that has D3hot, and neither slot nor bus to reset, says so', () => {
  using scope = new Scope();
  const { add, attach, notes } = machine(scope);
  const fake = add(A, { pm: 'resets' });
  attach(A);
  expect(counts(fake)).toEqual([[1, 0]]);
  expect(notes()).toEqual([
    `${A}: went through D3hot only, which may leave its DMA as its last user set it up. No reset of its slot: ` +
      'neither its slot nor its bus can be reset',
  ]);
});

test('a slot whose reset fails leaves D3hot, with the error', () => {
  using scope = new Scope();
  const { kernel, add, attach, notes } = machine(scope);
  const fake = add(A, { pm: 'resets' }, ALONE);
  kernel.failNext('VFIO_DEVICE_PCI_HOT_RESET', 'EIO');
  attach(A);
  expect(counts(fake)).toEqual([[1, 0]]);
  expect(notes()[0]).toMatch(/D3hot only, .*VFIO_DEVICE_PCI_HOT_RESET on 0000:01:00\.0: EIO/);
});

describe('a device whose VFIO_DEVICE_RESET fails', () => {
  test('is reset with its slot, and a warning names the call and the errno', () => {
    using scope = new Scope();
    const { kernel, add, attach, notes, warnings } = machine(scope);
    const fake = add(A, { flr: 'express' }, ALONE);
    kernel.failNext('VFIO_DEVICE_RESET', 'EIO');
    attach(A);
    expect(counts(fake)).toEqual([[0, 1]]);
    expect(warnings()).toEqual([
      `${A}: it is reset with its slot instead: VFIO_DEVICE_RESET on 0000:01:00.0: EIO`,
    ]);
    expect(notes().at(-1)).toBe(`${A}: the device is reset with its slot: ${A}`);
  });

  test.each([
    [undefined, 'neither its slot nor its bus can be reset'],
    [ALONE, 'VFIO_DEVICE_PCI_HOT_RESET on 0000:01:00.0: ETIMEDOUT'],
  ])('is not used if nothing else resets it, and the error says both', (slot, why) => {
    using scope = new Scope();
    const { kernel, add, attach, warnings } = machine(scope);
    add(A, { flr: 'express' }, slot);
    kernel.failNext('VFIO_DEVICE_RESET', 'EIO');
    kernel.failNext('VFIO_DEVICE_PCI_HOT_RESET', 'ETIMEDOUT');
    expect(() => attach(A)).toThrowError(
      `VFIO_DEVICE_RESET on 0000:01:00.0: EIO\n  hint: it still has the state of its last user; no reset of its slot: ${why}`,
    );
    expect(warnings()).toEqual([]);
    expect(kernel.openFiles).toBe(0);
  });
});

describe('a device in D3hot', () => {
  test.each(['group', 'iommufd'] as const)(
    'that does not leave it is used, and a warning says call, errno and what to do (%s)',
    (how) => {
      using scope = new Scope();
      const { add, attach, warnings } = machine(scope, how);
      add(A, { pm: 'keeps', sleep: 'stuck' }, ALONE);
      const a = attach(A);
      expect(warnings()).toEqual([
        expect.stringMatching(
          /^0000:01:00\.0: write of power state D0 on configuration space of 0000:01:00\.0: EIO\n {2}hint: it is stuck in D3hot, .*power-cycle it/,
        ),
      ]);
      a[Symbol.dispose]();
      expect(warnings()).toHaveLength(1);
    },
  );

  test('that leaves it is used without a warning', () => {
    using scope = new Scope();
    const { add, attach, warnings } = machine(scope);
    add(A, { pm: 'keeps', sleep: 'wakes' }, ALONE);
    attach(A);
    expect(warnings()).toEqual([]);
  });
});

test('a test card that a guest has left in D3hot, and that is stuck there, is warned of when the machine resets', () => {
  using scope = new Scope();
  const task = new URL('test:card-task');
  const eventThread = scope.own(new InlineEventThread(new Map([[task.href, startCardTask]])));
  const core = scope.own(new VfioCore());
  scope.own(core.registerVendorDriver(createTestCardDriver(task), { eventThread }));
  const recorded = scope.own(recordTrace(trace.vfio));
  const assignment = scope.own(
    new Assignment({
      memory: { listen: () => disposable(() => {}) },
      association: { addFile: () => {}, removeFile: () => {} },
      providers: [core.provider],
      functions: new VfioPciFunctions(fakeEnvironment()),
    }),
  );
  const { function: pci } = assignment.attach({
    address: 'testcard',
    interface: 'group',
    options: { fault: 'stuck-in-d3' },
  });
  const read = (offset: number, bytes: number) => pci.configRead(offset, bytes);
  const power = walkCapabilities(read).find(({ id }) => id === PCI_CAP_ID_PM);
  pci.configWrite((power?.offset ?? 0) + PCI_PM_CTRL, 2, 3);
  const warnings = () => recorded.events.filter(({ level }) => level === 'warn').map(({ text }) => text);
  expect(warnings()).toEqual([]);
  assignment.reset();
  expect(warnings()).toEqual([
    expect.stringMatching(/^write of power state D0 on .*: EIO\n.*stuck in D3hot/),
  ]);
});

test('a host that holds the device while it unbinds it is no error of the detach, and the note says what it is', () => {
  using scope = new Scope();
  const { kernel, add, attach, notes } = machine(scope);
  add(A, { flr: 'express' }, ALONE);
  const a = attach(A);
  use(a);
  kernel.failNext('VFIO_DEVICE_RESET', 'EAGAIN');
  a[Symbol.dispose]();
  expect(notes().at(-1)).toBe(
    `${A}: not reset here, which is harmless: the host holds it, as it does while it unbinds or removes it; vfio-pci ` +
      'resets it when it is next opened',
  );
  kernel.failNext('VFIO_DEVICE_RESET', 'EAGAIN');
  expect(() => attach(A)).toThrowError(
    /VFIO_DEVICE_RESET on 0000:01:00\.0: EAGAIN\n.*the host holds the device’s lock/,
  );
});

test('a device is not reset again if the guest has only been given its BARs since', () => {
  using scope = new Scope();
  const { assignment, add, attach } = machine(scope);
  const fake = add(A, { flr: 'express' }, ALONE);
  const a = attach(A);
  a.function.configWrite(0x10, 4, 0xe000_0000);
  assignment.reset();
  expect(fake.resets).toBe(1);
  use(a);
  a[Symbol.dispose]();
  expect(fake.resets).toBe(2);
});

test.each(['group', 'iommufd'] as const)(
  'functions of one slot of the core are reset together, by %s',
  (how) => {
    using scope = new Scope();
    let resets = 0;
    const slot = { functions: [] as { name: string }[], reset: () => void resets++ };
    const core = scope.own(new VfioCore());
    const type = { name: 'card', description: 'a card', deviceApi: 'vfio-pci', maxInstances: 2 };
    const made: RecordingDevice[] = [];
    const create = (_type: unknown, uuid: string) => {
      slot.functions.push({ name: uuid });
      const regions = regionsWith(config({})).map(({ flags, size }) => ({ flags, size, capabilities: [] }));
      const ops = new RecordingDevice('card', {
        regions,
        irqs: [0, 0, 0, 0, 0],
        pci: { slot },
        hasReset: false,
      });
      ops.memory[7]?.set(config({}));
      made.push(ops);
      return { ops, [Symbol.dispose]: () => {} };
    };
    const eventThread = { run: () => expect.fail('not used here') };
    scope.own(core.registerVendorDriver({ name: 'card', types: [type], create }, { eventThread }));
    const assignment = scope.own(
      new Assignment({
        memory: { listen: () => disposable(() => {}) },
        association: { addFile: () => {}, removeFile: () => {} },
        providers: [core.provider],
        functions: new VfioPciFunctions(fakeEnvironment()),
      }),
    );
    // A slot with one function is reset for it, and with both when the second is there.
    const first = assignment.attach({ address: 'card', interface: how });
    const second = assignment.attach({ address: 'card', interface: how });
    expect(resets).toBe(2);
    use(first);
    use(second);
    assignment[Symbol.dispose]();
    expect(resets).toBe(3);
    expect(made.flatMap(({ misuse }) => misuse)).toEqual([]);
  },
);
