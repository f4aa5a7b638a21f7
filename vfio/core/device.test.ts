import { afterEach, beforeEach, expect, test } from 'vitest';
import { Scope } from '../../sys/scope.js';
import type { KvmPointer } from '../driver.js';
import { FaultInjector } from '../testing/fault-injector.js';
import { RecordingListener } from '../testing/recording-listener.js';
import { everyInterleaving, Scheduler } from '../testing/scheduler.js';
import { type Contained, World, type WorldDevice } from '../testing/world.js';
import { DeviceSets } from './dev-set.js';
import { VFIO_GROUP_NOTIFY, VFIO_IOMMU_NOTIFY } from './group.js';
import {
  HostDevice,
  IOMMU_GROUP_NOTIFY_ADD_DEVICE,
  IOMMU_GROUP_NOTIFY_BIND_DRIVER,
  IOMMU_GROUP_NOTIFY_BOUND_DRIVER,
  IOMMU_GROUP_NOTIFY_DEL_DEVICE,
  IOMMU_GROUP_NOTIFY_UNBIND_DRIVER,
  IOMMU_GROUP_NOTIFY_UNBOUND_DRIVER,
} from './iommu-group.js';
import { CoreIommufdFile } from './iommufd.js';

let faults: FaultInjector;
let world: World;
let scope: Scope;
beforeEach(() => {
  faults = new FaultInjector();
  world = new World({ ports: { allocate: (what) => faults.call(what) } });
  scope = new Scope();
});
afterEach(() => {
  scope[Symbol.dispose]();
  world.end();
});

function contain(made: WorldDevice): Contained {
  scope.defer(() => world.remove(made));
  const contained = world.contain(made);
  scope.defer(() => contained.close());
  return contained;
}

test('a device that is not registered has neither a group nor a set, before and after', () => {
  const made = world.prepare();
  const isNothing = (): void => {
    expect(made.device.isRegistered).toBe(false);
    for (const what of [() => made.device.group, () => made.device.set, () => made.device.isAloneInGroup])
      expect(what).toThrow(`vfio_device on ${made.device.name}: ENODEV`);
  };
  isNothing();
  world.core.run(made.device.register());
  expect([made.device.isRegistered, made.device.isAloneInGroup]).toEqual([true, true]);
  world.remove(made);
  isNothing();
  expect(() => made.device.registerNotifier(VFIO_GROUP_NOTIFY, { mask: 1 }, {} as never).next()).toThrow(
    /ENODEV/,
  );
});

test('a registration that fails at any step leaves the device as it was, and it can be registered later', () => {
  const made = world.prepare();
  for (const index of [0, 1, 2]) {
    faults.failAt(index, 'ENOMEM');
    expect(() => world.core.run(made.device.register()), `call ${index}`).toThrow(/ENOMEM/);
    expect([made.device.isRegistered, made.device.registration.count]).toEqual([false, 0]);
    const { registry } = world.core;
    const counts = [registry.groups, registry.cdevs, registry.deviceSets].map(({ size }) => size);
    expect([...counts, registry.cdevNumbers.count, registry.groupMinors.count]).toEqual([0, 0, 0, 0, 0]);
  }
  world.core.run(made.device.register());
  world.remove(made);
});

test('a device without an IOMMU has a group of its own while it is registered, and an error leaves none', () => {
  const own = new World({
    ports: { allocate: (what) => faults.call(what) },
    enableUnsafeNoiommuMode: true,
  });
  const made = own.prepare({ group: undefined });
  faults.failAt(2, 'ENOMEM');
  expect(() => own.core.run(made.device.register())).toThrow(/ENOMEM/);
  expect([made.dev.iommuGroup, [...own.core.live]]).toEqual([undefined, []]);
  own.core.run(made.device.register());
  expect(made.dev.iommuGroup?.isNoiommu).toBe(true);
  own.remove(made);
  expect(made.dev.iommuGroup).toBeUndefined();
  const warnings = own.takeWarnings();
  expect(warnings).toEqual(new Array(2).fill(expect.stringMatching(/without an IOMMU, its user can reach/)));
  own.end();
});

