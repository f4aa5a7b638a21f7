import { expect, test } from 'vitest';
import { createQueueTask, createVirtioNetDriver, netBackends } from '../../devices/virtio-net/index.js';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { InlineEventThread } from '../../sys/inline-event-thread.js';
import { Scope } from '../../sys/scope.js';
import { trace, type VfioEvent } from '../../sys/trace.js';
import { GroupSpace } from '../../vfio/assign/group-space.js';
import type { KvmAssociation } from '../../vfio/assign/index.js';
import { VfioCore } from '../../vfio/core/core.js';
import type { AssignableDevice } from '../../vfio/provider.js';
import type { VfioFile } from '../../vfio/uapi.js';
import { pcMemory } from './testing.js';

/** The kvm-vfio device as a list; refuses when told to. */
class Association implements KvmAssociation {
  readonly files: VfioFile[] = [];
  refuse = false;
  addFile(file: VfioFile): void {
    if (this.refuse)
      throw new SysError({ call: 'KVM_DEV_VFIO_FILE_ADD', target: file.target, errno: errno.EINVAL });
    this.files.push(file);
  }
  removeFile(file: VfioFile): void {
    this.files.splice(this.files.indexOf(file), 1);
  }
}

function setUp(scope: Scope) {
  const task = new URL('test:queue-task');
  const eventThread = scope.own(new InlineEventThread(new Map([[task.href, createQueueTask(netBackends)]])));
  const core = scope.own(new VfioCore());
  scope.own(
    core.registerVendorDriver(createVirtioNetDriver({ backends: netBackends, task }), { eventThread }),
  );
  const device: AssignableDevice = scope.own(core.provider.resolve('virtio-net', {}));
  const memory = pcMemory(scope, 0x20_0000n);
  const kvm = new Association();
  return { core, device, memory, kvm, space: new GroupSpace(core.provider, memory, kvm) };
}

/** What is said of attaching while `action` runs. */
function stepsOf(action: () => void): string[] {
  const steps: string[] = [];
  const listen = ({ what, text }: VfioEvent) => {
    if (what === 'attach' && text !== undefined) steps.push(text);
  };
  trace.vfio.subscribe(listen);
  try {
    action();
  } finally {
    trace.vfio.unsubscribe(listen);
  }
  return steps;
}

test('a group is viable, contained, mapped and associated with KVM before its device is opened', () => {
  using scope = new Scope();
  const { device, kvm, space } = setUp(scope);
  const steps = stepsOf(() => scope.own(space.lease(device.group)));
  expect(steps.map((step) => step.replace(/ \d+ /g, ' N '))).toEqual([
    'group N is open and viable',
    'container (core) has IOMMU type1v2',
    'DMA map 0x0-0x1fffff (ram)',
    'group N is associated with the VM (KVM_DEV_VFIO_FILE_ADD)',
  ]);
  expect(kvm.files).toHaveLength(1);
});

test('a second owner of the same group is refused with EBUSY, and the first one is not disturbed', () => {
  using scope = new Scope();
  const { core, device, memory, space } = setUp(scope);
  const lease = scope.own(space.lease(device.group));
  const other = new GroupSpace(core.provider, memory, new Association());
  expect(() => other.lease(device.group)).toThrowError(/group \d+ .*: EBUSY\n {2}hint: /);
  using file = lease.file.getDeviceFd(device.name);
  expect(file.getInfo().numRegions).toBe(9);
});

test('two devices of one group share its file, which closes with the last of them', () => {
  using scope = new Scope();
  const { device, kvm, space, core } = setUp(scope);
  const first = space.lease(device.group);
  const second = space.lease(device.group);
  expect(second.file).toBe(first.file);
  first[Symbol.dispose]();
  first[Symbol.dispose]();
  expect(kvm.files).toHaveLength(1);
  second[Symbol.dispose]();
  expect(kvm.files).toHaveLength(0);
  using again = core.provider.groups.openGroup(device.group);
  expect(again.target).toMatch(/group/);
});

test('an association that KVM refuses leaves group and container closed', () => {
  using scope = new Scope();
  const { core, device, kvm, space } = setUp(scope);
  kvm.refuse = true;
  expect(() => space.lease(device.group)).toThrowError(/KVM_DEV_VFIO_FILE_ADD .*: EINVAL/);
  using again = core.provider.groups.openGroup(device.group);
  expect(again.getStatus() & 2).toBe(0); // VFIO_GROUP_FLAGS_CONTAINER_SET
});
