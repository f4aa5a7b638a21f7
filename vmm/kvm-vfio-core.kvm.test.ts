/** The kvm-vfio device of a real VM with the files of the VFIO core: C11 to C15 and C17 where the two meet. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Kvm, type KvmReference, KvmVfio, type VfioFileOps, type Vm } from '../kvm/index.js';
import { type KvmPointer, VFIO_GROUP_NOTIFY, VFIO_GROUP_NOTIFY_SET_KVM } from '../vfio/index.js';
import { type Contained, RecordingListener, World, type WorldDevice } from '../vfio/testing/index.js';

type Listener = RecordingListener<KvmPointer | null>;

let kvm: Kvm;
let vm: Vm;
let world: World;
let made: WorldDevice;
let contained: Contained;
beforeEach(() => {
  kvm = Kvm.open();
  vm = kvm.createVm();
  world = new World();
  made = world.device();
  contained = world.contain(made);
});
afterEach(() => {
  // First the VM: it holds the files that are associated with it.
  vm[Symbol.dispose]();
  contained.close();
  world.remove(made);
  kvm[Symbol.dispose]();
  world.end();
});

const kvmVfioOf = (of: Vm): KvmVfio => KvmVfio.create(of, world.core.vfioFileOps);

function listen({ device }: WorldDevice, react?: (kvm: KvmPointer | null) => void): Listener {
  const listener: Listener = new RecordingListener(`of ${device.name}`, (_event, kvm) => react?.(kvm));
  const events = { mask: VFIO_GROUP_NOTIFY_SET_KVM };
  world.core.run(device.registerNotifier(VFIO_GROUP_NOTIFY, events, listener));
  return listener;
}

const unlisten = ({ device }: WorldDevice, listener: Listener): void =>
  world.core.run(device.unregisterNotifier(VFIO_GROUP_NOTIFY, listener));

test('C11: a VM that was there before open is seen in open; one that comes after is told by the event, and seen at the next open', () => {
  const kvmVfio = kvmVfioOf(vm);
  const listener = listen(made);
  const early = world.open(contained, made);
  expect(made.ops.open?.kvm).toBeUndefined();
  kvmVfio.addFile(contained.group);
  expect(listener.heard).toEqual([vm.reference]);
  expect(made.device.kvm).toBeUndefined();
  early[Symbol.dispose]();
  const next = world.open(contained, made);
  expect(made.ops.open?.kvm).toBe(vm.reference);
  expect(vm.hasAssignedDevice).toBe(true);
  next[Symbol.dispose]();
  unlisten(made, listener);
});

test('C11: an open device keeps the descriptor of its VM open after the VM was closed, until its own last close', () => {
  kvmVfioOf(vm).addFile(contained.group);
  const [first, second] = [world.open(contained, made), world.open(contained, made)];
  vm[Symbol.dispose]();
  expect(made.device.group.kvm).toBeNull();
  first[Symbol.dispose]();
  expect([vm.isOpen, vm.fd.isOpen, vm.reference.isAlive]).toEqual([false, true, true]);
  second[Symbol.dispose]();
  expect([vm.fd.isOpen, vm.reference.isAlive]).toEqual([false, false]);
});

test('C11: a VM that was closed while its group had no open device is not seen by the next open', () => {
  kvmVfioOf(vm).addFile(contained.group);
  vm[Symbol.dispose]();
  const file = world.open(contained, made);
  expect(made.ops.open?.kvm).toBeUndefined();
  file[Symbol.dispose]();
});

test('C12: each misuse of the core’s files has the kernel’s errno, and leaves the association as it was', () => {
  const kvmVfio = kvmVfioOf(vm);
  const { group, container } = contained;
  expect(() => kvmVfioOf(vm)).toThrowError(/^KVM_CREATE_DEVICE on vm: EBUSY/);
  expect(() => kvmVfio.removeFile(group)).toThrowError(/^KVM_DEV_VFIO_FILE_DEL on group 0 \(core\): ENOENT/);
  kvmVfio.addFile(group);
  expect(() => kvmVfio.addFile(group)).toThrowError(/^KVM_DEV_VFIO_FILE_ADD on group 0 \(core\): EEXIST/);
  expect(() => kvmVfio.addFile(container)).toThrowError(/FILE_ADD on container \(core\): EINVAL/);
  const other = new World();
  const stranger = other.device();
  const foreign = other.contain(stranger);
  expect(() => kvmVfio.addFile(foreign.group)).toThrowError(/FILE_ADD on group 0 \(core\): EINVAL/);
  foreign.close();
  expect(() => kvmVfio.addFile(foreign.group)).toThrowError(/FILE_ADD on group 0 \(core\): EBADF/);
  expect(() => kvmVfio.setAttr(1, 3, group)).toThrowError(/ENXIO/);
  expect(made.device.group.kvm).toBe(vm.reference);
  other.remove(stranger);
  other.end();
});

test('C12: a device file opened by its cdev is taken too, and its VM reaches the driver at bind', () => {
  using iommufd = world.core.provider.cdevs.openIommufd();
  const alone = world.device();
  const cdev = world.openCdev(alone.device.cdev);
  kvmVfioOf(vm).addFile(cdev);
  cdev.bindIommufd(iommufd);
  expect(alone.ops.open?.kvm).toBe(vm.reference);
  cdev[Symbol.dispose]();
  // The VM still has the file, as the kernel would.
  expect(alone.ops.isOpen).toBe(true);
  vm[Symbol.dispose]();
  expect(alone.ops.isOpen).toBe(false);
  expect(vm.fd.isOpen).toBe(false);
  world.remove(alone);
});

for (const end of ['kvm-vfio device', 'VM'] as const) {
  test(`C13: the end of the ${end} tells SET_KVM(null) to every group still added, once each, before the files go`, () => {
    const devices = [made, world.device(), world.device()];
    const open = [contained, ...devices.slice(1).map((device) => world.contain(device))];
    const kvmVfio = kvmVfioOf(vm);
    const seen: string[] = [];
    const listeners = devices.map((of) =>
      listen(of, (told) => {
        const { group } = of.device;
        const file = group.openedFile === undefined ? 'gone' : 'there';
        const state = vm.hasAssignedDevice ? 'assigned' : 'idle';
        if (told === null) seen.push(`group ${group.number}: file ${file}, VM ${state}`);
      }),
    );
    for (const { group } of open) kvmVfio.addFile(group);
    // One that left before hears nothing more; one closed by its opener is the VM's until its end.
    kvmVfio.removeFile((open[1] as Contained).group);
    (open[2] as Contained).group[Symbol.dispose]();
    seen.length = 0;
    const ended = end === 'VM' ? vm : kvmVfio;
    ended[Symbol.dispose]();
    ended[Symbol.dispose]();
    expect(seen).toEqual(['group 0: file there, VM assigned', 'group 2: file there, VM assigned']);
    for (const { heard } of listeners) expect(heard).toEqual([vm.reference, null]);
    expect(vm.hasAssignedDevice).toBe(false);
    expect(devices[2]?.device.group.openedFile).toBeUndefined();
    expect(world.takeWarnings()).toEqual([
      `group 2 (core) is closed with listener 'of ${devices[2]?.device.name}' on its chain`,
    ]);
    for (const [i, listener] of listeners.entries()) unlisten(devices[i] as WorldDevice, listener);
    for (const each of open.slice(1)) each.close();
    world.remove(...devices.slice(1));
  });
}

test('C14: the first noncoherent group registers noncoherent DMA once, and the last one to go unregisters it once', () => {
  const edges: string[] = [];
  const register = vm.registerNoncoherentDma.bind(vm);
  const unregister = vm.unregisterNoncoherentDma.bind(vm);
  vm.registerNoncoherentDma = () => {
    edges.push('register');
    register();
  };
  vm.unregisterNoncoherentDma = () => {
    edges.push('unregister');
    unregister();
  };
  const kvmVfio = kvmVfioOf(vm);
  const capabilities = { isCoherent: false, iovaRanges: [] };
  const others = [0, 1].map(() => world.device({ group: world.iommuGroup(capabilities) }));
  const open = others.map((other) => world.contain(other));
  const [first, second] = open as [Contained, Contained];
  kvmVfio.addFile(contained.group);
  expect(edges).toEqual([]);
  kvmVfio.addFile(first.group);
  kvmVfio.addFile(second.group);
  kvmVfio.removeFile(first.group);
  expect([vm.hasNoncoherentDma, ...edges]).toEqual([true, 'register']);
  kvmVfio.removeFile(contained.group);
  vm[Symbol.dispose]();
  expect([vm.hasNoncoherentDma, ...edges]).toEqual([false, 'register', 'unregister']);
  for (const each of open) each.close();
  world.remove(...others);
});

test('C15: without a VFIO core ADD fails with EINVAL, nothing is associated, and the VM goes on', () => {
  const kvmVfio = KvmVfio.create(vm, undefined);
  expect(() => kvmVfio.addFile(contained.group)).toThrowError(
    /^KVM_DEV_VFIO_FILE_ADD on group 0 \(core\): EINVAL/,
  );
  expect(() => kvmVfio.removeFile(contained.group)).toThrowError(/ENOENT/);
  expect(made.device.group.kvm).toBeNull();
  expect(vm.hasAssignedDevice).toBe(false);
  expect(vm.checkExtension('KVM_CAP_USER_MEMORY')).toBeGreaterThan(0);
});

test("C17: the last put of a VM during a close runs outside the group's locks: its end may call set_kvm(null) on the same group", () => {
  const heldAtPut: string[][] = [];
  const { reference } = vm;
  // The VM's owner lets go of it at the moment of the device's put: kvm-vfio then takes the group out of the VM.
  const watched: KvmReference = {
    getUnlessDying: () => reference.getUnlessDying(),
    put() {
      heldAtPut.push(world.core.environment.executor.current.held.map(({ name }) => name));
      vm[Symbol.dispose]();
      expect(reference.isAlive).toBe(true);
      reference.put();
    },
    get isAlive() {
      return reference.isAlive;
    },
  };
  const { vfioFileOps } = world.core;
  const ops: VfioFileOps = {
    isValid: (file) => vfioFileOps.isValid(file),
    setKvm: (file, of) => vfioFileOps.setKvm(file, of === null ? null : watched),
    enforcedCoherent: (file) => vfioFileOps.enforcedCoherent(file),
  };
  KvmVfio.create(vm, ops).addFile(contained.group);
  const listener = listen(made);
  const file = world.open(contained, made);
  file[Symbol.dispose]();
  expect(heldAtPut).toEqual([[]]);
  expect(listener.heard).toEqual([watched, null]);
  expect(made.device.group.kvm).toBeNull();
  expect([reference.isAlive, vm.fd.isOpen]).toEqual([false, false]);
  unlisten(made, listener);
});
