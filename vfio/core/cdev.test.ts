import { afterEach, beforeEach, expect, test } from 'vitest';
import { FaultInjector } from '../testing/fault-injector.js';
import { RecordingDevice } from '../testing/recording-device.js';
import { everyInterleaving, Scheduler } from '../testing/scheduler.js';
import { ScriptedVm } from '../testing/scripted-kvm.js';
import { World, type WorldDevice } from '../testing/world.js';
import { VfioDevice } from './device.js';
import { HostDevice } from './iommu-group.js';
import { CoreIommufdFile } from './iommufd.js';

let world: World;
beforeEach(() => {
  world = new World();
});
afterEach(() => world.end());

const openIommufd = () => CoreIommufdFile.open(world.core.environment);

/** Names under which a device can be found: its group's number and its cdev. */
function namesOf(own: World, { dev, device }: WorldDevice): string[] {
  const inGroup = [...own.core.registry.groups.values()].some((group) => group.devices.get(dev) === device);
  const nodes = [...own.core.registry.cdevs].filter(([, known]) => known === device).map(([node]) => node);
  return [...(inGroup ? ['group'] : []), ...nodes];
}

test('D1 a registered device has both names after one call, neither after unregister, and never just one', () => {
  const seen = new Set<string>();
  everyInterleaving(() => {
    const own = new World();
    const made = own.prepare();
    const scheduler = new Scheduler(own.core.environment.executor);
    const look = function* () {
      for (let i = 0; i < 6; i++) {
        seen.add(namesOf(own, made).join(' '));
        yield 'look again';
      }
    };
    scheduler.spawn(
      'probe and remove',
      (function* () {
        yield* made.device.register();
        expect(namesOf(own, made)).toEqual(['group', 'vfio0']);
        yield* made.device.unregister();
        expect(namesOf(own, made)).toEqual([]);
      })(),
    );
    scheduler.spawn('look', look());
    return { scheduler, check: () => own.end() };
  });
  expect([...seen].sort()).toEqual(['', 'group vfio0']);
});

test('D2 nodes are vfio0, vfio1, ..., the lowest free number first, whatever the name of the device; a device reports its own', () => {
  const { core } = world;
  const register = (name: string): VfioDevice => {
    const dev = new HostDevice(name);
    core.run(world.iommuGroup().addDevice(dev));
    const device = VfioDevice.init(core.registry, dev, new RecordingDevice(name));
    core.run(device.register());
    return device;
  };
  const names = ['0000:00:14.2', 'PNP0103:00', '83b8f4f2-509f-382f-3c1e-e6bfe0fa1001', 'vfio9'];
  const devices = names.map(register);
  const nodes = () => [...core.registry.cdevs].map(([node, { name }]) => `${node} ${name}`);
  expect(nodes()).toEqual(names.map((name, i) => `vfio${i} ${name}`));
  expect(devices.map(({ cdev }) => cdev)).toEqual(['vfio0', 'vfio1', 'vfio2', 'vfio3']);
  const [first, , third] = devices as [VfioDevice, VfioDevice, VfioDevice, VfioDevice];
  for (const gone of [third, first]) core.run(gone.unregister());
  const again = ['vfio0', 'b', 'c'].map(register);
  expect(again.map(({ cdev }) => cdev)).toEqual(['vfio0', 'vfio2', 'vfio4']);
  const left = [...devices.filter((device) => device.isRegistered), ...again];
  for (const device of left) core.run(device.unregister());
});

test('D3 a device whose driver has no bindIommufd has a node, its bind is ENODEV, and its group works', () => {
  const made = world.device({ hasIommufd: false });
  const iommufd = openIommufd();
  const file = world.openCdev(made.device.cdev);
  expect(() => file.bindIommufd(iommufd)).toThrowError(/ENODEV/);
  file[Symbol.dispose]();
  iommufd[Symbol.dispose]();
  const contained = world.contain(made);
  world.open(contained, made)[Symbol.dispose]();
  expect(made.ops.calls).toEqual(['openDevice', 'closeDevice']);
  contained.close();
  world.remove(made);
});

test("D4 the registration's count is 1 after register, though there are two interfaces", () => {
  const made = world.device();
  expect(made.device.registration.count).toBe(1);
  const grouped = world.device({ hasIommufd: false });
  expect(grouped.device.registration.count).toBe(1);
  world.remove(made, grouped);
});

test('D5 before BIND each call on a cdev is EINVAL', () => {
  const made = world.device();
  const file = world.openCdev(made.device.cdev);
  const calls = [
    () => file.getInfo(),
    () => file.getRegionInfo(0),
    () => file.getRegionIoFds(0),
    () => file.getIrqInfo(0),
    () => file.setIrqs({ index: 0, flags: 0x21, start: 0, count: 1 }),
    () => file.reset(),
    () => file.deviceFeature(1),
    () => file.read(0, new Uint8Array(1)),
    () => file.write(0, new Uint8Array(1)),
    () => file.mmap(0, 4096),
    () => file.queryGfxPlane({ flags: 4, drmPlaneType: 1 }),
    () => file.attachIoas(1),
    () => file.detachIoas(),
  ];
  for (const call of calls) expect(call).toThrowError(/EINVAL/);
  expect(made.ops.calls).toEqual([]);
  const iommufd = openIommufd();
  expect(file.bindIommufd(iommufd)).toBe(1);
  expect(file.getInfo().numRegions).toBe(1);
  file[Symbol.dispose]();
  iommufd[Symbol.dispose]();
  world.remove(made);
});

