/** The association of KVM and VFIO in Linux: the cases that the core has, too, and what only the kernel's files can be. */
import { execFileSync } from 'node:child_process';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Kvm, KvmVfio, type VfioFile } from '../kvm/index.js';
import { Fd } from '../sys/fd.js';
import { Scope } from '../sys/scope.js';
import { hostProvider } from '../vfio/host/index.js';
import {
  ASSOCIATION_CASES,
  type AssociationEvent,
  type AssociationSubject,
  runAssociation,
  type SubjectDevice,
} from '../vmm/testing/association-cases.js';
import { type KernelCall, KernelTrace } from './kernel-trace.js';

const { LAB_E1000E: NIC = '', LAB_TESTCARD: CARD = '' } = process.env;
/** Two functions of the south bridge, in the same group. */
const SHARED = ['0000:00:1f.2', '0000:00:1f.3'] as const;

const NONE = '0x0';
/** Called when a file is added or removed: vfio_file_set_kvm(file, kvm). */
const SET_KVM = { symbol: 'vfio_file_set_kvm', arguments: { file: 'di', kvm: 'si' } } as const;
/** Called at a device's first open, with the VM that becomes device->kvm. */
const GET_KVM = { symbol: 'vfio_device_get_kvm_safe', arguments: { device: 'di', kvm: 'si' } } as const;
/** Called at the last close. */
const PUT_KVM = { symbol: 'vfio_device_put_kvm', arguments: { device: 'di' } } as const;

function eventOf({ symbol, arguments: { kvm } }: KernelCall): AssociationEvent {
  const vm = kvm === NONE ? undefined : kvm;
  if (symbol === SET_KVM.symbol) return { what: 'set_kvm', vm };
  return symbol === GET_KVM.symbol ? { what: 'open', vm } : { what: 'last close' };
}

/** The test card, where L1 has one (`--serve testcard`), beside the NIC that it always has. */
const ALONE = [
  { kind: 'an emulated NIC', address: NIC },
  { kind: 'a served test card', address: CARD },
].filter(({ address }) => address !== '');

describe.skipIf(NIC === '')('kvm-vfio, seen from the kernel', () => {
  const provider = hostProvider();
  const scope = new Scope();
  let trace: KernelTrace;
  beforeAll(() => {
    execFileSync('vfio-load');
    execFileSync('vfio-bind', [...ALONE.map(({ address }) => address), ...SHARED]);
    trace = scope.own(new KernelTrace([SET_KVM, GET_KVM, PUT_KVM]));
  });
  afterAll(() => scope[Symbol.dispose]());

  function deviceOf(address: string): SubjectDevice {
    const { name, group, cdev = '' } = scope.own(provider.resolve(address, {}));
    return { name, group, cdev };
  }

  const subject = (alone: string): AssociationSubject => ({
    provider,
    fileOps: undefined,
    alone: deviceOf(alone),
    shared: [deviceOf(SHARED[0]), deviceOf(SHARED[1])],
    takeEvents() {
      const events = trace.calls.map(eventOf);
      trace.clear();
      return events;
    },
  });

  describe.each(ALONE)('$kind', ({ address }) => {
    test.each(ASSOCIATION_CASES)('Linux: $name', (each) => {
      expect(runAssociation(each, subject(address))).toEqual(each.linux?.answers ?? each.answers);
    });
  });

  test('a closed file, and one that is not VFIO’s, are rejected by name, and VFIO hears nothing of them', () => {
    using kvm = Kvm.open();
    using vm = kvm.createVm();
    const kvmVfio = KvmVfio.create(vm, undefined);
    trace.clear();
    using bell = Fd.eventfd('bell');
    const other: VfioFile = { target: 'an eventfd', fd: bell.number };
    expect(() => kvmVfio.addFile(other)).toThrowError(
      /FILE_ADD on an eventfd: EINVAL\n.*not a VFIO group or device/,
    );
    // Only now, as the first ADD opens the kernel's device.
    const closed = Fd.eventfd('closed');
    const gone: VfioFile = { target: 'gone', fd: closed.number };
    closed[Symbol.dispose]();
    expect(() => kvmVfio.addFile(gone)).toThrowError(/FILE_ADD on gone: EBADF/);
    expect(trace.calls).toEqual([]);
  });
});