test('only the first open and the last close reach the driver, and an open that failed counts for none', () => {
  let fails = true;
  const made = world.device({
    onOpen: () => {
      if (fails) throw new RangeError('no');
    },
  });
  const contained = contain(made);
  const { device } = made;
  expect(() => world.open(contained, made)).toThrow('no');
  expect([device.openCount, device.kvm, device.dma.isAttached]).toEqual([0, undefined, false]);
  expect([device.group.containerUsers, device.registration.count]).toEqual([1, 1]);
  fails = false;
  made.ops.calls.length = 0;
  const files = [world.open(contained, made), world.open(contained, made)];
  expect([device.openCount, device.dma.isAttached, device.group.containerUsers]).toEqual([2, true, 3]);
  files[0]?.[Symbol.dispose]();
  expect([device.openCount, device.dma.isAttached]).toEqual([1, true]);
  files[1]?.[Symbol.dispose]();
  expect([device.openCount, device.dma.isAttached]).toEqual([0, false]);
  expect(made.ops.calls).toEqual(['openDevice', 'closeDevice']);
});

test('the layout of regions is asked of the driver once an open, and anew at the next one', () => {
  const made = world.device();
  const contained = contain(made);
  const asked: string[] = [];
  const { ops } = made;
  const [getInfo, getRegionInfo] = [ops.getInfo.bind(ops), ops.getRegionInfo.bind(ops)];
  ops.getInfo = () => {
    asked.push('info');
    return getInfo();
  };
  ops.getRegionInfo = (index) => {
    asked.push(`region ${index}`);
    return getRegionInfo(index);
  };
  for (let i = 0; i < 2; i++) {
    const file = world.open(contained, made);
    for (let j = 0; j < 2; j++) {
      expect(file.getRegionInfo(0).index).toBe(0);
      expect(() => file.getRegionInfo(1)).toThrow(/EINVAL/);
      file.read(0, new Uint8Array(1));
    }
    expect(asked.splice(0)).toEqual(['info', 'region 0']);
    file[Symbol.dispose]();
  }
  expect(() => made.device.regions.place('pread', 4096)).toThrow(`pread on ${made.device.name}: EINVAL`);
});

test('listeners are refused for no events, an unknown chain, and an IOMMU that is not there', () => {
  const made = world.device();
  const { device } = made;
  const listener = new RecordingListener<never>('listener');
  const run = world.core.run.bind(world.core);
  expect(() => run(device.unregisterNotifier(VFIO_IOMMU_NOTIFY, listener))).toThrow(/EINVAL\n.*type 0/);
  contain(made);
  expect(() => run(device.registerNotifier(VFIO_IOMMU_NOTIFY, { mask: 0 }, listener))).toThrow(
    /vfio_register_notifier on .*EINVAL\n.*no events/,
  );
  for (const type of [2, -1]) {
    expect(() => run(device.registerNotifier(type, { mask: 1 }, listener))).toThrow(/EINVAL\n.*type/);
    expect(() => run(device.unregisterNotifier(type, listener))).toThrow(/vfio_unregister_notifier.*EINVAL/);
  }
  for (const type of [VFIO_IOMMU_NOTIFY, VFIO_GROUP_NOTIFY]) {
    expect(() => run(device.unregisterNotifier(type, listener))).toThrow(/ENOENT/);
    run(device.registerNotifier(type, { mask: 1 }, listener));
    expect(() => run(device.registerNotifier(type, { mask: 1 }, listener))).toThrow(/EEXIST/);
    expect(device.group.containerUsers).toBe(1);
    run(device.unregisterNotifier(type, listener));
  }
});

test('a device is open with the VM of its group, whose reference the last close drops', () => {
  const made = world.device();
  const contained = contain(made);
  let references = 0;
  let isDying = false;
  const vm: KvmPointer = {
    getUnlessDying: () => {
      if (!isDying) references++;
      return !isDying;
    },
    put: () => {
      references--;
    },
  } as KvmPointer;
  world.core.vfioFileOps.setKvm(contained.group, vm);
  const files = [world.open(contained, made), world.open(contained, made)];
  expect([made.device.kvm, references]).toEqual([vm, 1]);
  for (const file of files) {
    expect(references).toBe(1);
    file[Symbol.dispose]();
  }
  expect([made.device.kvm, references]).toEqual([undefined, 0]);
  isDying = true;
  const late = world.open(contained, made);
  expect([made.ops.open?.kvm, references]).toEqual([undefined, 0]);
  late[Symbol.dispose]();
  world.core.vfioFileOps.setKvm(contained.group, null);
});