test("D6 an open group makes BIND EBUSY, and a bound cdev makes the group's open EBUSY", () => {
  const made = world.device();
  const iommufd = openIommufd();
  const file = world.openCdev(made.device.cdev);
  const number = made.device.group.number;
  const group = world.openGroup(number);
  expect(() => file.bindIommufd(iommufd)).toThrowError(/EBUSY/);
  group[Symbol.dispose]();
  file.bindIommufd(iommufd);
  expect(() => world.openGroup(number)).toThrowError(/EBUSY/);
  file[Symbol.dispose]();
  world.openGroup(number)[Symbol.dispose]();
  iommufd[Symbol.dispose]();
  world.remove(made);
});

test('D6 group open and BIND at once: one of them gets EBUSY in every interleaving', () => {
  everyInterleaving(() => {
    const own = new World();
    const made = own.device();
    const iommufd = CoreIommufdFile.open(own.core.environment);
    const cdev = own.openCdev(made.device.cdev);
    const scheduler = new Scheduler(own.core.environment.executor);
    const number = made.device.group.number;
    const bind = scheduler.spawn('bind', cdev.bindIommufdSteps(iommufd));
    const open = scheduler.spawn('open', own.groupSteps(number));
    return {
      scheduler,
      check() {
        const codes = [bind.error, open.error].map((error) => (error as { code?: string } | undefined)?.code);
        expect(codes.filter((code) => code === 'EBUSY')).toHaveLength(1);
        if (open.error === undefined) open.value[Symbol.dispose]();
        cdev[Symbol.dispose]();
        iommufd[Symbol.dispose]();
        own.remove(made);
        own.end();
      },
    };
  }, 3);
});

test('D7 BIND twice is EINVAL, on a file of the group EINVAL, and of a second cdev of the same device EINVAL', () => {
  const made = world.device();
  const iommufd = openIommufd();
  const [first, second] = [world.openCdev(made.device.cdev), world.openCdev(made.device.cdev)];
  first.bindIommufd(iommufd);
  expect(() => first.bindIommufd(iommufd)).toThrowError(/EINVAL/);
  expect(() => second.bindIommufd(iommufd)).toThrowError(/EINVAL/);
  expect(made.ops.calls).toEqual(['openDevice']);
  first[Symbol.dispose]();
  second.bindIommufd(iommufd);
  second[Symbol.dispose]();
  const contained = world.contain(made);
  const inGroup = world.open(contained, made);
  expect(() => inGroup.bindIommufd(iommufd)).toThrowError(/EINVAL/);
  inGroup[Symbol.dispose]();
  contained.close();
  iommufd[Symbol.dispose]();
  world.remove(made);
});

test('D8 a VM set on a cdev before BIND reaches the driver at BIND; one set after changes nothing', () => {
  const made = world.device();
  const iommufd = openIommufd();
  const [one, two] = [new ScriptedVm('one'), new ScriptedVm('two')];
  const ops = world.core.vfioFileOps;
  const file = world.openCdev(made.device.cdev);
  ops.setKvm(file, one);
  file.bindIommufd(iommufd);
  expect(made.ops.open?.kvm).toBe(one);
  ops.setKvm(file, null);
  ops.setKvm(file, two);
  expect(made.device.kvm).toBe(one);
  expect([one.references, two.references]).toEqual([2, 1]);
  ops.setKvm(file, null);
  file[Symbol.dispose]();
  expect([one.references, two.references]).toEqual([1, 1]);
  const late = world.openCdev(made.device.cdev);
  late.bindIommufd(iommufd);
  ops.setKvm(late, two);
  expect(made.device.kvm).toBeUndefined();
  ops.setKvm(late, null);
  late[Symbol.dispose]();
  iommufd[Symbol.dispose]();
  world.remove(made);
});

test('D9 a failure after BIND has opened the device closes it, puts the VM and unblocks the group', () => {
  const faults = new FaultInjector();
  const own = new World({ ports: { allocate: (what) => faults.call(what) } });
  const made = own.device();
  const iommufd = CoreIommufdFile.open(own.core.environment);
  const vm = new ScriptedVm();
  const file = own.openCdev(made.device.cdev);
  own.core.vfioFileOps.setKvm(file, vm);
  faults.failAt(0, 'ENOMEM');
  expect(() => file.bindIommufd(iommufd)).toThrowError(/iommufd device on .*ENOMEM/);
  expect(made.ops.calls).toEqual(['openDevice', 'closeDevice']);
  expect(vm.references).toBe(1);
  expect(made.device.group.cdevOpenCount).toBe(0);
  expect(() => file.getInfo()).toThrowError(/EINVAL/);
  own.openGroup(made.device.group.number)[Symbol.dispose]();
  file.bindIommufd(iommufd);
  own.core.vfioFileOps.setKvm(file, null);
  file[Symbol.dispose]();
  expect(vm.references).toBe(1);
  iommufd[Symbol.dispose]();
  own.remove(made);
  own.end();
});

test('an iommufd that is closed lives on until the devices bound to it are closed', () => {
  const made = world.device();
  const iommufd = openIommufd();
  const file = world.openCdev(made.device.cdev);
  file.bindIommufd(iommufd);
  const ioas = iommufd.ioasAlloc();
  file.attachIoas(ioas);
  expect(() => file.attachIoas(99)).toThrowError(/ENOENT/);
  iommufd[Symbol.dispose]();
  expect(world.core.live.get('iommufd')).toBe(1);
  expect(() => iommufd.ioasAlloc()).toThrowError(/EBADF/);
  file[Symbol.dispose]();
  expect(world.core.live.get('iommufd')).toBeUndefined();
  world.remove(made);
});
