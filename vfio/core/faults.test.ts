import { expect, test } from 'vitest';
import { iova } from '../../sys/address.js';
import { isErrno, SysError } from '../../sys/error.js';
import { Mapping } from '../../sys/mapping.js';
import { disposable, Scope } from '../../sys/scope.js';
import type { KvmPointer, MdevType, VendorDriver } from '../driver.js';
import { type ErrnoName, FaultInjector } from '../testing/fault-injector.js';
import { RecordingDevice } from '../testing/recording-device.js';
import { RecordingListener } from '../testing/recording-listener.js';
import { ScriptedVm } from '../testing/scripted-kvm.js';
import { VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE, VFIO_TYPE1v2_IOMMU } from '../uapi.js';
import { VfioCore } from './core.js';
import { VFIO_GROUP_NOTIFY, VFIO_GROUP_NOTIFY_SET_KVM } from './group.js';
import type { Mdev } from './mdev.js';

const CODES: readonly ErrnoName[] = ['ENOMEM', 'EBUSY', 'EINTR', 'EINVAL', 'ENODEV'];
const type: MdevType = { name: 'sample', description: 'a sample', deviceApi: 'vfio-pci', maxInstances: 1 };
const flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
const eventThread = {
  run() {
    throw new Error('not used here');
  },
};

/** A core each of whose ports may fail, and the whole way of a device into a VM and out again. */
class Rig implements Disposable {
  readonly faults = new FaultInjector();
  readonly warnings: string[] = [];
  readonly vm = new ScriptedVm();
  readonly memory: Mapping;
  readonly core: VfioCore;
  readonly ops: RecordingDevice[] = [];
  instances = 0;
  readonly #registered: Disposable;

  constructor(memory: Mapping) {
    this.memory = memory;
    const { faults } = this;
    this.core = new VfioCore({
      ports: {
        warn: (text) => this.warnings.push(text),
        allocate: (what) => faults.call(`allocate ${what}`),
        findMemory: () => {
          faults.call('findMemory');
          return memory;
        },
      },
    });
    const driver: VendorDriver = {
      name: 'sample-driver',
      types: [type],
      create: () => {
        const device = new RecordingDevice('sample');
        this.ops.push(device);
        this.instances++;
        return { ops: faults.wrap('ops', device), [Symbol.dispose]: () => this.instances-- };
      },
    };
    this.#registered = this.core.registerVendorDriver(faults.wrap('driver', driver), { eventThread });
  }

  /** Create, open, contain, map, associate, listen, get the device, use it. Undone by the scope. */
  attach(scope: Scope): void {
    const { provider, mdevs, environment } = this.core;
    const device = scope.own(provider.resolve('sample', {}));
    const group = scope.own(provider.groups.openGroup(device.group));
    const container = scope.own(provider.groups.openContainer());
    group.setContainer(container);
    scope.defer(() => group.unsetContainer());
    container.setIommu(VFIO_TYPE1v2_IOMMU);
    container.mapDma({ flags, vaddr: this.memory.hva, iova: iova(0n), size: 4096n });
    this.core.vfioFileOps.setKvm(group, this.vm);
    scope.defer(() => this.core.vfioFileOps.setKvm(group, null));
    const listener = new RecordingListener<KvmPointer | null>('driver');
    const { device: vfioDevice } = mdevs.find(device.name) as Mdev;
    const events = { mask: VFIO_GROUP_NOTIFY_SET_KVM };
    environment.executor.run(vfioDevice.registerNotifier(VFIO_GROUP_NOTIFY, events, listener));
    scope.defer(() => environment.executor.run(vfioDevice.unregisterNotifier(VFIO_GROUP_NOTIFY, listener)));
    const file = scope.own(group.getDeviceFd(device.name));
    file.getRegionInfo(0);
    file.setIrqs({ index: 0, flags: 0x21, start: 0, count: 1 });
    file.read(0, new Uint8Array(4));
  }

  /** By cdev instead. */
  attachCdev(scope: Scope): void {
    const { provider } = this.core;
    const device = scope.own(provider.resolve('sample', {}));
    const iommufd = scope.own(provider.cdevs.openIommufd());
    const file = scope.own(provider.cdevs.openCdev(device.cdev ?? ''));
    this.core.vfioFileOps.setKvm(file, this.vm);
    scope.defer(() => this.core.vfioFileOps.setKvm(file, null));
    file.bindIommufd(iommufd);
    const ioas = iommufd.ioasAlloc();
    iommufd.ioasMap(ioas, { flags, vaddr: this.memory.hva, size: 4096n });
    file.attachIoas(ioas);
    file.reset();
  }

