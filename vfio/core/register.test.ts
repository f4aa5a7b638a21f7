import { afterEach, beforeEach, expect, test } from 'vitest';
import { settle } from '../testing/fake-clock.js';
import { RecordingDevice } from '../testing/recording-device.js';
import { Scheduler } from '../testing/scheduler.js';
import { World } from '../testing/world.js';
import { HostDevice } from './iommu-group.js';

let world: World;
beforeEach(() => {
  world = new World();
});
afterEach(() => world.end());

const isDone = async (promise: Promise<unknown>): Promise<boolean> => {
  let done = false;
  void promise.then(() => {
    done = true;
  });
  await settle();
  return done;
};

test('B1 no function of a driver is called between init and register', () => {
  const made = world.prepare();
  const other = world.device();
  const contained = world.contain(other);
  expect(() => world.open(contained, made)).toThrowError(/ENODEV/);
  expect(() => world.openCdev('vfio1')).toThrowError(/ENODEV/);
  expect(() => world.openGroup(made.dev.iommuGroup?.number ?? -1)).toThrowError(/ENODEV/);
  expect(made.ops.calls).toEqual([]);
  expect(made.device.registration.count).toBe(0);
  world.core.run(made.device.register());
  expect(made.ops.calls).toEqual([]);
  contained.close();
  world.remove(made, other);
});

test('B2 an open may reach the driver before register has returned', () => {
  const group = world.iommuGroup();
  const first = world.device({ group });
  const second = world.prepare({ group });
  const contained = world.contain(first);
  const scheduler = new Scheduler(world.core.environment.executor);
  const register = scheduler.spawn('probe', second.device.register());
  scheduler.runTo(register, 'on the list');
  const file = world.open(contained, second);
  expect(second.ops.calls).toEqual(['openDevice']);
  expect(register.isDone).toBe(false);
  scheduler.runAll();
  expect(register.value).toBeUndefined();
  file[Symbol.dispose]();
  contained.close();
  world.remove(first, second);
});

test('B3 register without an IOMMU group is EINVAL, and no group appears', () => {
  const made = world.prepare({ group: undefined });
  expect(() => world.core.run(made.device.register())).toThrowError(/EINVAL/);
  expect(world.core.registry.groups.size).toBe(0);
  expect(world.core.registry.groupMinors.count).toBe(0);
  expect(made.device.isRegistered).toBe(false);
});

test("B4 a second registration of the same device is EBUSY with a warning, and the group's references are unchanged", () => {
  const made = world.device();
  const { group } = made.device;
  const before = group.refs.count;
  expect(() => world.core.addGroupDev(made.dev, new RecordingDevice('again'), {})).toThrowError(/EBUSY/);
  expect(world.takeWarnings()).toEqual([`${made.dev.name}: Device already exists on group ${group.number}`]);
  expect(group.refs.count).toBe(before);
  expect([...group.devices.values()]).toEqual([made.device]);
  world.remove(made);
});

test('B5 devices of one IOMMU group share one VFIO group, which the first creates and the last frees', () => {
  const group = world.iommuGroup();
  const first = world.device({ group });
  const second = world.device({ group });
  expect(second.device.group).toBe(first.device.group);
  expect(first.device.group.refs.count).toBe(2);
  world.remove(first);
  expect(world.core.registry.groups.size).toBe(1);
  world.remove(second);
  expect(world.core.registry.groups.size).toBe(0);
  expect(group.listeners).toBe(0);
});

test('B6 unregister of a device that is not open returns without a request', () => {
  const made = world.device();
  world.core.run(made.device.unregister());
  expect(made.ops.calls).toEqual([]);
  expect(world.clock.pending).toBe(0);
});

