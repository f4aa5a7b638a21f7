import { afterEach, beforeEach, expect, test } from 'vitest';
import { trace, type VfioEvent } from '../../sys/trace.js';
import type { KvmPointer } from '../driver.js';
import { RecordingListener } from '../testing/recording-listener.js';
import { everyInterleaving, Scheduler } from '../testing/scheduler.js';
import { ScriptedVm } from '../testing/scripted-kvm.js';
import { World, type WorldDevice } from '../testing/world.js';
import { Timeline } from '../timeline.js';
import { VFIO_GROUP_FLAGS_CONTAINER_SET, VFIO_GROUP_FLAGS_VIABLE } from '../uapi.js';
import type { CoreGroupFile } from './group-file.js';
import {
  HostDevice,
  IOMMU_GROUP_NOTIFY_ADD_DEVICE,
  IOMMU_GROUP_NOTIFY_BIND_DRIVER,
  IOMMU_GROUP_NOTIFY_BOUND_DRIVER,
  IOMMU_GROUP_NOTIFY_DEL_DEVICE,
  IOMMU_GROUP_NOTIFY_UNBIND_DRIVER,
  IOMMU_GROUP_NOTIFY_UNBOUND_DRIVER,
  PCI_HEADER_TYPE_BRIDGE,
} from './iommu-group.js';
import type { Steps } from './steps.js';

const events = [
  IOMMU_GROUP_NOTIFY_ADD_DEVICE,
  IOMMU_GROUP_NOTIFY_DEL_DEVICE,
  IOMMU_GROUP_NOTIFY_BIND_DRIVER,
  IOMMU_GROUP_NOTIFY_BOUND_DRIVER,
  IOMMU_GROUP_NOTIFY_UNBIND_DRIVER,
  IOMMU_GROUP_NOTIFY_UNBOUND_DRIVER,
];

let world: World;
beforeEach(() => {
  world = new World();
});
afterEach(() => world.end());

test("E1 events during a group's creation, or after its last put, do nothing, never throw and never revive it", () => {
  const runs = everyInterleaving(() => {
    const own = new World();
    const made = own.prepare();
    const iommuGroup = made.dev.iommuGroup;
    if (iommuGroup === undefined) throw new Error('no group');
    const scheduler = new Scheduler(own.core.environment.executor);
    const stranger = new HostDevice('0000:00:1f.0');
    stranger.driver = 'e1000e';
    scheduler.spawn(
      'probe and remove',
      (function* (): Steps<void> {
        yield* made.device.register();
        yield* made.device.unregister();
      })(),
    );
    const storm = scheduler.spawn(
      'events',
      (function* (): Steps<void> {
        for (const event of events) yield* iommuGroup.notify(event, stranger);
      })(),
    );
    return {
      scheduler,
      check() {
        expect(storm.value).toBeUndefined();
        expect(own.core.registry.groups.size).toBe(0);
        expect(iommuGroup.listeners).toBe(0);
        own.end();
      },
    };
  });
  expect(runs).toBeGreaterThan(100);
});

test('E2 the callback takes no group reference, for any of the six events, in an idle group and in a live one', () => {
  const made = world.device();
  const { group } = made.device;
  const stranger = new HostDevice('0000:00:1f.0');
  for (const isLive of [false, true]) {
    const contained = isLive ? world.contain(made) : undefined;
    const before = {
      group: group.refs.count,
      iommu: group.iommuGroup.refs.count,
      users: group.containerUsers,
    };
    for (const event of events) {
      world.core.run(group.iommuGroup.notify(event, stranger));
      expect({
        group: group.refs.count,
        iommu: group.iommuGroup.refs.count,
        users: group.containerUsers,
      }).toEqual(before);
    }
    contained?.close();
  }
  expect(world.takeWarnings()).toEqual([`${stranger.name}: device added to live group ${group.number}`]);
  world.remove(made);
});

/** Who gives the last reference of a group back. */
const lastPuts: readonly [string, (device: WorldDevice, file: CoreGroupFile) => void][] = [
  [
    'unregister',
    ({ device }, file) => {
      file[Symbol.dispose]();
      world.core.run(device.unregister());
    },
  ],
  [
    "the group file's close",
    ({ device }, file) => {
      world.core.run(device.unregister());
      file[Symbol.dispose]();
    },
  ],
  ...events.map((event): (typeof lastPuts)[number] => [
    `a callback of event ${event}, on the same chain`,
    ({ dev, device }, file) => {
      const { iommuGroup } = device.group;
      world.core.run(device.unregister());
      const last = new RecordingListener<HostDevice>('closes the group', () => file[Symbol.dispose]());
      world.core.run(iommuGroup.registerNotifier(last));
      world.core.run(iommuGroup.notify(event, dev));
      world.core.run(iommuGroup.unregisterNotifier(last));
    },
  ]),
];

