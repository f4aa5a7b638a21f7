/** The association of KVM and VFIO, observed in the kernel: our calls on one side, its functions on the other. */
import { execFileSync } from 'node:child_process';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { Kvm, KvmVfio, type VfioFile, type Vm } from '../kvm/index.js';
import { Fd } from '../sys/fd.js';
import { Scope } from '../sys/scope.js';
import { hostProvider } from '../vfio/host/index.js';
import { type ContainerFile, type DeviceFile, type GroupFile, VFIO_TYPE1v2_IOMMU } from '../vfio/uapi.js';
import { KernelTrace } from './kernel-trace.js';

const { LAB_E1000E: NIC = '' } = process.env;
/** Two functions of the south bridge, in the same group. */
const [SATA, SMBUS] = ['0000:00:1f.2', '0000:00:1f.3'];

const NONE = '0x0';
/** Called when a file is added or removed: vfio_file_set_kvm(file, kvm). */
const SET_KVM = { symbol: 'vfio_file_set_kvm', arguments: { file: 'di', kvm: 'si' } } as const;
/** Called at a device's first open, with the VM that becomes device->kvm. */
const GET_KVM = { symbol: 'vfio_device_get_kvm_safe', arguments: { device: 'di', kvm: 'si' } } as const;
/** Called at the last close. */
const PUT_KVM = { symbol: 'vfio_device_put_kvm', arguments: { device: 'di' } } as const;

