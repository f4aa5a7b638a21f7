import { expect, test } from 'vitest';
import { Kvm } from './system.js';

test('a missing device names the module to load', () => {
  expect(() => Kvm.open('/dev/no-such-kvm')).toThrowError(
    /open on \/dev\/no-such-kvm: ENOENT\n {2}hint: .*modprobe/,
  );
});

test('a file other than the KVM device is rejected', () => {
  expect(() => Kvm.open('/dev/null')).toThrowError(/KVM_GET_API_VERSION on \/dev\/null: ENOTTY/);
});

test('KVM speaks version 12 and maps at least kvm_run, the port data and the ring', () => {
  using kvm = Kvm.open();
  expect(kvm.getApiVersion()).toBe(12);
  expect(kvm.getVcpuMmapSize()).toBeGreaterThanOrEqual(3 * 4096);
});

test('an error lists all missing capabilities', () => {
  using kvm = Kvm.open();
  kvm.requireExtensions(['KVM_CAP_USER_MEMORY', 'KVM_CAP_IRQFD', 'KVM_CAP_IMMEDIATE_EXIT']);
  expect(kvm.checkExtension('KVM_CAP_MSI_DEVID')).toBe(0);
  const absent = ['KVM_CAP_MSI_DEVID', 'KVM_CAP_IRQFD', 'KVM_CAP_ENABLE_CAP'] as const;
  const missing = absent.filter((cap) => kvm.checkExtension(cap) === 0);
  expect(() => kvm.requireExtensions(absent)).toThrowError(`lacks ${missing.join(', ')}`);
});

test('supported CPUID begins with leaf 0 and has no leaf twice', () => {
  using kvm = Kvm.open();
  const entries = kvm.getSupportedCpuid();
  expect(entries[0]).toMatchObject({ function: 0 });
  const keys = entries.map((entry) => `${entry.function}.${entry.index}`);
  expect(new Set(keys).size).toBe(keys.length);
  expect(kvm.getEmulatedCpuid().length).toBeGreaterThan(0);
});

test('the list of MSRs has STAR, and each feature MSR of the other list can be read', () => {
  using kvm = Kvm.open();
  const STAR = 0xc000_0081;
  expect(kvm.getMsrIndexList()).toContain(STAR);
  const features = kvm.getMsrFeatureIndexList();
  for (const index of features) expect(kvm.getFeatureMsrs([index])).toMatchObject([{ index }]);
  expect(() => kvm.getFeatureMsrs([0x4000_1234])).toThrowError(
    /KVM_GET_MSRS on \/dev\/kvm, MSR 0x40001234: EINVAL/,
  );
});

test('a VM is named in its errors', () => {
  using kvm = Kvm.open();
  using vm = kvm.createVm('lab guest');
  expect(() => vm.irqLine(1, true)).toThrowError(/KVM_IRQ_LINE on lab guest: ENXIO/);
});
