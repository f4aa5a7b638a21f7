import { afterEach, beforeEach, expect, test } from 'vitest';
import { settle } from '../testing/fake-clock.js';
import { RecordingListener } from '../testing/recording-listener.js';
import { everyInterleaving, Scheduler } from '../testing/scheduler.js';
import { World } from '../testing/world.js';
import { VFIO_DEVICE_RELEASE, type VfioDevice } from './device.js';
import { Mutex } from './locks.js';
import type { Steps } from './steps.js';

let world: World;
beforeEach(() => {
  world = new World();
});
afterEach(() => world.end());

test('A1 register on a device whose group has no container is EINVAL, with the chain unchanged and no reference taken', () => {
  const made = world.device();
  const listener = new RecordingListener<VfioDevice>('p2p');
  expect(() => world.core.run(made.device.registerDeviceNotifier(listener))).toThrowError(/EINVAL/);
  expect(made.device.notifier.blocks).toEqual([]);
  expect(made.device.group.containerUsers).toBe(0);
  expect(made.device.group.refs.count).toBe(1);
  world.remove(made);
});

test('A2 register on a noiommu group is EPERM', () => {
  const noiommu = new World({ ports: { hasRawio: () => true }, enableUnsafeNoiommuMode: true });
  const made = noiommu.device({ group: undefined });
  const group = noiommu.openGroup(made.device.group.number);
  const container = noiommu.openContainer();
  const listener = new RecordingListener<VfioDevice>('p2p');
  const register = () => noiommu.core.run(made.device.registerDeviceNotifier(listener));
  expect(register).toThrowError(/EINVAL\n.*in no container/);
  group.setContainer(container);
  container.setIommu(8);
  expect(register).toThrowError(/EPERM/);
  expect(made.device.group.containerUsers).toBe(1);
  group[Symbol.dispose]();
  container[Symbol.dispose]();
  noiommu.remove(made);
  expect(noiommu.takeWarnings()).toEqual([expect.stringContaining('without an IOMMU')]);
  noiommu.end();
});

