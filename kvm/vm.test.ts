import { expect, test } from 'vitest';
import { Fd } from '../sys/fd.js';
import { Vm } from './vm.js';

/** A VM on whose descriptor no ioctl is ever called. */
const bareVm = (): Vm => Vm.adopt(Fd.eventfd('vm'), 0);

test('disposing a VM again drops no second reference', () => {
  const vm = bareVm();
  expect(vm.reference.getUnlessDying()).toBe(true);
  vm[Symbol.dispose]();
  vm[Symbol.dispose]();
  expect(vm.fd.isOpen).toBe(true);
  vm.reference.put();
  expect(vm.fd.isOpen).toBe(false);
});

test('a VM is closed even if its kvm-vfio device fails to', () => {
  const vm = bareVm();
  const failing: Disposable = {
    [Symbol.dispose]: () => {
      throw new Error('it fails');
    },
  };
  vm.attachKvmVfio(failing);
  expect(() => vm[Symbol.dispose]()).toThrow('it fails');
  expect([vm.isOpen, vm.fd.isOpen]).toEqual([false, false]);
});

test('a kernel without dirty rings is named as such, and one whose rings are shorter with what they have', () => {
  using vm = bareVm();
  let bytes = 0;
  vm.checkExtension = () => bytes;
  expect(() => vm.enableDirtyRings(4096)).toThrow(
    'KVM_ENABLE_CAP on vm, KVM_CAP_DIRTY_LOG_RING: ENOTSUP\n  hint: this kernel’s KVM lacks KVM_CAP_DIRTY_LOG_RING',
  );
  bytes = 2048 * 16;
  expect(() => vm.enableDirtyRings(4096)).toThrow(/E2BIG\n {2}hint: a ring has 2048 entries at most/);
  vm.harvestDirtyRings(); // it has none
});

test('assignments and non-coherent devices are counted, each on its own', () => {
  using vm = bareVm();
  const state = () => [vm.hasAssignedDevice, vm.hasNoncoherentDma];
  expect(state()).toEqual([false, false]);
  vm.startAssignment();
  vm.startAssignment();
  expect(state()).toEqual([true, false]);
  vm.endAssignment();
  expect(state()).toEqual([true, false]);
  vm.endAssignment();
  expect(state()).toEqual([false, false]);
  expect(() => vm.endAssignment()).toThrow(RangeError);
  vm.registerNoncoherentDma();
  vm.registerNoncoherentDma();
  vm.unregisterNoncoherentDma();
  expect(state()).toEqual([false, true]);
  vm.unregisterNoncoherentDma();
  expect(state()).toEqual([false, false]);
  expect(() => vm.unregisterNoncoherentDma()).toThrow(RangeError);
  expect(state()).toEqual([false, false]);
});
