import { expect, test } from 'vitest';
import { Fd } from '../sys/fd.js';
import { trace, type VfioEvent } from '../sys/trace.js';
import type { KvmDevice } from './device.js';
import type { KvmReference } from './reference.js';
import {
  KVM_DEV_TYPE_VFIO,
  KVM_DEV_VFIO_FILE,
  KVM_DEV_VFIO_FILE_ADD,
  KVM_DEV_VFIO_FILE_DEL,
} from './uapi.js';
import { KvmVfio, type VfioFile, type VfioFileOps } from './vfio.js';
import { Vm } from './vm.js';

/** A VM used only for its association with VFIO files: no ioctl on its descriptor is ever called. */
const vmForFiles = (): Vm => Vm.adopt(Fd.eventfd('vm'), 0);

interface FakeFile extends VfioFile {
  isOpen: boolean;
  isCoherent: boolean;
  readonly isVfio: boolean;
}
const file = (target: string, options: Partial<FakeFile> = {}): FakeFile => ({
  target,
  isOpen: true,
  isCoherent: true,
  isVfio: true,
  ...options,
});

/** A VFIO core that records each call, and the VM's state at that moment. */
class FakeOps implements VfioFileOps {
  readonly calls: string[] = [];
  readonly #vm: Vm;

  constructor(vm: Vm) {
    this.#vm = vm;
  }

  isValid(file: FakeFile): boolean {
    return file.isVfio;
  }

