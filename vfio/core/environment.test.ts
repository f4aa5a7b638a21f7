import { afterEach, expect, test, vi } from 'vitest';
import { Mapping } from '../../sys/mapping.js';
import { FakeClock } from '../testing/fake-clock.js';
import { ScriptedVm } from '../testing/scripted-kvm.js';
import { VfioCore } from './core.js';
import { defaultPorts } from './environment.js';

afterEach(() => {
  vi.useRealTimers();
});

test('a VM has one name, by the order in which VMs were named; none has no name', () => {
  const { environment } = new VfioCore();
  const [one, two] = [new ScriptedVm(), new ScriptedVm()];
  expect([null, undefined].map((none) => environment.kvmName(none))).toEqual([null, null]);
  expect([one, two, one, two].map((vm) => environment.kvmName(vm))).toEqual([
    'kvm 1',
    'kvm 2',
    'kvm 1',
    'kvm 2',
  ]);
});

test('objects are counted by kind, and one that could not be allocated is not', () => {
  let isFull = false;
  const core = new VfioCore({
    ports: {
      allocate: (what) => {
        if (isFull) throw new RangeError(`no room for a ${what}`);
      },
    },
  });
  const { environment } = core;
  environment.allocate('a');
  environment.allocate('a');
  environment.allocate('b');
  environment.free('b');
  isFull = true;
  expect(() => environment.allocate('c')).toThrow('no room for a c');
  expect([...core.live]).toEqual([['a', 2]]);
});

test('by default nobody may use a device without an IOMMU, and memory is a live mapping', () => {
  using memory = Mapping.anonymous(0x2000);
  expect(defaultPorts.hasRawio()).toBe(false);
  expect(defaultPorts.findMemory(memory.hva, 0x2000n)).toBe(memory);
  expect(defaultPorts.findMemory(memory.hva, 0x2001n)).toBeUndefined();
  expect(new VfioCore().environment.isNoiommuEnabled).toBe(false);
});

test('the default clock fires once after the time, and not if it was cancelled', () => {
  vi.useFakeTimers();
  const fired: string[] = [];
  const { clock } = defaultPorts;
  clock.after(10, () => fired.push('kept'));
  clock.after(10, () => fired.push('cancelled'))[Symbol.dispose]();
  vi.advanceTimersByTime(9);
  expect(fired).toEqual([]);
  vi.advanceTimersByTime(100);
  expect(fired).toEqual(['kept']);
});

test('a core that is disposed warns of each object that is still there', () => {
  const warnings: string[] = [];
  const core = new VfioCore({ ports: { warn: (text) => warnings.push(text), clock: new FakeClock() } });
  const group = core.createIommuGroup();
  core[Symbol.dispose]();
  expect(warnings).toEqual(['VFIO core is disposed with live objects: iommu_group 1']);
  group.put();
  core[Symbol.dispose]();
  expect(warnings).toHaveLength(1);
});
