import { afterEach, beforeEach, expect, test } from 'vitest';
import { Scope } from '../../sys/scope.js';
import type { PciSlotFunction, PciSlotReset } from '../driver.js';
import type { RecordingDeviceOptions } from '../testing/recording-device.js';
import { type Contained, World, type WorldDevice } from '../testing/world.js';
import type { GroupFile } from '../uapi.js';
import type { CoreDeviceFile } from './device-file.js';
import type { IommuGroup } from './iommu-group.js';
import { CoreIommufdFile } from './iommufd.js';

let world: World;
let scope: Scope;
beforeEach(() => {
  world = new World();
  scope = new Scope();
});
afterEach(() => {
  scope[Symbol.dispose]();
  world.end();
});

/** A slot that counts its resets. */
class Slot implements PciSlotReset {
  readonly functions: PciSlotFunction[];
  resets = 0;
  fails = false;

  constructor(...functions: (string | PciSlotFunction)[]) {
    this.functions = functions.map((each) => (typeof each === 'string' ? { name: each } : each));
  }

  reset(): void {
    if (this.fails) throw new Error('the link did not come back');
    this.resets++;
  }
}

const A = '0000:01:00.0';
const B = '0000:01:00.1';

type Options = RecordingDeviceOptions & { readonly group?: IommuGroup };

/** A registered device, which leaves with the scope. */
function device(name: string, slot: Slot | undefined, options: Options = {}): WorldDevice {
  const made = world.device({ name, pci: slot === undefined ? {} : { slot }, ...options });
  scope.defer(() => world.remove(made));
  return made;
}

function pair(options: Options = {}): { slot: Slot; a: WorldDevice; b: WorldDevice } {
  const slot = new Slot(A, B);
  return { slot, a: device(A, slot, options), b: device(B, slot, options) };
}

function contained(made: WorldDevice): Contained {
  const group = world.contain(made);
  scope.defer(() => group.close());
  return group;
}

const open = (group: Contained, made: WorldDevice): CoreDeviceFile => scope.own(world.open(group, made));

function bound(made: WorldDevice, iommufd: CoreIommufdFile): CoreDeviceFile {
  const file = scope.own(world.openCdev(made.device.cdev));
  file.bindIommufd(iommufd);
  return file;
}

const openIommufd = (): CoreIommufdFile => scope.own(CoreIommufdFile.open(world.core.environment));

test('devices that name one slot form one device set, others have one each', () => {
  const { a, b } = pair();
  expect(a.device.set).toBe(b.device.set);
  expect(device('other', undefined).device.set).not.toBe(a.device.set);
});

test('HOT_RESET_INFO is ENOTTY for what is not PCI, ENODEV where neither slot nor bus can be reset, and so is the reset', () => {
  const plain = world.device();
  scope.defer(() => world.remove(plain));
  const bare = device(A, undefined);
  for (const [made, code] of [
    [plain, /ENOTTY/],
    [bare, /ENODEV/],
  ] as const) {
    const group = contained(made);
    const file = open(group, made);
    expect(() => file.getPciHotResetInfo()).toThrowError(code);
    expect(() => file.pciHotReset([group.group])).toThrowError(code);
  }
});

test('HOT_RESET_INFO by group tells the group of each function, whether a VFIO driver has it or not; without a group it is EPERM', () => {
  const slot = new Slot(A, { name: B, group: 77 });
  const a = device(A, slot);
  const file = open(contained(a), a);
  expect(file.getPciHotResetInfo()).toEqual({
    devices: [
      { address: A, group: a.device.group.number },
      { address: B, group: 77 },
    ],
  });
  slot.functions.push({ name: '0000:01:00.2' });
  expect(() => file.getPciHotResetInfo()).toThrowError(/0000:01:00\.2: EPERM/);
});

test('HOT_RESET_INFO with an argsz below the structure is EINVAL, without room for every function ENOSPC', () => {
  const { a } = pair();
  const file = open(contained(a), a);
  expect(() => file.getPciHotResetInfo(11)).toThrowError(/EINVAL/);
  for (const argsz of [12, 12 + 8, 12 + 15])
    expect(() => file.getPciHotResetInfo(argsz)).toThrowError(/ENOSPC\n.*2 functions/);
  expect(file.getPciHotResetInfo(12 + 16).devices).toHaveLength(2);
});

