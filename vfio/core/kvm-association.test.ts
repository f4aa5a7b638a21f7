import { afterEach, beforeEach, expect, test } from 'vitest';
import type { KvmPointer } from '../driver.js';
import { RecordingListener } from '../testing/recording-listener.js';
import { everyInterleaving, Scheduler } from '../testing/scheduler.js';
import { type ScriptedKvmVfio, ScriptedVm } from '../testing/scripted-kvm.js';
import { type Contained, World, type WorldDevice } from '../testing/world.js';
import type { CoreOpenDevice } from './device.js';
import { VFIO_GROUP_NOTIFY, VFIO_GROUP_NOTIFY_SET_KVM, VFIO_IOMMU_NOTIFY } from './group.js';
import { type DmaUnmapEvent, VFIO_IOMMU_NOTIFY_DMA_UNMAP } from './iommu-driver.js';
import { HostDevice } from './iommu-group.js';
import type { Steps } from './steps.js';

type Kvm = KvmPointer | null;
const setKvmMask = () => ({ mask: VFIO_GROUP_NOTIFY_SET_KVM });

let world: World;
let made: WorldDevice;
let contained: Contained;
beforeEach(() => {
  world = new World();
  made = world.device();
  contained = world.contain(made);
});
afterEach(() => {
  contained.close();
  world.remove(made);
  world.end();
});

const setKvm = (kvm: Kvm) => world.core.vfioFileOps.setKvm(contained.group, kvm);
const register = (
  listener: RecordingListener<Kvm>,
  events = setKvmMask(),
  type: number = VFIO_GROUP_NOTIFY,
) => world.core.run(made.device.registerNotifier(type, events, listener));
const unregister = (...listeners: readonly RecordingListener<Kvm>[]) => {
  for (const listener of listeners)
    world.core.run(made.device.unregisterNotifier(VFIO_GROUP_NOTIFY, listener));
};

test('C1 set_kvm without listeners is cached, and calls none', () => {
  const vm = new ScriptedVm();
  setKvm(vm);
  expect(made.device.group.kvm).toBe(vm);
  expect(made.ops.calls).toEqual([]);
  expect(vm.references).toBe(1);
  setKvm(null);
});

test('C2 a late listener gets SET_KVM exactly once, before register returns', () => {
  const vm = new ScriptedVm();
  setKvm(vm);
  const late = new RecordingListener<Kvm>('late');
  register(late);
  expect(late.heard).toEqual([vm]);
  unregister(late);
  setKvm(null);
  expect(late.heard).toEqual([vm]);
});

test('C3 earlier listeners get no second SET_KVM when a later one registers', () => {
  const vm = new ScriptedVm();
  const [early, late] = [new RecordingListener<Kvm>('early'), new RecordingListener<Kvm>('late')];
  register(early);
  setKvm(vm);
  register(late);
  expect(early.heard).toEqual([vm]);
  expect(late.heard).toEqual([vm]);
  unregister(early, late);
  setKvm(null);
});

test('C4 set_kvm with listeners is cached, and delivered to each once in the order of registration', () => {
  const vm = new ScriptedVm();
  const order: string[] = [];
  const listeners = ['a', 'b', 'c'].map((name) => new RecordingListener<Kvm>(name, () => order.push(name)));
  for (const listener of listeners) register(listener);
  setKvm(vm);
  expect(order).toEqual(['a', 'b', 'c']);
  expect(made.device.group.kvm).toBe(vm);
  for (const listener of listeners) expect(listener.heard).toEqual([vm]);
  unregister(...listeners);
  setKvm(null);
});

test('C5 set_kvm(null) is cached and delivered as null, and a listener that registers later gets no replay', () => {
  const vm = new ScriptedVm();
  const [early, late] = [new RecordingListener<Kvm>('early'), new RecordingListener<Kvm>('late')];
  register(early);
  setKvm(vm);
  setKvm(null);
  register(late);
  expect(early.heard).toEqual([vm, null]);
  expect(late.heard).toEqual([]);
  expect(made.device.group.kvm).toBeNull();
  unregister(early, late);
});

test('C6 from one VM to another, a late listener sees only the second, an early one both with null between', () => {
  const [one, two] = [new ScriptedVm('one'), new ScriptedVm('two')];
  const [early, late] = [new RecordingListener<Kvm>('early'), new RecordingListener<Kvm>('late')];
  register(early);
  setKvm(one);
  setKvm(null);
  setKvm(two);
  register(late);
  expect(early.heard).toEqual([one, null, two]);
  expect(late.heard).toEqual([two]);
  unregister(early, late);
  setKvm(null);
});