test('E3 the last put does not deadlock in any context, even inside a callback of the same chain, and defers nothing', () => {
  for (const [where, putLast] of lastPuts) {
    const made = world.device();
    const { iommuGroup, number } = made.device.group;
    const file = world.openGroup(number);
    putLast(made, file);
    expect(world.core.registry.groups.has(number), where).toBe(false);
    expect(world.core.live.get('vfio_group'), where).toBeUndefined();
    expect([world.clock.pending, iommuGroup.listeners, iommuGroup.refs.count], where).toEqual([0, 0, 1]);
  }
});

test('E4 release warns of remaining devices, container users and listeners, each in one warning that names them', () => {
  const unbalanced = new World();
  const made = unbalanced.device();
  const { group } = made.device;
  unbalanced.core.run(group.notifier.register(new RecordingListener<KvmPointer | null>('left-over')));
  group.containerUsers = 2;
  unbalanced.core.run(group.put());
  expect(unbalanced.takeWarnings()).toEqual([
    `${group.target} is released with devices: ${made.device.name}`,
    `${group.target} is released with 2 container users`,
    `${group.target} is released with listeners: left-over`,
  ]);
});

/** Each step of a group's end, with what is left of the group at that moment. */
function recordEnd(made: WorldDevice): string[] {
  const { group } = made.device;
  const { core } = world;
  const seen: string[] = [];
  const record = ({ what }: VfioEvent): void => {
    if (!what.startsWith('group_')) return;
    const left = {
      listed: core.registry.groups.size,
      numbered: core.registry.groupMinors.count,
      listening: group.iommuGroup.listeners,
      unbound: group.unbound.size,
      live: core.live.get('vfio_group') ?? 0,
    };
    const kinds = Object.entries(left).filter(([, count]) => count > 0);
    seen.push(`${what}: ${kinds.map(([kind]) => kind).join(' ')}`);
  };
  trace.vfio.subscribe(record);
  try {
    world.remove(made);
  } finally {
    trace.vfio.unsubscribe(record);
  }
  return seen;
}

test('E5 unbound entries are freed with the group, after its notifier is unregistered', () => {
  const made = world.device();
  const { group } = made.device;
  const end = recordEnd(made);
  expect(end).toContain('group_unregister_notifier: unbound live');
  expect(end).toContain('group_free_unbound: live');
  expect(end.indexOf('group_free_unbound: live')).toBe(
    end.indexOf('group_unregister_notifier: unbound live') + 1,
  );
  expect(group.unbound.size).toBe(0);
});

test('E6 a group is released in this order: node, list, number, notifier, unbound list, memory', () => {
  expect(recordEnd(world.device())).toEqual([
    'group_remove_node: listed numbered listening unbound live',
    'group_list_del: numbered listening unbound live',
    'group_free_minor: listening unbound live',
    'group_unregister_notifier: unbound live',
    'group_free_unbound: live',
    'group_free: ',
  ]);
});

const neighbours: readonly [string, (dev: HostDevice) => void, boolean, number?][] = [
  ['without a driver', () => undefined, true],
  ['bound to pci-stub', (dev) => Object.assign(dev, { driver: 'pci-stub' }), true],
  ['a bridge', (dev) => Object.assign(dev, { driver: 'shpchp' }), true, PCI_HEADER_TYPE_BRIDGE],
  ['bound to pcieport', (dev) => Object.assign(dev, { driver: 'pcieport' }), true],
  ['bound to a host driver', (dev) => Object.assign(dev, { driver: 'e1000e' }), false],
];