test('a bind that fails drops the iommufd, the VM and the group', () => {
  let fails = true;
  const made = world.device({
    onOpen: () => {
      if (fails) throw new RangeError('no');
    },
  });
  scope.defer(() => world.remove(made));
  const file = scope.own(world.openCdev(made.device.cdev));
  const iommufd = CoreIommufdFile.open(world.core.environment);
  const { refs } = iommufd.context('test');
  expect(() => file.bindIommufd(iommufd)).toThrow('no');
  expect([refs.count, made.device.group.cdevOpenCount, made.device.bound]).toEqual([1, 0, undefined]);
  fails = false;
  const id = file.bindIommufd(iommufd);
  expect([refs.count, made.device.group.cdevOpenCount]).toEqual([2, 1]);
  expect(made.device.bound).toEqual({ context: iommufd.context('test'), id });
  expect(made.device.dma.isAttached).toBe(false);
  file[Symbol.dispose]();
  expect([refs.count, made.device.group.cdevOpenCount, made.device.bound]).toEqual([1, 0, undefined]);
  iommufd[Symbol.dispose]();
});

test('a bound device keeps its group from being opened only while it is bound, and an IOAS only while attached', () => {
  const made = world.device();
  scope.defer(() => world.remove(made));
  const file = world.openCdev(made.device.cdev);
  const iommufd = scope.own(CoreIommufdFile.open(world.core.environment));
  const { number } = made.device.group;
  world.openGroup(number)[Symbol.dispose]();
  file.bindIommufd(iommufd);
  const ioas = iommufd.ioasAlloc();
  file.attachIoas(ioas);
  expect(() => iommufd.destroy(ioas)).toThrow(/EBUSY/);
  file[Symbol.dispose]();
  iommufd.destroy(ioas);
  world.openGroup(number)[Symbol.dispose]();
});

test('a set counts the opens of all its devices, is freed with the last, and knows no stranger', () => {
  const { environment } = world.core;
  const sets = new DeviceSets(environment);
  const member = (name: string, openCount: number) => ({ name, openCount, needsReset: false });
  const [a, b, c] = [member('a', 2), member('b', 3), member('c', 4)];
  const set = sets.assign(a, 'slot');
  expect(sets.assign(b, 'slot')).toBe(set);
  expect(sets.assign(c, 'other')).not.toBe(set);
  expect([set.openCount, sets.size, world.core.live.get('vfio_device_set')]).toEqual([5, 2, 2]);
  expect(() => sets.release(c, 'nothing')).toThrow(/vfio_release_device_set on c: ENOENT/);
  sets.release(a, 'slot');
  expect([set.openCount, sets.size]).toEqual([3, 2]);
  sets.release(b, 'slot');
  sets.release(c, 'other');
  expect([sets.size, world.core.live.get('vfio_device_set')]).toEqual([0, undefined]);
});

test('a host device tells its group of drivers before and after, and of its own coming and going', () => {
  const group = world.iommuGroup();
  const dev = new HostDevice('0000:09:00.0');
  const told: unknown[] = [];
  const listener = new RecordingListener<HostDevice>('group', (event, device) =>
    told.push([event, device.name, device.driver, group.devices.has(device), device.iommuGroup === group]),
  );
  const { run } = { run: world.core.run.bind(world.core) };
  run(dev.bindDriver('early')); // in no group: nobody is told
  run(dev.unbindDriver());
  run(group.registerNotifier(listener));
  expect(() => run(group.registerNotifier(listener))).toThrow(/EEXIST/);
  run(group.addDevice(dev));
  expect(() => run(world.iommuGroup().addDevice(dev))).toThrow(
    /iommu_group_add_device on 0000:09:00.0: EBUSY\n.*it is in group 0/,
  );
  run(dev.bindDriver('nic'));
  run(dev.unbindDriver());
  run(group.removeDevice(dev));
  const [name, yes] = [dev.name, true];
  expect(told).toEqual([
    [IOMMU_GROUP_NOTIFY_ADD_DEVICE, name, undefined, yes, yes],
    [IOMMU_GROUP_NOTIFY_BIND_DRIVER, name, undefined, yes, yes],
    [IOMMU_GROUP_NOTIFY_BOUND_DRIVER, name, 'nic', yes, yes],
    [IOMMU_GROUP_NOTIFY_UNBIND_DRIVER, name, 'nic', yes, yes],
    [IOMMU_GROUP_NOTIFY_UNBOUND_DRIVER, name, undefined, yes, yes],
    [IOMMU_GROUP_NOTIFY_DEL_DEVICE, name, undefined, yes, yes],
  ]);
  expect([dev.iommuGroup, group.devices.size]).toEqual([undefined, 0]);
  run(group.unregisterNotifier(listener));
  expect(() => run(group.unregisterNotifier(listener))).toThrow(/ENOENT/);
});