test('C7 no events, unknown events or another type are EINVAL with nothing registered, a device that is not registered is ENODEV, and SET_KVM is cleared from the mask', () => {
  const listener = new RecordingListener<Kvm>('listener');
  const { notifier } = made.device.group;
  expect(() => register(listener, { mask: 0 })).toThrowError(/EINVAL/);
  expect(() => register(listener, { mask: VFIO_GROUP_NOTIFY_SET_KVM | 2 })).toThrowError(/EINVAL/);
  expect(() => register(listener, setKvmMask(), 2)).toThrowError(/EINVAL/);
  expect(notifier.blocks).toEqual([]);
  const bare = world.prepare();
  expect(() =>
    world.core.run(bare.device.registerNotifier(VFIO_GROUP_NOTIFY, setKvmMask(), listener)),
  ).toThrowError(/ENODEV/);
  const events = setKvmMask();
  register(listener, events);
  expect(events.mask).toBe(0);
  expect(notifier.blocks).toEqual([listener]);
  unregister(listener);
});

test('C8 a listener that did not ask for SET_KVM gets no replay', () => {
  const vm = new ScriptedVm();
  setKvm(vm);
  const quiet = new RecordingListener<Kvm>('quiet');
  world.core.run(made.device.group.registerNotifier({ mask: 0 }, quiet));
  const unmaps = new RecordingListener<DmaUnmapEvent>('unmaps');
  world.core.run(
    made.device.registerNotifier(VFIO_IOMMU_NOTIFY, { mask: VFIO_IOMMU_NOTIFY_DMA_UNMAP }, unmaps),
  );
  expect(quiet.heard).toEqual([]);
  expect(unmaps.heard).toEqual([]);
  world.core.run(made.device.unregisterNotifier(VFIO_IOMMU_NOTIFY, unmaps));
  unregister(quiet);
  setKvm(null);
});

test('C9 register needs a contained, viable group with an IOMMU, and drops the container user on every path', () => {
  const listener = new RecordingListener<Kvm>('listener');
  const { group } = made.device;
  const users = () => group.containerUsers;
  register(listener);
  expect(users()).toBe(1);
  expect(() => register(listener)).toThrowError(/EEXIST/);
  expect(users()).toBe(1);
  unregister(listener);

  const intruder = new HostDevice('0000:00:1f.6');
  intruder.driver = 'e1000e';
  world.core.run(group.iommuGroup.addDevice(intruder));
  expect(world.takeWarnings()).toHaveLength(1);
  expect(group.isViable()).toBe(false);
  expect(() => register(listener)).toThrowError(/EINVAL/);
  expect(users()).toBe(1);
  world.core.run(group.iommuGroup.removeDevice(intruder));

  contained.group.unsetContainer();
  expect(() => register(listener)).toThrowError(/EINVAL/);
  expect(users()).toBe(0);
  contained.group.setContainer(contained.container);
  expect(() => register(listener)).toThrowError(/EINVAL/);
  expect(users()).toBe(1);
  expect(group.notifier.blocks).toEqual([]);

  const noiommu = new World({ ports: { hasRawio: () => true }, enableUnsafeNoiommuMode: true });
  const bare = noiommu.device({ group: undefined });
  const file = noiommu.openGroup(bare.device.group.number);
  const container = noiommu.openContainer();
  file.setContainer(container);
  container.setIommu(8);
  expect(() =>
    noiommu.core.run(bare.device.registerNotifier(VFIO_GROUP_NOTIFY, setKvmMask(), listener)),
  ).toThrowError(/EINVAL/);
  expect(bare.device.group.containerUsers).toBe(1);
  for (const open of [file, container]) open[Symbol.dispose]();
  noiommu.remove(bare);
  noiommu.takeWarnings();
  noiommu.end();
});

test('C10 register and unregister around each open hold no group reference between closes', () => {
  const listener = new RecordingListener<Kvm>('listener');
  const { group } = made.device;
  const before = { refs: group.refs.count, users: group.containerUsers };
  for (let i = 0; i < 2; i++) {
    const file = world.open(contained, made);
    register(listener);
    unregister(listener);
    file[Symbol.dispose]();
    expect({ refs: group.refs.count, users: group.containerUsers }).toEqual(before);
  }
});

