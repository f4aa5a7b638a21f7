import { afterEach, beforeEach, expect, test } from 'vitest';
import { iova } from '../../sys/address.js';
import { Scope } from '../../sys/scope.js';
import { RecordingListener } from '../testing/recording-listener.js';
import { ScriptedVm } from '../testing/scripted-kvm.js';
import { World, type WorldDevice } from '../testing/world.js';
import {
  type ContainerFile,
  VFIO_DMA_MAP_FLAG_READ,
  VFIO_NOIOMMU_IOMMU,
  VFIO_TYPE1_IOMMU,
  VFIO_TYPE1v2_IOMMU,
} from '../uapi.js';
import { Container } from './container.js';
import type { VfioDevice } from './device.js';
import { CoreFileOps } from './file-ops.js';
import { CoreIommufdFile } from './iommufd.js';
import type { Steps } from './steps.js';

const PAGE = 4096n;
const map = { flags: VFIO_DMA_MAP_FLAG_READ, iova: iova(0n), size: PAGE };

let world: World;
let scope: Scope;
let made: WorldDevice;
let isRawioAllowed: boolean;
beforeEach(() => {
  isRawioAllowed = true;
  world = new World({ ports: { hasRawio: () => isRawioAllowed }, enableUnsafeNoiommuMode: true });
  scope = new Scope();
  made = world.device();
});
afterEach(() => {
  scope[Symbol.dispose]();
  world.remove(made);
  world.takeWarnings(); // of groups without an IOMMU
  world.end();
});

test('each call on a closed container is EBADF, and a second close does nothing', () => {
  const container = world.openContainer();
  expect(container.isOpen).toBe(true);
  container[Symbol.dispose]();
  container[Symbol.dispose]();
  expect(container.isOpen).toBe(false);
  const group = scope.own(world.openGroup(made.device.group.number));
  const calls = [
    () => container.getApiVersion(),
    () => container.checkExtension(VFIO_TYPE1v2_IOMMU),
    () => container.setIommu(VFIO_TYPE1v2_IOMMU),
    () => container.getIommuInfo(),
    () => container.mapDma({ ...map, vaddr: 0n as never }),
    () => container.unmapDma({ ...map, flags: 0 }),
    () => container.dirtyPages,
    () => group.setContainer(container),
  ];
  for (const call of calls) expect(call).toThrow(/container \(core\): EBADF\n.*container file is closed/);
  expect(group.getStatus()).toBe(1);
});

test('each call on a closed group is EBADF, and a second close does nothing', () => {
  const container = scope.own(world.openContainer());
  const group = world.openGroup(made.device.group.number);
  group[Symbol.dispose]();
  const again = scope.own(world.openGroup(made.device.group.number));
  group[Symbol.dispose]();
  expect([group.isOpen, again.isOpen]).toEqual([false, true]);
  expect(made.device.group.openedFile).toBe(again);
  const calls = [
    () => group.getStatus(),
    () => group.setContainer(container),
    () => group.unsetContainer(),
    () => group.getDeviceFd(made.device.name),
  ];
  for (const call of calls) expect(call).toThrow(/EBADF\n.*the group file is closed/);
});

test('each call on a closed iommufd is EBADF, and a second close does nothing', () => {
  const iommufd = CoreIommufdFile.open(world.core.environment);
  const ioas = iommufd.ioasAlloc();
  iommufd[Symbol.dispose]();
  iommufd[Symbol.dispose]();
  expect(iommufd.isOpen).toBe(false);
  const calls = [
    () => iommufd.ioasAlloc(),
    () => iommufd.ioasMap(ioas, { ...map, vaddr: 0n as never }),
    () => iommufd.ioasUnmap(ioas, map),
    () => iommufd.ioasCopy({ from: ioas, to: ioas, source: map.iova, size: PAGE, flags: 1 }),
    () => iommufd.ioasIovaRanges(ioas),
    () => iommufd.destroy(ioas),
  ];
  for (const call of calls) expect(call).toThrow(/iommufd \(core\): EBADF\n.*iommufd is closed/);
});