describe.skipIf(NIC === '')('kvm-vfio, seen from the kernel', () => {
  const provider = hostProvider();
  let trace: KernelTrace;
  let kvm: Kvm;
  let vm: Vm;
  let kvmVfio: KvmVfio;
  beforeAll(() => {
    execFileSync('vfio-load');
    execFileSync('vfio-bind', [NIC, SATA, SMBUS]);
    trace = new KernelTrace([SET_KVM, GET_KVM, PUT_KVM]);
  });
  afterAll(() => trace?.[Symbol.dispose]());
  beforeEach(() => {
    kvm = Kvm.open();
    vm = kvm.createVm();
    kvmVfio = KvmVfio.create(vm, undefined);
    trace.clear();
  });
  afterEach(() => {
    vm[Symbol.dispose]();
    kvm[Symbol.dispose]();
  });

  /** A group in its own container. */
  function contained(scope: Scope, address: string): { group: GroupFile; container: ContainerFile } {
    const device = scope.own(provider.resolve(address, {}));
    const container = scope.own(provider.groups.openContainer());
    const group = scope.own(provider.groups.openGroup(device.group));
    group.setContainer(container);
    container.setIommu(VFIO_TYPE1v2_IOMMU);
    return { group, container };
  }

  const openDevice = (scope: Scope, group: GroupFile, address: string): DeviceFile =>
    scope.own(group.getDeviceFd(address));
  /** VMs passed to a function since the trace was cleared. */
  const vmsOf = ({ symbol }: { readonly symbol: string }): (string | undefined)[] =>
    trace.calls.filter((call) => call.symbol === symbol).map((call) => call.arguments.kvm);

  test('a file added before the open gives the device its VM at the open, which puts it at the last close', () => {
    using scope = new Scope();
    const { group } = contained(scope, NIC);
    kvmVfio.addFile(group);
    const [added] = vmsOf(SET_KVM);
    expect(added).not.toBe(NONE);
    {
      using _device = group.getDeviceFd(NIC);
      expect(vmsOf(GET_KVM)).toEqual([added]);
    }
    expect(trace.calls.map(({ symbol }) => symbol)).toEqual([
      'vfio_file_set_kvm',
      'vfio_device_get_kvm_safe',
      'vfio_device_put_kvm',
    ]);
  });

  test('without an added file a device has no VM, and adding one later does not change an open device', () => {
    using scope = new Scope();
    const { group } = contained(scope, NIC);
    const device = openDevice(scope, group, NIC);
    expect(vmsOf(GET_KVM).every((seen) => seen === NONE)).toBe(true);
    trace.clear();
    kvmVfio.addFile(group);
    expect(vmsOf(SET_KVM)).toHaveLength(1);
    expect(vmsOf(GET_KVM)).toEqual([]);
    expect(device.getInfo().numRegions).toBe(9);
  });

  test('a removed file is associated with no VM, and the open device stays usable', () => {
    using scope = new Scope();
    const { group } = contained(scope, NIC);
    kvmVfio.addFile(group);
    const device = openDevice(scope, group, NIC);
    trace.clear();
    kvmVfio.removeFile(group);
    expect(vmsOf(SET_KVM)).toEqual([NONE]);
    expect(trace.calls.some(({ symbol }) => symbol === PUT_KVM.symbol)).toBe(false);
    expect(device.getInfo().numRegions).toBe(9);
  });

  test('the second device of a group gets the VM too, from a single addition', () => {
    using scope = new Scope();
    const { group } = contained(scope, SATA);
    kvmVfio.addFile(group);
    const [added] = vmsOf(SET_KVM);
    openDevice(scope, group, SATA);
    openDevice(scope, group, SMBUS);
    expect(vmsOf(SET_KVM)).toEqual([added]);
    expect(vmsOf(GET_KVM)).toEqual([added, added]);
  });

  test('a second open of one device neither gets the VM again nor puts it at its close', () => {
    using scope = new Scope();
    const { group } = contained(scope, NIC);
    kvmVfio.addFile(group);
    openDevice(scope, group, NIC);
    group.getDeviceFd(NIC)[Symbol.dispose]();
    expect(vmsOf(GET_KVM)).toHaveLength(1);
    expect(trace.calls.some(({ symbol }) => symbol === PUT_KVM.symbol)).toBe(false);
  });

  test('two groups of one VM get the same VM', () => {
    using scope = new Scope();
    const { group: nic } = contained(scope, NIC);
    const { group: bridge } = contained(scope, SATA);
    kvmVfio.addFile(nic);
    kvmVfio.addFile(bridge);
    const [first, second] = vmsOf(SET_KVM);
    expect(second).toBe(first);
  });

  test('a cdev’s file is associated like a group’s', () => {
    using scope = new Scope();
    const device = scope.own(provider.resolve(NIC, {}));
    const cdev = scope.own(provider.cdevs.openCdev(device.cdev ?? 'none'));
    kvmVfio.addFile(cdev);
    const [added] = vmsOf(SET_KVM);
    cdev.bindIommufd(scope.own(provider.cdevs.openIommufd()));
    expect(vmsOf(GET_KVM)).toEqual([added]);
    expect(added).not.toBe(NONE);
  });

  test('closing a VM drops the files that are still added', () => {
    using scope = new Scope();
    const { group } = contained(scope, NIC);
    kvmVfio.addFile(group);
    trace.clear();
    vm[Symbol.dispose]();
    expect(vmsOf(SET_KVM)).toEqual([NONE]);
    expect(group.getStatus()).toBeGreaterThan(0);
  });

  test('a file twice, one that was not added, a closed one and one that is not VFIO’s are rejected by name', () => {
    using scope = new Scope();
    const { group, container } = contained(scope, NIC);
    kvmVfio.addFile(group);
    trace.clear();
    const { target } = group;
    expect(() => kvmVfio.addFile(group)).toThrowError(new RegExp(`FILE_ADD on ${target}: EEXIST`));
    kvmVfio.removeFile(group);
    expect(() => kvmVfio.removeFile(group)).toThrowError(new RegExp(`FILE_DEL on ${target}: ENOENT`));
    const closed = Fd.eventfd('closed');
    const gone: VfioFile = { target: 'gone', fd: closed.number };
    closed[Symbol.dispose]();
    expect(() => kvmVfio.addFile(gone)).toThrowError(/FILE_ADD on gone: EBADF/);
    const bell = scope.own(Fd.eventfd('bell'));
    const other: VfioFile = { target: 'an eventfd', fd: bell.number };
    expect(() => kvmVfio.addFile(other)).toThrowError(
      /FILE_ADD on an eventfd: EINVAL\n.*not a VFIO group or device/,
    );
    expect(() => kvmVfio.addFile(container)).toThrowError(/FILE_ADD on \/dev\/vfio\/vfio: EINVAL/);
    // Only the one valid removal reached VFIO.
    expect(vmsOf(SET_KVM)).toEqual([NONE]);
  });
});