test('A3 a listener is one container user until it is unregistered, and the group cannot leave the container before', () => {
  const made = world.device();
  const contained = world.contain(made);
  const users = made.device.group.containerUsers;
  const listener = new RecordingListener<VfioDevice>('p2p');
  world.core.run(made.device.registerDeviceNotifier(listener));
  expect(made.device.group.containerUsers).toBe(users + 1);
  expect(() => contained.group.unsetContainer()).toThrowError(/EBUSY\n {2}hint: .*p2p \(device/);
  world.core.run(made.device.unregisterDeviceNotifier(listener));
  expect(made.device.group.containerUsers).toBe(users);
  contained.group.unsetContainer();
  contained.close();
  world.remove(made);
});

test('A4 unregister of a listener that is not registered, or no longer registered, drops no container user', () => {
  const made = world.device();
  const contained = world.contain(made);
  const { group } = made.device;
  const [known, stranger] = [
    new RecordingListener<VfioDevice>('known'),
    new RecordingListener<VfioDevice>('stranger'),
  ];
  world.core.run(made.device.registerDeviceNotifier(known));
  expect(group.containerUsers).toBe(2);
  world.core.run(made.device.unregisterDeviceNotifier(stranger));
  expect(group.containerUsers).toBe(2);
  world.core.run(made.device.unregisterDeviceNotifier(known));
  world.core.run(made.device.unregisterDeviceNotifier(known));
  expect(group.containerUsers).toBe(1);
  contained.close();
  world.remove(made);
});

test("A5 if the chain refuses a listener, the container user is dropped exactly once, and the error is the chain's", () => {
  const made = world.device();
  const contained = world.contain(made);
  const listener = new RecordingListener<VfioDevice>('twice');
  world.core.run(made.device.registerDeviceNotifier(listener));
  expect(() => world.core.run(made.device.registerDeviceNotifier(listener))).toThrowError(/EEXIST/);
  expect(made.device.group.containerUsers).toBe(2);
  expect(made.device.notifier.blocks).toEqual([listener]);
  world.core.run(made.device.unregisterDeviceNotifier(listener));
  expect(made.device.group.containerUsers).toBe(1);
  contained.close();
  world.remove(made);
});

test("A6 the last close emits VFIO_DEVICE_RELEASE once, before the device's own close; another close emits nothing", () => {
  const order: string[] = [];
  const made = world.device({ onClose: () => order.push('closeDevice') });
  const contained = world.contain(made);
  const events: number[] = [];
  const listener = new RecordingListener<VfioDevice>('p2p', (event, device) => {
    events.push(event);
    expect(device).toBe(made.device);
    order.push('release');
  });
  world.core.run(made.device.registerDeviceNotifier(listener));
  const [first, second] = [world.open(contained, made), world.open(contained, made)];
  first[Symbol.dispose]();
  expect(order).toEqual([]);
  second[Symbol.dispose]();
  expect(order).toEqual(['release', 'closeDevice']);
  expect(events).toEqual([VFIO_DEVICE_RELEASE]);
  world.core.run(made.device.unregisterDeviceNotifier(listener));
  contained.close();
  world.remove(made);
});

test('A7 a callback may take a lock that the caller of register holds', () => {
  const runs = everyInterleaving(() => {
    const own = new World();
    const made = own.device();
    const contained = own.contain(made);
    const lock = new Mutex(own.core.environment, 'iommu->lock of the registrar');
    const taking = (name: string) =>
      new RecordingListener<VfioDevice>(name, function* (): Steps<void> {
        using _held = yield* lock.acquire();
        yield 'inside the callback';
      });
    const [early, late] = [taking('early'), taking('late')];
    own.core.run(made.device.registerDeviceNotifier(early));
    const file = own.open(contained, made);
    const scheduler = new Scheduler(own.core.environment.executor);
    scheduler.spawn('close', file.closeSteps());
    const register = scheduler.spawn(
      'register',
      (function* (): Steps<void> {
        using _held = yield* lock.acquire();
        yield 'holding the lock';
        yield* made.device.registerDeviceNotifier(late);
      })(),
    );
    return {
      scheduler,
      check() {
        expect(register.value).toBeUndefined();
        expect(early.heard).toHaveLength(1);
        for (const listener of [early, late]) own.core.run(made.device.unregisterDeviceNotifier(listener));
        contained.close();
        own.remove(made);
        own.end();
      },
    };
  });
  expect(runs).toBeGreaterThan(20);
});

test('A8 a listener that unregisters asynchronously on release restores the container users; a warning names one that stays', async () => {
  const made = world.device();
  const contained = world.contain(made);
  const { device } = made;
  const good: RecordingListener<VfioDevice> = new RecordingListener('good', () => {
    queueMicrotask(() => world.core.run(device.unregisterDeviceNotifier(good)));
  });
  const bad = new RecordingListener<VfioDevice>('bad');
  world.core.run(device.registerDeviceNotifier(good));
  world.open(contained, made)[Symbol.dispose]();
  await settle();
  expect(device.notifier.blocks).toEqual([]);
  expect(device.group.containerUsers).toBe(1);

  world.core.run(device.registerDeviceNotifier(bad));
  world.open(contained, made)[Symbol.dispose]();
  contained.close();
  const removed = world.core.start('remove', device.unregister());
  await settle();
  const number = made.dev.iommuGroup?.number;
  expect(world.takeWarnings()).toEqual([
    `listener 'bad' of device ${device.name} keeps group ${number} (core) in its container`,
  ]);
  world.core.run(device.unregisterDeviceNotifier(bad));
  await removed;
});

test('A9 unregistering inside the callback is EDEADLK, and the other listeners are still notified', () => {
  const made = world.device();
  const contained = world.contain(made);
  const { device } = made;
  const errors: unknown[] = [];
  const hasty: RecordingListener<VfioDevice> = new RecordingListener('hasty', () => {
    try {
      world.core.run(device.unregisterDeviceNotifier(hasty));
    } catch (error) {
      errors.push(error);
    }
  });
  const next = new RecordingListener<VfioDevice>('next');
  for (const listener of [hasty, next]) world.core.run(device.registerDeviceNotifier(listener));
  world.open(contained, made)[Symbol.dispose]();
  expect(errors).toEqual([expect.objectContaining({ code: 'EDEADLK' })]);
  expect(next.heard).toHaveLength(1);
  expect(device.notifier.blocks).toEqual([hasty, next]);
  for (const listener of [hasty, next]) world.core.run(device.unregisterDeviceNotifier(listener));
  contained.close();
  world.remove(made);
});

test('unregister waits for a callback that is running in another task', () => {
  const made = world.device();
  const contained = world.contain(made);
  const listener = new RecordingListener<VfioDevice>('slow', function* (): Steps<void> {
    yield 'inside the callback';
  });
  world.core.run(made.device.registerDeviceNotifier(listener));
  const file = world.open(contained, made);
  const scheduler = new Scheduler(world.core.environment.executor);
  const close = scheduler.spawn('close', file.closeSteps());
  const unregister = scheduler.spawn('unregister', made.device.unregisterDeviceNotifier(listener));
  scheduler.runTo(close, 'inside the callback');
  expect(scheduler.run(unregister)).toBe(false);
  expect(unregister.at).toMatch(/^callbacks of .*held by close$/);
  scheduler.runAll();
  expect(unregister.value).toBeUndefined();
  contained.close();
  world.remove(made);
});