test('a closed cdev is EBADF for BIND and for each call, and no longer holds its device', () => {
  const file = world.openCdev(made.device.cdev);
  const iommufd = scope.own(CoreIommufdFile.open(world.core.environment));
  expect(made.device.registration.count).toBe(2);
  expect(() => file.attachIoas(1)).toThrow(`ATTACH_IOMMUFD_PT on ${made.device.cdev} (core): EINVAL`);
  file[Symbol.dispose]();
  file[Symbol.dispose]();
  expect([file.isOpen, made.device.registration.count]).toEqual([false, 1]);
  expect(() => file.bindIommufd(iommufd)).toThrow(/EBADF/);
  expect(() => file.getInfo()).toThrow(/EBADF/);
});

test('a device that came from its group takes no IOAS', () => {
  const contained = world.contain(made);
  scope.defer(() => contained.close());
  const file = scope.own(world.open(contained, made));
  for (const call of [() => file.attachIoas(1), () => file.detachIoas()])
    expect(call).toThrow(/EINVAL\n.*not bound to an iommufd/);
});

test('SET_CONTAINER of what is no container of a core is EINVAL', () => {
  const group = scope.own(world.openGroup(made.device.group.number));
  const others = [group, {}] as unknown[];
  for (const other of others)
    expect(() => group.setContainer(other as ContainerFile)).toThrow(
      /SET_CONTAINER on .*EINVAL\n.*not a container/,
    );
});

test('a container whose group could not join is freed with its file', () => {
  const [one, two] = [made, world.device()];
  const first = scope.own(world.openGroup(one.device.group.number));
  const container = world.openContainer();
  first.setContainer(container);
  const other = world.openContainer();
  expect(() => first.setContainer(other)).toThrow(/EINVAL\n.*the group is in a container/);
  other[Symbol.dispose]();
  expect(world.core.live.get('container')).toBe(1);
  container[Symbol.dispose]();
  expect(world.core.live.get('container')).toBe(1);
  first.unsetContainer();
  expect(world.core.live.get('container')).toBeUndefined();
  world.remove(two);
});

test('only open files of the same core are VFIO files, and foreign ones are told of no VM', () => {
  const { vfioFileOps: ops } = world.core;
  const [group, cdev] = [world.openGroup(made.device.group.number), world.openCdev(made.device.cdev)];
  const other = new CoreFileOps(new World().core.registry);
  const foreign = [{}, scope.own(world.openContainer())];
  for (const file of [group, cdev]) {
    expect([ops.isValid(file), other.isValid(file), ops.enforcedCoherent(file)]).toEqual([true, false, true]);
    file[Symbol.dispose]();
    expect(ops.isValid(file)).toBe(false);
  }
  for (const file of foreign) {
    expect([ops.isValid(file), ops.enforcedCoherent(file)]).toEqual([false, false]);
    ops.setKvm(file, new ScriptedVm());
  }
});

test('a file of a device whose DMA does not snoop is not coherent', () => {
  const noisy = world.device({ group: world.iommuGroup({ isCoherent: false, iovaRanges: [] }) });
  const { vfioFileOps: ops } = world.core;
  for (const file of [world.openGroup(noisy.device.group.number), world.openCdev(noisy.device.cdev)]) {
    expect([file.isCoherent, ops.enforcedCoherent(file)]).toEqual([false, false]);
    file[Symbol.dispose]();
  }
  world.remove(noisy);
});