test('E7 viable: without driver, vfio, pci-stub, bridge, pcieport, in transition; not viable: bound to a host driver', () => {
  for (const [what, set, isViable, headerType] of neighbours) {
    const group = world.iommuGroup();
    const made = world.device({ group });
    const neighbour = new HostDevice('0000:00:1f.6', headerType);
    set(neighbour);
    world.core.run(group.addDevice(neighbour));
    expect([what, made.device.group.isViable()]).toEqual([what, isViable]);
    const file = world.openGroup(group.number);
    expect(file.getStatus() & VFIO_GROUP_FLAGS_VIABLE).toBe(isViable ? VFIO_GROUP_FLAGS_VIABLE : 0);
    file[Symbol.dispose]();
    world.remove(made);
    world.core.run(group.removeDevice(neighbour));
  }
  // In transition: unregistered, but its driver not unbound yet.
  const group = world.iommuGroup();
  const [stays, goes] = [world.device({ group }), world.device({ group })];
  world.remove(goes);
  expect(goes.dev.driver).toBeDefined();
  expect(stays.device.group.isViable()).toBe(true);
  world.core.run(goes.dev.unbindDriver());
  expect(stays.device.group.unbound.size).toBe(0);
  world.core.run(goes.dev.bindDriver('e1000e'));
  expect(stays.device.group.isViable()).toBe(false);
  world.remove(stays);
});

test('E8 a host driver that binds in a live group is reported as an isolation violation', () => {
  const group = world.iommuGroup();
  const made = world.device({ group });
  const neighbour = new HostDevice('0000:00:1f.6');
  world.core.run(group.addDevice(neighbour));
  world.core.run(neighbour.bindDriver('e1000e'));
  world.core.run(neighbour.unbindDriver());
  expect(world.takeWarnings()).toEqual([]);
  const contained = world.contain(made);
  using timeline = Timeline.start();
  world.core.run(neighbour.bindDriver('e1000e'));
  expect(timeline.events.find(({ what }) => what === 'isolation_violation')?.details).toEqual({
    group: group.number,
    device: neighbour.name,
    driver: 'e1000e',
  });
  expect(world.takeWarnings()).toEqual([
    `${neighbour.name}: driver e1000e bound in live group ${group.number}, isolation is lost`,
  ]);
  expect(() => world.open(contained, made)).toThrowError(/EINVAL\n {2}hint: .*e1000e/);
  contained.close();
  world.remove(made);
});

test("E9 a device added to a live group gives a warning with the group's number, and the group stays usable", () => {
  const group = world.iommuGroup();
  const made = world.device({ group });
  const contained = world.contain(made);
  const hot = new HostDevice('0000:00:1e.0');
  world.core.run(group.addDevice(hot));
  expect(world.takeWarnings()).toEqual([`${hot.name}: device added to live group ${group.number}`]);
  world.open(contained, made)[Symbol.dispose]();
  contained.close();
  world.remove(made);
});

test('E10 GET_STATUS refuses a short argsz and reports viable and contained; UNSET_CONTAINER is EINVAL without one, EBUSY with devices open', () => {
  const made = world.device();
  const group = world.openGroup(made.device.group.number);
  expect(() => group.getStatus(7)).toThrowError(/EINVAL/);
  expect(group.getStatus(8)).toBe(VFIO_GROUP_FLAGS_VIABLE);
  expect(() => group.unsetContainer()).toThrowError(/EINVAL/);
  group[Symbol.dispose]();
  const contained = world.contain(made);
  expect(contained.group.getStatus()).toBe(VFIO_GROUP_FLAGS_VIABLE | VFIO_GROUP_FLAGS_CONTAINER_SET);
  const file = world.open(contained, made);
  expect(() => contained.group.unsetContainer()).toThrowError(/EBUSY/);
  file[Symbol.dispose]();
  contained.group.unsetContainer();
  expect(contained.group.getStatus()).toBe(VFIO_GROUP_FLAGS_VIABLE);
  contained.close();
  world.remove(made);
});

test('a group file that is associated with a VM keeps its group until the association ends', () => {
  const made = world.device();
  const { group } = made.device;
  const file = world.openGroup(group.number);
  const vm = new ScriptedVm();
  world.core.vfioFileOps.setKvm(file, vm);
  file[Symbol.dispose]();
  expect(world.core.vfioFileOps.isValid(file)).toBe(false);
  expect(() => world.openGroup(group.number)).toThrowError(/EBUSY/);
  world.core.vfioFileOps.setKvm(file, null);
  world.core.vfioFileOps.setKvm(file, vm);
  expect(group.kvm).toBeNull();
  world.openGroup(group.number)[Symbol.dispose]();
  world.remove(made);
});
