import { afterEach, beforeEach, expect, test } from 'vitest';
import type { MdevType, VendorDriver } from '../driver.js';
import { settle } from '../testing/fake-clock.js';
import { RecordingDevice } from '../testing/recording-device.js';
import { World } from '../testing/world.js';
import { VFIO_TYPE1v2_IOMMU } from '../uapi.js';

const UUID = '83b8f4f2-509f-382f-3c1e-e6bfe0fa1001';
const eventThread = {
  run() {
    throw new Error('not used here');
  },
};
const type: MdevType = { name: 'sample', description: 'a sample', deviceApi: 'vfio-pci', maxInstances: 2 };
let world: World;
let made: { readonly uuid: string; readonly ops: RecordingDevice; readonly options: object }[];
let ended: string[];
let driver: VendorDriver;
let registered: Disposable;

beforeEach(() => {
  world = new World();
  made = [];
  ended = [];
  driver = {
    name: 'sample-driver',
    types: [type],
    create(_type, uuid, options) {
      const ops = new RecordingDevice(uuid);
      made.push({ uuid, ops, options });
      return { ops, [Symbol.dispose]: () => ended.push(uuid) };
    },
  };
  registered = world.core.registerVendorDriver(driver, { eventThread });
});
afterEach(() => {
  registered[Symbol.dispose]();
  world.end();
});

const create = (uuid?: string) => world.core.run(world.core.mdevs.create('sample', uuid, { net: 'tap' }));

test('a mediated device is created by UUID, in an IOMMU group of its own, with what the user said', () => {
  const { mdevs } = world.core;
  const mdev = create(UUID);
  expect(made[0]).toMatchObject({ uuid: UUID, options: { net: 'tap' } });
  expect(mdev.device.name).toBe(UUID);
  expect(create().device.group).not.toBe(mdev.device.group);
  expect(mdevs.availableInstances(type)).toBe(0);
  expect(() => create()).toThrowError(/EUSERS/);
  for (const { uuid } of mdevs.devices) world.core.run(mdevs.remove(uuid));
  expect(mdevs.availableInstances(type)).toBe(2);
  expect(ended).toEqual(made.map(({ uuid }) => uuid));
});

test('of several drivers and types, a device is created by the driver that has its type', () => {
  const { mdevs } = world.core;
  const created: string[] = [];
  const other: VendorDriver = {
    name: 'other-driver',
    types: ['small', 'large'].map((name) => ({ ...type, name })),
    create({ name }, uuid) {
      created.push(name);
      return { ops: new RecordingDevice(uuid), [Symbol.dispose]: () => undefined };
    },
  };
  using _other = world.core.registerVendorDriver(other, { eventThread });
  for (const name of ['large', 'sample', 'small']) world.core.run(mdevs.create(name));
  expect(created).toEqual(['large', 'small']);
  expect(made).toHaveLength(1);
  expect(['sample', 'small', 'large'].map((name) => mdevs.findType(name)?.name)).toEqual([
    'sample',
    'small',
    'large',
  ]);
  for (const { uuid } of mdevs.devices) world.core.run(mdevs.remove(uuid));
});

test('a UUID that is malformed is EINVAL, one in use EEXIST, a type that is not there ENODEV, a second removal ENODEV', () => {
  const { mdevs } = world.core;
  expect(() => create('not-a-uuid')).toThrowError(/EINVAL/);
  create(UUID);
  expect(() => create(UUID)).toThrowError(/EEXIST/);
  expect(() => world.core.run(mdevs.create('other'))).toThrowError(/ENODEV/);
  world.core.run(mdevs.remove(UUID));
  expect(() => world.core.run(mdevs.remove(UUID))).toThrowError(/ENODEV/);
});

test('without an instance left it is EUSERS, or what the driver that counts them itself throws', () => {
  create();
  create();
  expect(() => create()).toThrowError(/EUSERS/);
  expect(() => create(world.core.mdevs.devices[0]?.uuid)).toThrowError(/EEXIST/);
  const counting: MdevType = { ...type, name: 'counted', maxInstances: 9 };
  const other: VendorDriver = {
    ...driver,
    name: 'counting-driver',
    types: [counting],
    availableInstances: () => 0,
  };
  using _other = world.core.registerVendorDriver(other, { eventThread });
  expect(() => world.core.run(world.core.mdevs.create('counted'))).toThrowError(/ENOSPC/);
  for (const { uuid } of world.core.mdevs.devices) world.core.run(world.core.mdevs.remove(uuid));
});