  setKvm(file: FakeFile, kvm: KvmReference | null): void {
    expect(kvm === null || kvm === this.#vm.reference).toBe(true);
    const { hasAssignedDevice, hasNoncoherentDma } = this.#vm;
    const seen = `${hasAssignedDevice ? 'assigned' : 'idle'}, ${hasNoncoherentDma ? 'noncoherent' : 'coherent'}`;
    this.calls.push(`${file.target} -> ${kvm === null ? 'null' : 'vm'} (${seen})`);
  }

  enforcedCoherent(file: FakeFile): boolean {
    return file.isCoherent;
  }
}

test('C12: a VM has one kvm-vfio device, and may have another once that is closed', () => {
  using vm = vmForFiles();
  const first = KvmVfio.create(vm, undefined);
  expect(() => KvmVfio.create(vm, undefined)).toThrowError(/^KVM_CREATE_DEVICE on vm: EBUSY/);
  first[Symbol.dispose]();
  using _second = KvmVfio.create(vm, undefined);
});

test('C12: each misuse has the kernel’s errno', () => {
  using vm = vmForFiles();
  const ops = new FakeOps(vm);
  using device = KvmVfio.create(vm, ops);
  const a = file('a');
  device.addFile(a);
  expect(() => device.addFile(a)).toThrowError(/^KVM_DEV_VFIO_FILE_ADD on a: EEXIST\n {2}hint/);
  expect(() => device.addFile(file('closed', { isOpen: false }))).toThrowError(/FILE_ADD on closed: EBADF/);
  expect(() => device.addFile(file('b', { isVfio: false }))).toThrowError(/FILE_ADD on b: EINVAL/);
  expect(() => device.removeFile(file('c'))).toThrowError(/^KVM_DEV_VFIO_FILE_DEL on c: ENOENT/);
  expect(() => device.removeFile(file('closed', { isOpen: false }))).toThrowError(
    /FILE_DEL on closed: EBADF/,
  );
  for (const [group, attr] of [
    [7, KVM_DEV_VFIO_FILE_ADD],
    [KVM_DEV_VFIO_FILE, 9],
  ] as const) {
    expect(device.hasAttr(group, attr)).toBe(false);
    expect(() => device.setAttr(group, attr, a)).toThrowError(/^KVM_SET_DEVICE_ATTR on kvm-vfio, group/);
    expect(() => device.setAttr(group, attr, a)).toThrowError(/ENXIO/);
  }
  device.setAttr(KVM_DEV_VFIO_FILE, KVM_DEV_VFIO_FILE_DEL, a);
  expect(ops.calls).toEqual(['a -> vm (assigned, coherent)', 'a -> null (idle, coherent)']);
});

test('a file gets the VM after assignment starts and before coherency is evaluated', () => {
  using vm = vmForFiles();
  const ops = new FakeOps(vm);
  using device = KvmVfio.create(vm, ops);
  const a = file('a', { isCoherent: false });
  device.addFile(a);
  expect(ops.calls).toEqual(['a -> vm (assigned, coherent)']);
  expect(vm.hasNoncoherentDma).toBe(true);
  device.removeFile(a);
  expect(ops.calls[1]).toBe('a -> null (idle, noncoherent)');
  expect(vm.hasNoncoherentDma).toBe(false);
});

test('C13: closing the device ends the association of every added file once, oldest first', () => {
  using vm = vmForFiles();
  const ops = new FakeOps(vm);
  const device = KvmVfio.create(vm, ops);
  for (const name of ['a', 'b', 'c']) device.addFile(file(name));
  ops.calls.length = 0;
  device[Symbol.dispose]();
  device[Symbol.dispose]();
  expect(ops.calls).toEqual([
    'a -> null (assigned, coherent)',
    'b -> null (assigned, coherent)',
    'c -> null (assigned, coherent)',
  ]);
  expect(vm.hasAssignedDevice).toBe(false);
  expect(() => device.addFile(file('late'))).toThrowError(/^KVM_DEV_VFIO_FILE_ADD on kvm-vfio: EBADF/);
  expect(vm.hasAssignedDevice).toBe(false);
});

test('C13: closing the VM does the same while it is still alive', () => {
  const vm = vmForFiles();
  const ops = new FakeOps(vm);
  const device = KvmVfio.create(vm, ops);
  let wasAlive: boolean | undefined;
  const { reference } = vm;
  ops.setKvm = (_file, kvm) => {
    if (kvm === null) wasAlive = reference.isAlive;
  };
  device.addFile(file('a'));
  vm[Symbol.dispose]();
  expect(wasAlive).toBe(true);
  expect(reference.isAlive).toBe(false);
  device[Symbol.dispose]();
});

test('C14: non-coherent DMA is registered with the first file that needs it and ends with the last', () => {
  using vm = vmForFiles();
  const registered: string[] = [];
  const register = vm.registerNoncoherentDma.bind(vm);
  const unregister = vm.unregisterNoncoherentDma.bind(vm);
  vm.registerNoncoherentDma = () => {
    registered.push('register');
    register();
  };
  vm.unregisterNoncoherentDma = () => {
    registered.push('unregister');
    unregister();
  };
  using device = KvmVfio.create(vm, new FakeOps(vm));
  const [coherent, first, second] = [
    file('coherent'),
    file('first', { isCoherent: false }),
    file('second', { isCoherent: false }),
  ];
  device.addFile(coherent);
  expect(registered).toEqual([]);
  device.addFile(first);
  device.addFile(second);
  expect(registered).toEqual(['register']);
  device.removeFile(first);
  expect(registered).toEqual(['register']);
  device.removeFile(second);
  expect(registered).toEqual(['register', 'unregister']);
  device.removeFile(coherent);
  expect(registered).toEqual(['register', 'unregister']);
});

test('C14: coherency is evaluated again even by a failed removal', () => {
  using vm = vmForFiles();
  using device = KvmVfio.create(vm, new FakeOps(vm));
  const a = file('a', { isCoherent: false });
  device.addFile(a);
  a.isCoherent = true;
  expect(() => device.removeFile(file('b'))).toThrowError(/ENOENT/);
  expect(vm.hasNoncoherentDma).toBe(false);
});

test('files with a descriptor are the kernel’s alone, whose device is made with the first of them', () => {
  using vm = vmForFiles();
  const calls: unknown[] = [];
  const kernel = {
    setAttr(group: number, attr: number, value: Uint8Array, about: { target: string }) {
      calls.push([group, attr, [...value], about.target]);
    },
    [Symbol.dispose]: () => void calls.push('closed'),
  };
  vm.createDevice = (type) => {
    calls.push(`device ${type}`);
    return kernel as unknown as KvmDevice;
  };
  const ops = new FakeOps(vm);
  const device = KvmVfio.create(vm, ops);
  expect(calls).toEqual([]);
  const [a, b] = [
    { target: 'a', fd: 0x1234 },
    { target: 'b', fd: 7 },
  ];
  device.addFile(a);
  device.setAttr(KVM_DEV_VFIO_FILE, KVM_DEV_VFIO_FILE_ADD, b);
  device.removeFile(a);
  device[Symbol.dispose]();
  expect(calls).toEqual([
    `device ${KVM_DEV_TYPE_VFIO}`,
    [KVM_DEV_VFIO_FILE, KVM_DEV_VFIO_FILE_ADD, [0x34, 0x12, 0, 0], 'a'],
    [KVM_DEV_VFIO_FILE, KVM_DEV_VFIO_FILE_ADD, [7, 0, 0, 0], 'b'],
    [KVM_DEV_VFIO_FILE, KVM_DEV_VFIO_FILE_DEL, [0x34, 0x12, 0, 0], 'a'],
    'closed',
  ]);
  expect([ops.calls, vm.hasAssignedDevice, vm.hasNoncoherentDma]).toEqual([[], false, false]);
});

test('each file that comes or goes is published with the VM', () => {
  using vm = vmForFiles();
  using device = KvmVfio.create(vm, new FakeOps(vm));
  const events: VfioEvent[] = [];
  const listener = (event: VfioEvent): void => void events.push(event);
  trace.vfio.subscribe(listener);
  const a = file('a');
  device.addFile(a);
  device.removeFile(a);
  trace.vfio.unsubscribe(listener);
  device.addFile(a);
  expect(events).toEqual([
    { what: 'kvm-vfio add', kvm: 'vm', file: 'a' },
    { what: 'kvm-vfio remove', kvm: 'vm', file: 'a' },
  ]);
});

test('C15: without a VFIO core a file of this process is rejected, and the VM keeps working', () => {
  using vm = vmForFiles();
  using device = KvmVfio.create(vm, undefined);
  expect(() => device.addFile(file('a'))).toThrowError(
    /^KVM_DEV_VFIO_FILE_ADD on a: EINVAL\n {2}hint: .*core/,
  );
  expect(() => device.removeFile(file('a'))).toThrowError(/ENOENT/);
  expect(vm.isOpen && vm.reference.isAlive).toBe(true);
});

test('a core that puts references in setKvm does not close the VM under its caller', () => {
  const vm = vmForFiles();
  const { reference } = vm;
  const held: KvmReference[] = [];
  const device = KvmVfio.create(vm, {
    isValid: () => true,
    enforcedCoherent: () => true,
    setKvm: (_file, kvm) => {
      if (kvm?.getUnlessDying()) held.push(kvm);
      if (kvm === null) held.pop()?.put();
    },
  });
  device.addFile(file('a'));
  vm[Symbol.dispose]();
  expect(held).toEqual([]);
  expect(reference.isAlive).toBe(false);
  expect(vm.fd.isOpen).toBe(false);
});