test('HOT_RESET_INFO by cdev tells ids of the same iommufd, 0 beside one of its group, -1 for the rest, and whether all are owned', () => {
  const group = world.iommuGroup();
  const slot = new Slot(A, B, '0000:01:00.2');
  const [a, b] = [device(A, slot, { group }), device(B, slot, { group })];
  const c = device('0000:01:00.2', slot);
  const iommufd = openIommufd();
  const file = bound(a, iommufd);
  const info = (): (number | undefined)[] => file.getPciHotResetInfo().devices.map(({ devid }) => devid);
  expect(info()).toEqual([1, 0, -1]);
  expect(file.getPciHotResetInfo().isOwned).toBe(false);
  const other = openIommufd();
  const elsewhere = bound(c, other);
  expect(info()).toEqual([1, 0, -1]);
  elsewhere[Symbol.dispose]();
  bound(c, iommufd);
  expect(info()).toEqual([1, 0, 2]);
  expect(file.getPciHotResetInfo()).toMatchObject({
    isOwned: true,
    devices: [{ isOwned: true }, { isOwned: true }, { isOwned: true }],
  });
  bound(b, iommufd);
  expect(info()).toEqual([1, 3, 2]);
  slot.functions.push({ name: 'host', group: a.device.group.number });
  expect(info()).toEqual([1, 3, 2, -1]);
});

test('PCI_HOT_RESET by group needs the open groups of the whole set, and no more files than functions', () => {
  const { slot, a, b } = pair();
  const [first, second] = [contained(a), contained(b)];
  const file = open(first, a);
  for (const files of [[], [first.group], [second.group], [first.group, first.group, second.group]])
    expect(() => file.pciHotReset(files)).toThrowError(/EINVAL/);
  expect(slot.resets).toBe(0);
  file.pciHotReset([second.group, first.group]);
  expect(slot.resets).toBe(1);
});

test('PCI_HOT_RESET takes only open groups of this core: another file is EINVAL, a closed group EBADF', () => {
  const { slot, a, b } = pair();
  const first = contained(a);
  const file = open(first, a);
  const closed = world.openGroup(b.device.group.number);
  closed[Symbol.dispose]();
  expect(() => file.pciHotReset([first.group, closed])).toThrowError(/EBADF/);
  const others = [first.container as unknown as GroupFile, { target: 'elsewhere' } as GroupFile];
  for (const other of others) expect(() => file.pciHotReset([first.group, other])).toThrowError(/EINVAL/);
  expect(slot.resets).toBe(0);
});

test('PCI_HOT_RESET by cdev takes no groups, and needs every device of the set in its iommufd', () => {
  const { slot, a, b } = pair();
  const iommufd = openIommufd();
  const file = bound(a, iommufd);
  expect(() => file.pciHotReset()).toThrowError(/EINVAL/);
  const otherwise = bound(b, openIommufd());
  expect(() => file.pciHotReset()).toThrowError(/EINVAL/);
  otherwise[Symbol.dispose]();
  const group = world.openGroup(b.device.group.number);
  expect(() => file.pciHotReset([group])).toThrowError(/EINVAL/);
  expect(() => file.pciHotReset()).toThrowError(/EINVAL/);
  group[Symbol.dispose]();
  bound(b, iommufd);
  expect(slot.resets).toBe(0);
  file.pciHotReset();
  expect(slot.resets).toBe(1);
});

test('PCI_HOT_RESET with a function that no VFIO driver has is EINVAL, though its group is given', () => {
  const group = world.iommuGroup();
  const slot = new Slot(A, B);
  const a = device(A, slot, { group });
  const b = world.prepare({ name: B, pci: { slot }, group });
  b.dev.driver = undefined;
  const first = contained(a);
  const file = open(first, a);
  expect(() => file.pciHotReset([first.group])).toThrowError(/EINVAL/);
  world.core.run(b.device.register());
  scope.defer(() => world.remove(b));
  file.pciHotReset([first.group]);
  expect(slot.resets).toBe(1);
});

test('the last close of a set resets its slot once, if one of its devices has no reset of its own', () => {
  const slot = new Slot(A, B);
  const [a, b] = [device(A, slot), device(B, slot, { hasReset: false })];
  const [first, second] = [contained(a), contained(b)];
  const use = (...files: CoreDeviceFile[]): void => {
    for (const file of files) file[Symbol.dispose]();
  };
  use(open(first, a));
  expect(slot.resets).toBe(0);
  const [one, two] = [open(first, a), open(second, b)];
  use(two);
  expect(slot.resets).toBe(0);
  use(one);
  expect(slot.resets).toBe(1);
  use(open(first, a));
  expect(slot.resets).toBe(1);
  const cycle = ['openDevice', 'reset', 'closeDevice'];
  expect(a.ops.calls).toEqual([...cycle, ...cycle, ...cycle]);
  expect(b.ops.calls).toEqual(['openDevice', 'closeDevice']);
});

test('the last close leaves a slot alone of which no VFIO driver has a function, and tries again one whose reset failed', () => {
  const slot = new Slot(A, B);
  const a = device(A, slot, { hasReset: false });
  const first = contained(a);
  const use = (): void => open(first, a)[Symbol.dispose]();
  use();
  expect(slot.resets).toBe(0);
  device(B, slot);
  slot.fails = true;
  use();
  slot.fails = false;
  use();
  expect(slot.resets).toBe(1);
});
