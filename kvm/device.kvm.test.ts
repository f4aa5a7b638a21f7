import { expect, test } from 'vitest';
import { openFds } from '../sys/testing/open-fds.js';
import { KvmDevice } from './device.js';
import { Kvm } from './system.js';

// The system descriptor takes the requests of a device, too; its attribute KVM_X86_XCOMP_GUEST_SUPP is a u64 with the
// bits of XCR0 that a guest may have.
const GROUP = 0;
const KVM_X86_XCOMP_GUEST_SUPP = 0;

test('an attribute is read in as many bytes as asked for', ({ skip }) => {
  using kvm = Kvm.open();
  using device = KvmDevice.adopt(kvm.fd.duplicate());
  let value: Uint8Array;
  try {
    value = device.getAttr(GROUP, KVM_X86_XCOMP_GUEST_SUPP, 8);
  } catch (error) {
    return skip(`before Linux 5.17: ${(error as Error).message}`);
  }
  const features = kvm.getSupportedCpuid().find((leaf) => leaf.function === 0xd && leaf.index === 0);
  expect(value).toHaveLength(8);
  expect(value[0]).toBe((features?.eax ?? 0) & 0xff); // the low byte has the features that need no permission
  expect(value[0]).toBeGreaterThan(2); // x87 and SSE
  expect(device.getAttr(GROUP, KVM_X86_XCOMP_GUEST_SUPP, 1)).toEqual(value.subarray(0, 1));
  expect(device.hasAttr(GROUP, KVM_X86_XCOMP_GUEST_SUPP)).toBe(true);
  expect(device.hasAttr(GROUP, 77)).toBe(false);
  expect(() => device.getAttr(GROUP, 77, 8)).toThrowError(/^KVM_GET_DEVICE_ATTR on \/dev\/kvm: ENXIO/);
});

test('a device closes its descriptor once', () => {
  using kvm = Kvm.open();
  const before = openFds().length;
  const device = KvmDevice.adopt(kvm.fd.duplicate());
  expect(openFds()).toHaveLength(before + 1);
  device[Symbol.dispose]();
  device[Symbol.dispose]();
  expect(openFds()).toHaveLength(before);
});