test('B7 unregister calls request(0), request(1), ... every 10 s until the last file is closed', async () => {
  const made = world.device();
  const contained = world.contain(made);
  const file = world.open(contained, made);
  const removed = world.core.start('remove', made.device.unregister());
  await settle();
  expect(made.ops.calls).toEqual(['openDevice', 'request 0']);
  await world.clock.advance(9_999);
  expect(made.ops.calls).toHaveLength(2);
  await world.clock.advance(1);
  await world.clock.advance(10_000);
  expect(made.ops.calls).toEqual(['openDevice', 'request 0', 'request 1', 'request 2']);
  expect(await isDone(removed)).toBe(false);
  file[Symbol.dispose]();
  contained.close();
  await removed;
  await world.clock.advance(60_000);
  expect(made.ops.calls).toEqual(['openDevice', 'request 0', 'request 1', 'request 2', 'closeDevice']);
});

test("B8 an interrupt gives one warning with the task's name and id, and only one", async () => {
  const made = world.device();
  const contained = world.contain(made);
  const file = world.open(contained, made);
  const interrupt = new AbortController();
  const task = { name: 'rmmod', id: 4711 };
  const removed = world.core.start('remove', made.device.unregister({ signal: interrupt.signal, task }));
  await world.clock.advance(10_000);
  expect(world.takeWarnings()).toEqual([]);
  interrupt.abort();
  await settle();
  expect(world.takeWarnings()).toEqual([
    `${made.device.name}: Device is currently in use, task "rmmod" (4711) blocked until device is released`,
  ]);
  await world.clock.advance(30_000);
  expect(world.takeWarnings()).toEqual([]);
  expect(made.ops.calls.filter((call) => call.startsWith('request'))).toEqual(
    Array.from({ length: 6 }, (_, i) => `request ${i}`),
  );
  file[Symbol.dispose]();
  contained.close();
  await removed;
});

test("B9 unregister of the group's last device does not return before the group is detached from its container", async () => {
  const group = world.iommuGroup();
  const first = world.device({ group });
  const last = world.device({ group });
  const contained = world.contain(first);
  await world.core.start('remove first', first.device.unregister());
  const removed = world.core.start('remove last', last.device.unregister());
  expect(await isDone(removed)).toBe(false);
  expect(last.ops.calls).toEqual([]);
  contained.group.unsetContainer();
  expect(await isDone(removed)).toBe(true);
  contained.close();
});

test('B10 a new open while unregister waits is ENODEV, by either name', async () => {
  const made = world.device();
  const contained = world.contain(made);
  const file = world.open(contained, made);
  const { cdev } = made.device;
  const removed = world.core.start('remove', made.device.unregister());
  await settle();
  expect(() => world.open(contained, made)).toThrowError(/ENODEV/);
  expect(() => world.openCdev(cdev)).toThrowError(/ENODEV/);
  expect(made.ops.calls).toEqual(['openDevice', 'request 0']);
  file[Symbol.dispose]();
  contained.close();
  await removed;
});

test('B11 a failed register through the wrapper frees the device and leaves drvdata unset; success sets it', async () => {
  const dev = new HostDevice('0000:0a:00.0');
  expect(() => world.core.addGroupDev(dev, new RecordingDevice('x'), { mine: 1 })).toThrowError(/EINVAL/);
  expect(dev.drvdata).toBeUndefined();
  expect([...world.core.live]).toEqual([]);
  world.core.run(world.iommuGroup().addDevice(dev));
  world.core.addGroupDev(dev, new RecordingDevice('x'), { mine: 1 });
  expect(dev.drvdata).toBeDefined();
  expect(world.core.live.get('vfio_device')).toBe(1);
  await world.core.delGroupDev(dev);
});

test("B12 remove returns the driver's own data, and frees the device exactly once", async () => {
  const dev = new HostDevice('0000:0a:00.0');
  world.core.run(world.iommuGroup().addDevice(dev));
  const data = { mine: 1 };
  world.core.addGroupDev(dev, new RecordingDevice('x'), data);
  expect(await world.core.delGroupDev(dev)).toBe(data);
  expect(dev.drvdata).toBeUndefined();
  expect(await world.core.delGroupDev(dev)).toBeUndefined();
  expect(world.core.live.get('vfio_device')).toBeUndefined();
});