  /** What is not as it was in the beginning. */
  differences(): string[] {
    const { core } = this;
    const live = [...core.live].map(([kind, count]) => `${count} ${kind}`);
    if (core.registry.groups.size > 0) live.push('a group');
    if (core.registry.cdevs.size > 0) live.push('a cdev');
    if (core.registry.deviceSets.size > 0) live.push('a device set');
    if (core.environment.iommuGroupNumbers.count > 0) live.push('an IOMMU group number');
    if (core.registry.cdevNumbers.count > 0) live.push('a cdev number');
    if (core.registry.groupMinors.count > 0) live.push('a group minor');
    if (core.mdevs.devices.length > 0) live.push('a mdev');
    if (this.instances > 0) live.push('an instance');
    if (this.vm.references !== 1) live.push(`${this.vm.references} references of the VM`);
    if (core.environment.executor.current.held.length > 0) live.push('a lock');
    if (this.ops.some(({ isOpen }) => isOpen)) live.push('an open device');
    return [...live, ...this.warnings.splice(0)];
  }

  [Symbol.dispose](): void {
    this.faults.without(() => this.#registered[Symbol.dispose]());
  }
}

type Way = 'attach' | 'attachCdev';

function countCalls(
  memory: Mapping,
  way: Way,
): { readonly attach: number; readonly calls: readonly string[] } {
  using rig = new Rig(memory);
  const scope = new Scope();
  rig[way](scope);
  const attach = rig.faults.count;
  scope[Symbol.dispose]();
  expect(rig.differences()).toEqual([]);
  return { attach, calls: [...rig.faults.calls] };
}

for (const way of ['attach', 'attachCdev'] as const) {
  test(`${way}: each port call of the way in, failed in turn, gives its own error and leaves everything as before`, () => {
    using memory = Mapping.anonymous(4096);
    const { attach, calls } = countCalls(memory, way);
    expect(attach).toBeGreaterThan(10);
    for (let index = 0; index < attach; index++) {
      for (const code of CODES) {
        using rig = new Rig(memory);
        rig.faults.failAt(index, code);
        let error: unknown;
        {
          using scope = new Scope();
          try {
            rig[way](scope);
          } catch (caught) {
            error = caught;
          }
        }
        const what = `${calls[index]} with ${code}`;
        expect(error, what).toBeInstanceOf(SysError);
        expect(isErrno(error, code), `${what}: ${String(error)}`).toBe(true);
        expect(rig.differences(), what).toEqual([]);
        // And the next attempt works.
        const scope = new Scope();
        rig.faults.without(() => rig[way](scope));
        rig.faults.without(() => scope[Symbol.dispose]());
        expect(rig.differences(), `${what}, then again`).toEqual([]);
      }
    }
  });

  test(`${way}: each port call of the way out, failed in turn, is told of and still leaves everything as before`, () => {
    using memory = Mapping.anonymous(4096);
    const { attach, calls } = countCalls(memory, way);
    expect(calls.length).toBeGreaterThan(attach);
    for (let index = attach; index < calls.length; index++) {
      for (const code of CODES) {
        using rig = new Rig(memory);
        rig.faults.failAt(index, code);
        let error: unknown;
        const scope = new Scope();
        rig[way](scope);
        try {
          scope[Symbol.dispose]();
        } catch (caught) {
          error = caught;
        }
        const what = `${calls[index]} with ${code}`;
        expect(isErrno(error, code), `${what}: ${String(error)}`).toBe(true);
        // A driver whose closeDevice fails may think its device open; the core does not.
        const isDrivers = (text: string) => calls[index] === 'ops.closeDevice' && text === 'an open device';
        expect(
          rig.differences().filter((text) => !isDrivers(text)),
          what,
        ).toEqual([]);
      }
    }
  });
}

test('a fault injector fails the call it was told to, and no other', () => {
  const faults = new FaultInjector();
  const port = faults.wrap('port', { a: () => 1, b: (n: number) => n * 2, name: 'x' }, ['a', 'b']);
  expect([port.a(), port.b(4), port.name]).toEqual([1, 8, 'x']);
  expect(faults.calls).toEqual(['port.a', 'port.b']);
  faults.failAt(1, 'EBUSY');
  expect(port.a()).toBe(1);
  expect(() => port.b(4)).toThrowError(/port.b on fault injector: EBUSY/);
  expect(port.b(4)).toBe(8);
  faults.failAt(0, 'ENOMEM');
  expect(faults.without(() => port.a())).toBe(1);
  expect(() => port.a()).toThrowError(/ENOMEM/);
  disposable(() => undefined)[Symbol.dispose]();
});
