import { afterEach, beforeEach, expect, test } from 'vitest';
import type { MdevInstance, MdevType, VendorDriver } from '../driver.js';
import { settle } from '../testing/fake-clock.js';
import { FaultInjector } from '../testing/fault-injector.js';
import { RecordingDevice } from '../testing/recording-device.js';
import { World } from '../testing/world.js';

const UUID = '83b8f4f2-509f-382f-3c1e-e6bfe0fa1001';
const TOKEN = '5b1d2ff5-7d2c-4a6b-9f0f-0d0fdc8a1cf3';
const type: MdevType = { name: 'sample', description: 'a sample', deviceApi: 'vfio-pci', maxInstances: 2 };
const eventThread = {
  run() {
    throw new Error('not used here');
  },
};

let faults: FaultInjector;
let world: World;
let given: Readonly<Record<string, string>>[];
let ended: number;
beforeEach(() => {
  faults = new FaultInjector();
  world = new World({ ports: { allocate: (what) => faults.call(what) } });
  given = [];
  ended = 0;
});
afterEach(() => world.end());

const driver = (changes: Partial<VendorDriver> = {}, instance: object = {}): VendorDriver => ({
  name: 'driver',
  types: [type],
  create: (_type, uuid, options) => {
    given.push(options);
    const own = { ops: new RecordingDevice(uuid), [Symbol.dispose]: () => ended++ };
    return Object.assign(own, instance) as MdevInstance;
  },
  ...changes,
});
const register = (one: VendorDriver) => world.core.registerVendorDriver(one, { eventThread });
const create = (name = 'sample', uuid?: string) => world.core.run(world.core.mdevs.create(name, uuid));
const remove = (uuid: string) => world.core.run(world.core.mdevs.remove(uuid));

test('an address is the type of a registered driver or the UUID of a device, and the provider lists the types', () => {
  const { provider } = world.core;
  expect(provider.addresses).toBe('a mediated device of this process: no driver is registered');
  using _driver = register(driver({ types: [type, { ...type, name: 'other' }] }));
  expect(provider.addresses).toBe('a mediated device of this process: sample, other');
  const { uuid } = create();
  expect(['sample', 'other', uuid, 'none', UUID].map((each) => provider.matches(each))).toEqual([
    true,
    true,
    true,
    false,
    false,
  ]);
  expect(() => provider.resolve('none', {})).toThrow(/resolve on none: ENODEV/);
  remove(uuid);
});

test('what is resolved has the names of its device, its description, and counters if the instance has them', () => {
  const { provider, mdevs } = world.core;
  using _driver = register(
    driver({}, { packets: 3, counters: (): object => ({ is: mdevs.devices.length }) }),
  );
  using device = provider.resolve('sample', {});
  const [mdev] = mdevs.devices;
  expect(device).toMatchObject({
    name: mdev?.uuid,
    group: mdev?.device.group.number,
    cdev: 'vfio0',
    description: `a sample (mediated device ${mdev?.uuid}, vfio-pci)`,
  });
  expect('vfToken' in device).toBe(false);
  expect(device.counters?.()).toEqual({ is: 1 });
});

test('a device without counters has none, and options go to the driver without the token', () => {
  const { provider } = world.core;
  using _driver = register(driver());
  using device = provider.resolve('sample', { 'vf-token': TOKEN, net: 'tap' });
  expect('counters' in device).toBe(false);
  expect(given).toEqual([{ net: 'tap' }]);
  expect(device).toMatchObject({
    name: `${world.core.mdevs.devices[0]?.uuid} vf_token=${TOKEN}`,
    vfToken: TOKEN,
  });
});

test('a device that was created for its resolver goes with it, even if it was removed before', async () => {
  const { provider, mdevs } = world.core;
  using _driver = register(driver());
  const device = provider.resolve('sample', {});
  device[Symbol.dispose]();
  await settle();
  expect([mdevs.devices, ended]).toEqual([[], 1]);
  device[Symbol.dispose]();
  await settle();
  expect([ended, world.takeWarnings()]).toEqual([1, []]);
});

