import { describe, expect, test } from 'vitest';
import { ConfigSpace } from '../devices/pci/config-space.js';
import { PCI_CAP_ID_AF, PCI_DEVICE_ID, PCI_VENDOR_ID } from '../devices/pci/pci-regs.js';
import { fakeEnvironment } from '../devices/testing/fake-ports.js';
import { VfioPciFunctions } from '../devices/vfio-pci/functions.js';
import { gpa, hva } from '../sys/address.js';
import { disposable, Scope } from '../sys/scope.js';
import { Assignment, type VfioInterface } from '../vfio/assign/index.js';
import { hostProvider } from '../vfio/host/index.js';
import { FailingSystem, FakeHost, FakeKernel, parseSystemFailures } from '../vfio/host/testing/index.js';
import { VFIO_DEVICE_FLAGS_PCI, VFIO_DEVICE_FLAGS_RESET } from '../vfio/uapi.js';
import { REFUSED, REFUSED_BY, withAddress } from './failing-calls.js';

const A = '0000:01:00.0';
const RAM = { kind: 'ram', name: 'ram', gpa: gpa(0n), hva: hva(0x10_0000n), bytes: 0x10_0000n } as const;

function config(): Uint8Array {
  const space = new ConfigSpace();
  space.set(PCI_VENDOR_ID, 2, 0x1234);
  space.set(PCI_DEVICE_ID, 2, 0x7463);
  space.addCapability(PCI_CAP_ID_AF, Uint8Array.of(6, 3, 0, 0));
  return space.values;
}

/** The scripted kernel, with a device that has a reset of its own and one of its slot. */
function machine(scope: Scope, how: VfioInterface) {
  const host = scope.own(FakeHost.create());
  const kernel = new FakeKernel(host.roots.dev);
  host.addPci({ address: A, driver: 'vfio-pci', group: 26, cdev: 'vfio26' });
  const bytes = config();
  kernel.addDevice({
    ...{ name: A, group: 26, cdev: 'vfio26', flags: VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET },
    regions: Array.from({ length: 9 }, (_, i) =>
      i === 7 ? { flags: 3, size: bytes.length, bytes } : { flags: 0, size: 0 },
    ),
    irqs: Array.from({ length: 5 }, (_, i) => ({ flags: 1, count: i < 3 ? 0 : 1 })),
    hotReset: [{ group: 26, bus: 1, devfn: 0 }],
  });
  const system = new FailingSystem(kernel);
  const assignment = scope.own(
    new Assignment({
      memory: {
        listen(listener) {
          listener.added(RAM);
          return disposable(() => listener.removed(RAM));
        },
      },
      association: { addFile: () => {}, removeFile: () => {} },
      providers: [hostProvider({ system, sysfs: host.sysfs, roots: host.roots })],
      functions: new VfioPciFunctions(fakeEnvironment()),
    }),
  );
  return {
    kernel,
    system,
    dev: host.roots.dev,
    attach: () => assignment.attach({ address: A, interface: how }),
  };
}

describe.each(['group', 'iommufd'] as const)('by %s, a call of the scripted kernel', (how) => {
  test.each([...REFUSED, ...REFUSED_BY[how]])('%s refuses the device, and says so', (fails, says) => {
    using scope = new Scope();
    const { kernel, system, dev, attach } = machine(scope, how);
    attach()[Symbol.dispose]();
    system.fail(parseSystemFailures(fails));
    let message = '';
    try {
      attach();
    } catch (error) {
      message = (error as Error).message;
    }
    expect(message.replaceAll(dev, '/dev')).toMatch(withAddress(says, A));
    expect(kernel.openFiles).toBe(0);
    system.fail([]);
    attach()[Symbol.dispose]();
  });
});