test('IOMMU groups have the lowest free number, which comes back with the last reference', () => {
  const [a, b] = [world.core.createIommuGroup(), world.core.createIommuGroup()];
  expect([a, b].map(({ number, target, isNoiommu }) => [number, target, isNoiommu])).toEqual([
    [0, 'group 0 (core)', false],
    [1, 'group 1 (core)', false],
  ]);
  expect(a.capabilities).toEqual({ isCoherent: true, iovaRanges: [] });
  a.refs.get();
  a.put();
  const third = world.core.createIommuGroup();
  expect(third.number).toBe(2);
  a.put();
  const again = world.core.createIommuGroup();
  expect(again.number).toBe(0);
  for (const group of [again, b, third]) group.put();
  expect([...world.core.live]).toEqual([]);
});

test('a group can be opened again when the last of its bound devices is closed', () => {
  const iommuGroup = world.iommuGroup();
  const [a, b] = [world.device({ group: iommuGroup }), world.device({ group: iommuGroup })];
  scope.defer(() => world.remove(a, b));
  const iommufd = scope.own(CoreIommufdFile.open(world.core.environment));
  const files = [a, b].map(({ device }) => world.openCdev(device.cdev));
  for (const file of files) file.bindIommufd(iommufd);
  for (const file of files) {
    expect(() => world.openGroup(iommuGroup.number)).toThrow(/EBUSY\n.*bound to an iommufd by its cdev/);
    file[Symbol.dispose]();
  }
  world.openGroup(iommuGroup.number)[Symbol.dispose]();
});

test('a group that a device keeps in its container keeps the others from being bound', () => {
  const iommuGroup = world.iommuGroup();
  const [a, b] = [world.device({ group: iommuGroup }), world.device({ group: iommuGroup })];
  scope.defer(() => world.remove(a, b));
  const iommufd = scope.own(CoreIommufdFile.open(world.core.environment));
  const cdev = scope.own(world.openCdev(b.device.cdev));
  const contained = world.contain(a);
  const file = world.open(contained, a);
  contained.close();
  expect(() => cdev.bindIommufd(iommufd)).toThrow(/BIND_IOMMUFD on .*EBUSY\n.*close the group file/);
  file[Symbol.dispose]();
  cdev.bindIommufd(iommufd);
});

test('the name of a device selects it, with options only if it is one of PCI', () => {
  const [plain, pci] = [world.device({ name: 'plain' }), world.device({ name: 'pci', pci: {} })];
  scope.defer(() => world.remove(plain, pci));
  const matches = ({ device }: WorldDevice, name: string) => device.matches('open', name);
  expect(['plain', 'plai', 'plain ', 'plain x', ''].map((name) => matches(plain, name))).toEqual([
    true,
    ...[false, false, false, false],
  ]);
  expect(['pci', 'pci ', 'pcix', 'pc', ' pci'].map((name) => matches(pci, name))).toEqual([
    ...[true, true],
    ...[false, false, false],
  ]);
  expect(() => matches(pci, 'pci x')).toThrow(/open on pci: EINVAL\n.*unknown option: x/);
});

test('two devices of one IOMMU group that are registered at once share one group, in every interleaving', () => {
  everyInterleaving(() => {
    const own = new World();
    const group = own.iommuGroup();
    const devices = [own.prepare({ group }), own.prepare({ group })];
    const scheduler = new Scheduler(own.core.environment.executor);
    for (const { device } of devices) scheduler.spawn(`probe of ${device.name}`, device.register());
    return {
      scheduler,
      check() {
        const [first, second] = devices.map(({ device }) => device.group);
        expect(first).toBe(second);
        expect([...own.core.registry.groups.values()]).toEqual([first]);
        expect([first?.devices.size, first?.refs.count, group.listeners]).toEqual([2, 2, 1]);
        own.remove(...devices);
        own.end();
      },
    };
  }, 3);
});