test('options are checked by the driver of the type, without the token; other addresses have no problem', () => {
  const { provider } = world.core;
  const seen: unknown[] = [];
  const checkOptions: NonNullable<VendorDriver['checkOptions']> = ({ name }, options) => {
    seen.push([name, options]);
    return 'no such option';
  };
  using _other = register(driver({ name: 'lenient', types: [{ ...type, name: 'lenient' }] }));
  using _driver = register(driver({ checkOptions }));
  expect(provider.checkOptions?.('sample', { 'vf-token': TOKEN, a: 'b' })).toBe('no such option');
  expect(seen).toEqual([['sample', { a: 'b' }]]);
  for (const address of ['lenient', UUID]) expect(provider.checkOptions?.(address, {})).toBeUndefined();
});

test('as many instances are left as the type and its driver allow, whichever is less', () => {
  let left = 5;
  using _other = register(driver({ name: 'other', types: [{ ...type, name: 'other' }] }));
  using _driver = register(driver({ availableInstances: () => left }));
  const { mdevs } = world.core;
  expect(mdevs.availableInstances(type)).toBe(2);
  const { uuid } = create();
  expect(mdevs.availableInstances(type)).toBe(1);
  left = 0;
  expect(mdevs.availableInstances(type)).toBe(0);
  expect(() => create()).toThrow(/sample: ENOSPC/);
  left = 1;
  remove(create().uuid);
  remove(uuid);
  expect(mdevs.availableInstances({ ...type, name: 'of nobody' })).toBe(2);
});

test('a device that cannot be registered is disposed, and its UUID and its instance are free again', () => {
  using _driver = register(driver());
  const { mdevs } = world.core;
  for (const index of [1, 2, 3, 4]) {
    faults.failAt(index, 'ENOMEM');
    expect(() => create('sample', UUID), `call ${index}`).toThrow(/ENOMEM/);
    expect([mdevs.devices, mdevs.availableInstances(type), ended]).toEqual([[], 2, index]);
    expect([...world.core.live]).toEqual([]);
  }
  create('sample', UUID);
  remove(UUID);
});

test('an instance that its driver does not create was none, and nobody disposes it', () => {
  const error = new RangeError('no more');
  using _driver = register(
    driver({
      create: () => {
        throw error;
      },
    }),
  );
  expect(() => create()).toThrow(error);
  expect([ended, world.core.mdevs.availableInstances(type), [...world.core.live]]).toEqual([0, 2, []]);
});

test('a device that is being removed is EBUSY to remove again', async () => {
  using _driver = register(driver());
  const { mdevs } = world.core;
  const mdev = create('sample', UUID);
  const contained = world.contain({ device: mdev.device } as never);
  const file = contained.group.getDeviceFd(UUID);
  const removed = world.core.start('remove', mdevs.remove(UUID));
  await settle();
  expect(() => remove(UUID)).toThrow(/mdev_device_remove on .*EBUSY/);
  expect(mdevs.find(UUID)).toBe(mdev);
  file[Symbol.dispose]();
  contained.close();
  await removed;
  expect([mdevs.find(UUID), ended]).toEqual([undefined, 1]);
});

test('a driver that goes takes its own devices only, and one that is gone, or another of its name, takes none', async () => {
  const { mdevs } = world.core;
  using _other = register(driver({ name: 'other', types: [{ ...type, name: 'other' }] }));
  const first = driver();
  const registered = register(first);
  const [own, others] = [create('sample'), create('other')];
  world.core.run(mdevs.unregisterParent(driver()));
  expect(mdevs.devices).toEqual([own, others]);
  registered[Symbol.dispose]();
  await settle();
  expect([mdevs.devices, mdevs.types.map(({ name }) => name)]).toEqual([[others], ['other']]);
  using _again = register(driver());
  registered[Symbol.dispose]();
  world.core.run(mdevs.unregisterParent(first));
  expect(mdevs.findType('sample')).toBeDefined();
  remove(others.uuid);
});

test('a core that is disposed removes its mediated devices', async () => {
  using _driver = register(driver());
  create();
  world.core[Symbol.dispose]();
  await settle();
  expect([world.core.mdevs.devices, ended, world.takeWarnings()]).toEqual([[], 1, []]);
});