test('without an IOMMU, nothing is mapped, tracked or told: each call is ENOTTY', () => {
  const bare = world.device({ group: undefined });
  scope.defer(() => world.remove(bare));
  const group = scope.own(world.openGroup(bare.device.group.number));
  const container = scope.own(world.openContainer());
  group.setContainer(container);
  const types = [VFIO_NOIOMMU_IOMMU, VFIO_TYPE1_IOMMU, VFIO_TYPE1v2_IOMMU];
  expect(types.map((type) => container.checkExtension(type))).toEqual([1, 0, 0]);
  expect(() => container.setIommu(VFIO_TYPE1v2_IOMMU)).toThrow(/ENODEV/);
  container.setIommu(VFIO_NOIOMMU_IOMMU);
  expect(types.map((type) => container.checkExtension(type))).toEqual([1, 0, 0]);
  const calls = [
    () => container.getIommuInfo(),
    () => container.mapDma({ ...map, vaddr: 0n as never }),
    () => container.unmapDma({ ...map, flags: 0 }),
    () => container.dirtyPages,
  ];
  for (const call of calls) expect(call).toThrow(/on container \(core\): ENOTTY/);
  const backend = bare.device.group.container?.backend;
  const block = { name: 'listener', call: () => undefined };
  expect(() => world.core.run(backend?.registerNotifier({ mask: 1 }, block) as Steps<void>)).toThrow(
    /vfio_register_notifier on .*ENOTTY/,
  );
  expect([backend?.space, world.core.live.get('vfio-noiommu')]).toEqual([undefined, 1]);
  group.unsetContainer();
  expect(world.core.live.get('vfio-noiommu')).toBeUndefined();
});

test('a group without an IOMMU is opened, contained and used with CAP_SYS_RAWIO, each else EPERM', () => {
  const bare = world.device({ group: undefined });
  scope.defer(() => world.remove(bare));
  const { number } = bare.device.group;
  isRawioAllowed = false;
  expect(() => world.openGroup(number)).toThrow(/EPERM/);
  isRawioAllowed = true;
  const group = scope.own(world.openGroup(number));
  const container = scope.own(world.openContainer());
  isRawioAllowed = false;
  expect(() => group.setContainer(container)).toThrow(/SET_CONTAINER on .*EPERM/);
  isRawioAllowed = true;
  group.setContainer(container);
  container.setIommu(VFIO_NOIOMMU_IOMMU);
  isRawioAllowed = false;
  expect(() => group.getDeviceFd(bare.device.name)).toThrow(/EPERM/);
  isRawioAllowed = true;
  scope.own(group.getDeviceFd(bare.device.name));
});

test('no-IOMMU is an extension of a core that allows it, before a group decides', () => {
  const container = scope.own(world.openContainer());
  expect(container.checkExtension(VFIO_NOIOMMU_IOMMU)).toBe(1);
  const group = scope.own(world.openGroup(made.device.group.number));
  group.setContainer(container);
  expect(container.checkExtension(VFIO_NOIOMMU_IOMMU)).toBe(0);
  const strict = new World();
  using other = strict.openContainer();
  expect(other.checkExtension(VFIO_NOIOMMU_IOMMU)).toBe(0);
  expect(other.checkExtension(VFIO_TYPE1_IOMMU)).toBe(1);
});

test('what keeps a group in its container is named: its listeners, or else its devices', () => {
  const contained = world.contain(made);
  const { device } = made;
  const file = world.open(contained, made);
  expect(() => contained.group.unsetContainer()).toThrow(/EBUSY\n.*close its devices first/);
  const listener = new RecordingListener<VfioDevice>('p2p');
  world.core.run(device.registerDeviceNotifier(listener));
  const named = new RegExp(`EBUSY\n.*device listeners hold it: p2p \\(device ${device.name}\\)`);
  expect(() => contained.group.unsetContainer()).toThrow(named);
  contained.close();
  expect(() => world.openGroup(device.group.number)).toThrow(
    /EBUSY\n.*last user still exists: device listen/,
  );
  world.core.run(device.unregisterDeviceNotifier(listener));
  expect(() => world.openGroup(device.group.number)).toThrow(
    /EBUSY\n.*still exists: close its devices first/,
  );
  file[Symbol.dispose]();
  world.openGroup(device.group.number)[Symbol.dispose]();
});

test('a container that is released with a group in it is warned of, and one without is not', () => {
  const container = Container.create(world.core.environment);
  const { iommuGroup } = made.device.group;
  container.groups.add(iommuGroup);
  container.refs.get();
  container.put();
  expect(world.takeWarnings()).toEqual([]);
  container.put();
  expect(world.takeWarnings()).toEqual(['container (core) is released with 1 groups']);
  Container.create(world.core.environment).put();
  expect(world.takeWarnings()).toEqual([]);
});
