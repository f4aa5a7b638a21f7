import { expect, test } from 'vitest';
import { Fd } from '../sys/fd.js';
import { openFds } from '../sys/testing/open-fds.js';
import { Kvm } from './system.js';
import { TestGuest } from './testing.js';
import {
  KVM_DEV_TYPE_VFIO,
  KVM_DEV_VFIO_FILE,
  KVM_DEV_VFIO_FILE_ADD,
  KVM_DEV_VFIO_FILE_DEL,
} from './uapi.js';
import { KvmVfio } from './vfio.js';

/** Whether this kernel has kvm-vfio (CONFIG_KVM_VFIO). */
function hasKvmVfio(): boolean {
  using kvm = Kvm.open();
  using vm = kvm.createVm();
  return vm.hasDevice(KVM_DEV_TYPE_VFIO);
}
const NO_KVM_VFIO = 'this kernel has no kvm-vfio (CONFIG_KVM_VFIO)';

test('a device type that no kernel has is reported as missing', () => {
  using guest = TestGuest.create();
  expect(guest.vm.hasDevice(999)).toBe(false);
  expect(() => guest.vm.createDevice(999)).toThrowError(/KVM_CREATE_DEVICE on vm, kvm device 999: ENODEV/);
});

test('the kernel has one kvm-vfio per VM, with the expected attributes', ({ skip }) => {
  if (!hasKvmVfio()) skip(NO_KVM_VFIO);
  using guest = TestGuest.create();
  using device = guest.vm.createDevice(KVM_DEV_TYPE_VFIO);
  expect(() => guest.vm.createDevice(KVM_DEV_TYPE_VFIO)).toThrowError(
    /KVM_CREATE_DEVICE on vm, kvm-vfio: EBUSY\n {2}hint/,
  );
  expect(device.hasAttr(KVM_DEV_VFIO_FILE, KVM_DEV_VFIO_FILE_ADD)).toBe(true);
  expect(device.hasAttr(KVM_DEV_VFIO_FILE, KVM_DEV_VFIO_FILE_DEL)).toBe(true);
  expect(device.hasAttr(KVM_DEV_VFIO_FILE, 9)).toBe(false);
  expect(device.hasAttr(7, 1)).toBe(false);
  expect(() => device.getAttr(KVM_DEV_VFIO_FILE, 1, 4)).toThrowError(
    /KVM_GET_DEVICE_ATTR on kvm-vfio: EPERM/,
  );
  expect(() => device.setAttr(7, 1, new Uint8Array(4))).toThrowError(
    /KVM_SET_DEVICE_ATTR on kvm-vfio: ENXIO/,
  );
});

test('files with a descriptor go to the kernel, which rejects those that are not VFIO files', ({ skip }) => {
  if (!hasKvmVfio()) skip(NO_KVM_VFIO);
  using guest = TestGuest.create();
  using device = KvmVfio.create(guest.vm, undefined);
  using eventfd = Fd.eventfd('not vfio');
  const file = { target: 'not vfio', fd: eventfd.number };
  expect(() => device.addFile(file)).toThrowError(/^KVM_DEV_VFIO_FILE_ADD on not vfio: EINVAL\n {2}hint/);
  expect(() => device.removeFile(file)).toThrowError(/^KVM_DEV_VFIO_FILE_DEL on not vfio: ENOENT\n {2}hint/);
  const closed = { target: 'closed', fd: 9_999 };
  expect(() => device.addFile(closed)).toThrowError(/^KVM_DEV_VFIO_FILE_ADD on closed: EBADF/);
  expect(() => device.removeFile(closed)).toThrowError(/^KVM_DEV_VFIO_FILE_DEL on closed: EBADF/);
});

test('the kernel’s device is created with its first file and closed with the VM', ({ skip }) => {
  if (!hasKvmVfio()) skip(NO_KVM_VFIO);
  const kvmVfioFds = () => openFds().filter((name) => name.includes('kvm-vfio')).length;
  const before = kvmVfioFds();
  const guest = TestGuest.create();
  const device = KvmVfio.create(guest.vm, undefined);
  expect(kvmVfioFds()).toBe(before);
  expect(() => device.addFile({ target: 'stdin', fd: 0 })).toThrowError(/EINVAL/);
  expect(kvmVfioFds()).toBe(before + 1);
  guest[Symbol.dispose]();
  expect(kvmVfioFds()).toBe(before);
});