test('C11 open gets a VM that was set before it; the event reports one that is set later, and device.kvm changes at the next open', () => {
  const vm = new ScriptedVm();
  const listener = new RecordingListener<Kvm>('driver');
  const early = world.open(contained, made);
  register(listener);
  expect(made.ops.open?.kvm).toBeUndefined();
  setKvm(vm);
  expect(listener.heard).toEqual([vm]);
  expect(made.device.kvm).toBeUndefined();
  early[Symbol.dispose]();
  const next = world.open(contained, made);
  expect(made.ops.open?.kvm).toBe(vm);
  expect(made.device.kvm).toBe(vm);
  expect(vm.references).toBe(2);
  setKvm(null);
  expect(made.device.kvm).toBe(vm);
  next[Symbol.dispose]();
  expect(vm.references).toBe(1);
  expect(made.device.kvm).toBeUndefined();
  unregister(listener);
});

const kvmVfioOf = (vm: ScriptedVm): ScriptedKvmVfio => vm.createKvmVfio(world.core.vfioFileOps);

test('C12 kvm-vfio: a second device is EBUSY, ADD twice EEXIST, DEL unknown ENOENT, closed EBADF, foreign EINVAL, unknown attribute ENXIO', () => {
  const vm = new ScriptedVm();
  const kvmVfio = kvmVfioOf(vm);
  expect(() => kvmVfioOf(vm)).toThrowError(/EBUSY/);
  expect(() => kvmVfio.removeFile(contained.group)).toThrowError(/ENOENT/);
  kvmVfio.addFile(contained.group);
  expect(() => kvmVfio.addFile(contained.group)).toThrowError(/EEXIST/);
  kvmVfio.removeFile(contained.group);
  expect(() => kvmVfio.addFile(contained.container)).toThrowError(/EINVAL/);
  const other = new World();
  const foreign = other.contain(other.device());
  expect(() => kvmVfio.addFile(foreign.group)).toThrowError(/EINVAL/);
  foreign.close();
  expect(() => kvmVfio.addFile(foreign.group)).toThrowError(/EBADF/);
  expect(() => kvmVfio.setAttr(1, 3, contained.group)).toThrowError(/ENXIO/);
  expect(() => kvmVfio.setAttr(2, 1, contained.group)).toThrowError(/ENXIO/);
  vm.put();
});

test('C13 the release of kvm-vfio, or of the VM, notifies SET_KVM(null) to every group still added, once each, before it drops the files', () => {
  const second = world.device();
  const also = world.contain(second);
  const groups = [made.device.group, second.device.group];
  const openWhenTold: boolean[] = [];
  const listeners = groups.map((group) => {
    const listener = new RecordingListener<Kvm>(`of ${group.number}`, (_event, kvm) => {
      if (kvm === null) openWhenTold.push(group.openedFile !== undefined);
    });
    world.core.run(group.registerNotifier(setKvmMask(), listener));
    return listener;
  });
  for (const end of ['kvm-vfio', 'vm'] as const) {
    const vm = new ScriptedVm();
    const kvmVfio = kvmVfioOf(vm);
    for (const { group } of [contained, also]) kvmVfio.addFile(group);
    if (end === 'kvm-vfio') kvmVfio[Symbol.dispose]();
    else vm.put();
    for (const listener of listeners) expect(listener.heard.splice(0)).toEqual([vm, null]);
  }
  expect(openWhenTold).toEqual([true, true, true, true]);
  for (const [i, group] of groups.entries()) {
    world.core.run(group.unregisterNotifier(listeners[i] as RecordingListener<Kvm>));
  }
  // A file closed by its opener lives on until the association has ended.
  const vm = new ScriptedVm();
  kvmVfioOf(vm).addFile(also.group);
  also.close();
  expect(second.device.group.openedFile).toBeDefined();
  vm.put();
  expect(second.device.group.openedFile).toBeUndefined();
  world.remove(second);
});

test('C14 the first noncoherent group registers noncoherent DMA once, and removing the last one unregisters it once', () => {
  const capabilities = { isCoherent: false, iovaRanges: [] };
  const vm = new ScriptedVm();
  const kvmVfio = kvmVfioOf(vm);
  const others = [0, 1].map(() => world.device({ group: world.iommuGroup(capabilities) }));
  const open = others.map((other) => world.contain(other));
  const [first, second] = open as [Contained, Contained];
  kvmVfio.addFile(contained.group);
  expect(vm.noncoherentCalls).toBe(0);
  kvmVfio.addFile(first.group);
  expect([vm.noncoherentDma, vm.noncoherentCalls]).toEqual([1, 1]);
  kvmVfio.addFile(second.group);
  kvmVfio.removeFile(first.group);
  expect([vm.noncoherentDma, vm.noncoherentCalls]).toEqual([1, 1]);
  kvmVfio.removeFile(second.group);
  expect([vm.noncoherentDma, vm.noncoherentCalls]).toEqual([0, 2]);
  vm.put();
  for (const each of open) each.close();
  world.remove(...others);
});