test('a driver that divides a device says what is left and who has the rest, where nothing is available', () => {
  const account = {
    name: 'card',
    description: 'divided',
    resources: [],
    availableInstances: {},
    instances: [],
  };
  const divided: VendorDriver = {
    ...driver,
    name: 'dividing-driver',
    types: [{ ...type, name: 'part' }],
    availableInstances: () => 0,
    shortage: ({ name }) => `nothing is left of the card for a ${name}`,
    parents: () => [account],
  };
  expect(world.core.mdevs.parents).toEqual([]);
  using _other = world.core.registerVendorDriver(divided, { eventThread });
  expect(world.core.mdevs.parents).toEqual([account]);
  expect(() => world.core.run(world.core.mdevs.create('part'))).toThrowError(
    /mdev_device_create on part: ENOSPC\n.*nothing is left of the card for a part/,
  );
});

test('a UUID may be in upper case; the device has it in lower case', () => {
  const { mdevs, provider } = world.core;
  const { uuid, device } = create(UUID.toUpperCase());
  expect([uuid, device.name]).toEqual([UUID, UUID]);
  expect(() => create(UUID)).toThrowError(/EEXIST/);
  expect(provider.matches(UUID.toUpperCase())).toBe(true);
  provider.resolve(UUID.toUpperCase(), {})[Symbol.dispose]();
  world.core.run(mdevs.remove(UUID.toUpperCase()));
  expect(mdevs.find(UUID)).toBeUndefined();
});

test('a driver registers once, and its types have names of their own', () => {
  const other: VendorDriver = { ...driver, name: 'other-driver' };
  expect(() => world.core.registerVendorDriver(driver, { eventThread })).toThrowError(/EEXIST/);
  expect(() => world.core.registerVendorDriver(other, { eventThread })).toThrowError(/EEXIST/);
  expect(world.core.provider.addresses).toContain('sample');
});

test('a driver that goes takes its devices with it, one in use when its last file is closed', async () => {
  const { provider } = world.core;
  const device = provider.resolve('sample', {});
  const group = provider.groups.openGroup(device.group);
  const container = provider.groups.openContainer();
  group.setContainer(container);
  container.setIommu(VFIO_TYPE1v2_IOMMU);
  const file = group.getDeviceFd(device.name);
  registered[Symbol.dispose]();
  expect(provider.matches('sample')).toBe(false);
  expect(() => provider.resolve('sample', {})).toThrowError(/ENODEV/);
  await settle();
  expect(made[0]?.ops.calls).toEqual(['openDevice', 'request 0']);
  expect(ended).toEqual([]);
  for (const open of [file, group, container]) open[Symbol.dispose]();
  await settle();
  expect(ended).toEqual([device.name]);
  device[Symbol.dispose]();
});

test('a device created before is an address too, and outlives whoever resolved it', () => {
  create(UUID);
  const { provider } = world.core;
  expect(provider.matches(UUID)).toBe(true);
  provider.resolve(UUID, {})[Symbol.dispose]();
  expect(ended).toEqual([]);
  world.core.run(world.core.mdevs.remove(UUID));
  expect(provider.matches(UUID)).toBe(false);
});

test('a VF is a device in a group of its own, there once, and none of its type’s instances', () => {
  const { mdevs, provider } = world.core;
  const vfs = { capabilityAt: 0x200, totalVfs: 2, deviceId: 1, bars: [] };
  const ended: number[] = [];
  const withVfs: VendorDriver = {
    name: 'physical',
    types: [{ ...type, name: 'pf', maxInstances: 1 }],
    create: (_type, uuid) => ({
      ops: new RecordingDevice(uuid),
      sriov: {
        ...vfs,
        create: (index) => ({
          ops: new RecordingDevice(`VF ${index}`),
          [Symbol.dispose]: () => ended.push(index),
        }),
      },
      [Symbol.dispose]() {},
    }),
  };
  using _driver = world.core.registerVendorDriver(withVfs, { eventThread });
  using pf = provider.resolve('pf', {});
  {
    using vf = pf.sriov?.create(1);
    expect(vf?.description).toMatch(/^VF 1 of pf /);
    expect(vf?.group).not.toBe(pf.group);
    expect(vf?.sriov).toBeUndefined();
    expect(mdevs.devices.map((mdev) => mdev.vf)).toEqual([undefined, { physfn: pf.name, index: 1 }]);
    expect(mdevs.availableInstances(withVfs.types[0] as MdevType)).toBe(0);
    expect(() => pf.sriov?.create(1)).toThrowError(/EEXIST/);
    for (const index of [-1, 2, 0.5])
      expect(() => pf.sriov?.create(index)).toThrowError(/EINVAL.*it has 2 VFs/s);
  }
  expect([mdevs.devices.length, ended]).toEqual([1, [1]]);
  using again = pf.sriov?.create(1);
  expect(again?.name).toBeDefined();
});