test('C15 without a VFIO core ADD fails with EINVAL, and the VM keeps running', () => {
  const vm = new ScriptedVm();
  const kvmVfio = vm.createKvmVfio(undefined);
  expect(() => kvmVfio.addFile(contained.group)).toThrowError(/EINVAL/);
  expect(() => kvmVfio.removeFile(contained.group)).toThrowError(/ENOENT/);
  expect(vm.getUnlessDying()).toBe(true);
  vm.put();
  kvmVfio[Symbol.dispose]();
  expect(vm.references).toBe(1);
  expect(vm.assignments).toBe(0);
});

test('C16 DEL between the cache being read and the listener being called never hands out a dead VM, and ends at null', () => {
  const runs = everyInterleaving(() => {
    const own = new World();
    const device = own.device();
    const open = own.contain(device);
    const vm = new ScriptedVm();
    const dead: Kvm[] = [];
    const listener = new RecordingListener<Kvm>('driver', function* (_event: number, kvm: Kvm): Steps<void> {
      yield 'inside the listener';
      if (kvm === vm && vm.isFreed) dead.push(kvm);
    });
    own.core.vfioFileOps.setKvm(open.group, vm);
    const scheduler = new Scheduler(own.core.environment.executor);
    scheduler.spawn('register', device.device.registerNotifier(VFIO_GROUP_NOTIFY, setKvmMask(), listener));
    scheduler.spawn(
      'DEL',
      (function* (): Steps<void> {
        yield* open.group.setKvmSteps(null);
        vm.put();
      })(),
    );
    return {
      scheduler,
      check() {
        expect(dead).toEqual([]);
        expect(vm.usesAfterFree).toEqual([]);
        expect(device.device.group.kvm).toBeNull();
        expect([[], [vm, null]]).toContainEqual(listener.heard);
        own.core.run(device.device.unregisterNotifier(VFIO_GROUP_NOTIFY, listener));
        open.close();
        own.remove(device);
        own.end();
      },
    };
  }, 3);
  expect(runs).toBeGreaterThan(50);
});

test("C17 the last put of a VM during a close runs outside the group's locks: the VM's release may call set_kvm(null) on the same group", () => {
  const vm = new ScriptedVm();
  const heldAtEnd: string[] = [];
  vm.onDestroy = () => {
    heldAtEnd.push(...world.core.environment.executor.current.held.map(({ name }) => name));
    setKvm(null);
  };
  setKvm(vm);
  const file = world.open(contained, made);
  vm.put();
  expect(vm.isFreed).toBe(false);
  file[Symbol.dispose]();
  expect(vm.isFreed).toBe(true);
  expect(heldAtEnd).toEqual([]);
  expect(made.device.group.kvm).toBeNull();
});

test('C18 closing a group with a listener on its chain warns of the listener, and the next open starts with an empty chain', () => {
  const left = new RecordingListener<Kvm>('left-over');
  register(left);
  contained.close();
  expect(world.takeWarnings()).toEqual([
    `${made.device.group.target} is closed with listener 'left-over' on its chain`,
  ]);
  contained = world.contain(made);
  expect(made.device.group.notifier.blocks).toEqual([]);
  setKvm(new ScriptedVm());
  expect(left.heard).toEqual([]);
  setKvm(null);
});

test('a driver may register in its open, and is told of a VM that was there before', () => {
  const vm = new ScriptedVm();
  const listener = new RecordingListener<Kvm>('driver');
  const driver = world.device({
    onOpen: ({ device }: CoreOpenDevice) =>
      device.registerNotifier(VFIO_GROUP_NOTIFY, setKvmMask(), listener),
    onClose: () => driver.device.unregisterNotifier(VFIO_GROUP_NOTIFY, listener),
  });
  const open = world.contain(driver);
  world.core.vfioFileOps.setKvm(open.group, vm);
  world.open(open, driver)[Symbol.dispose]();
  expect(listener.heard).toEqual([vm]);
  world.core.vfioFileOps.setKvm(open.group, null);
  open.close();
  world.remove(driver);
});

test('a listener that fails is told of by a warning, and the next one is called', () => {
  const broken = new RecordingListener<Kvm>('broken', () => {
    throw new Error('oops');
  });
  const next = new RecordingListener<Kvm>('next');
  register(broken);
  register(next);
  setKvm(null);
  expect(next.heard).toEqual([null]);
  expect(world.takeWarnings()).toEqual([`listener 'broken' failed: Error: oops`]);
  unregister(broken, next);
});
