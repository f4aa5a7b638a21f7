import type { KvmPointer } from '../driver.js';
import {
  type ContainerFile,
  type DeviceFile,
  type GroupFile,
  VFIO_GROUP_FLAGS_CONTAINER_SET,
  VFIO_GROUP_FLAGS_VIABLE,
} from '../uapi.js';
import { vfioError } from '../vfio-error.js';
import { CoreContainerFile } from './container.js';
import { CoreDeviceFile } from './device-file.js';
import type { VfioGroup } from './group.js';
import { RefCount } from './ref-count.js';
import type { CoreRegistry } from './registry.js';
import type { Steps } from './steps.js';

/** Bytes of struct vfio_group_status. */
const STATUS_BYTES = 8;

/** `/dev/vfio/N` of the core. The `…Steps` functions are its calls in steps, for the testing kit's scheduler. */
export class CoreGroupFile implements GroupFile {
  readonly target: string;
  readonly #group: VfioGroup;
  /** One reference of the opener, and one of the VM while the file is associated with it. */
  readonly #refs: RefCount;
  #isOpen = true;
  #isAssociated = false;

  private constructor(group: VfioGroup) {
    this.#group = group;
    this.target = group.target;
    this.#refs = new RefCount(`file of ${group.target}`, 1, (text) => group.environment.warn(text));
  }

  /**
   * @throws SysError ENODEV for an unknown group; EPERM for a noiommu group without CAP_SYS_RAWIO; EBUSY if the group
   *   is open, still in a container, or one of its devices is bound by cdev
   */
  static *openSteps(registry: CoreRegistry, number: number): Steps<CoreGroupFile> {
    const { environment } = registry;
    const call = 'open';
    const target = `group ${number} (core)`;
    const group = registry.groups.get(number);
    if (!group?.refs.getUnlessZero()) throw vfioError(call, target, 'ENODEV');
    try {
      using _held = yield* group.groupRwsem.write();
      if (group.iommuGroup.isNoiommu && !environment.ports.hasRawio()) {
        throw vfioError(call, target, 'EPERM', 'a device without an IOMMU needs CAP_SYS_RAWIO');
      }
      if (group.cdevOpenCount > 0) {
        throw vfioError(call, target, 'EBUSY', 'a device of the group is bound to an iommufd by its cdev');
      }
      if (group.openedFile !== undefined) throw vfioError(call, target, 'EBUSY', 'the group is already open');
      if (group.container !== undefined) throw vfioError(call, target, 'EBUSY', stillContained(group));
      environment.allocate('group file');
      const file = new CoreGroupFile(group);
      clearLeftovers(group);
      group.openedFile = file;
      environment.log.event('open_group', { group: number });
      return file;
    } catch (error) {
      yield* group.put();
      throw error;
    }
  }

  /** False after close. */
  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** @internal */
  get registry(): CoreRegistry {
    return this.#group.registry;
  }

  /** Whether DMA of its devices always snoops the caches. @see vfio_group_enforced_coherent */
  get isCoherent(): boolean {
    return this.#group.iommuGroup.capabilities.isCoherent;
  }

  /** The group behind it. @throws SysError EBADF after close */
  group(call: string): VfioGroup {
    if (!this.#isOpen) throw vfioError(call, this.target, 'EBADF', 'the group file is closed');
    return this.#group;
  }

  /** @param argsz the argument's field of that name. @throws SysError EINVAL if it is too small */
  getStatus(argsz = STATUS_BYTES): number {
    const call = 'VFIO_GROUP_GET_STATUS';
    const group = this.group(call);
    if (argsz < STATUS_BYTES) throw vfioError(call, this.target, 'EINVAL', 'argsz is too small');
    const viable = group.isViable() ? VFIO_GROUP_FLAGS_VIABLE : 0;
    return viable | (group.container === undefined ? 0 : VFIO_GROUP_FLAGS_CONTAINER_SET);
  }

  setContainer(container: ContainerFile): void {
    this.#group.environment.executor.run(this.setContainerSteps(container));
  }

  /** {@link setContainer} in steps, for a scheduler. */
  *setContainerSteps(file: ContainerFile): Steps<void> {
    const call = 'VFIO_GROUP_SET_CONTAINER';
    const group = this.group(call);
    if (!(file instanceof CoreContainerFile)) {
      throw vfioError(call, this.target, 'EINVAL', 'the file is not a container of this core');
    }
    const container = file.container(call);
    // The group takes over this reference, or the catch below drops it.
    container.refs.get();
    try {
      using _held = yield* group.groupRwsem.write();
      if (group.containerUsers > 0) {
        throw vfioError(call, this.target, 'EINVAL', 'the group is in a container');
      }
      if (group.iommuGroup.isNoiommu && !group.environment.ports.hasRawio()) {
        throw vfioError(call, this.target, 'EPERM', 'a device without an IOMMU needs CAP_SYS_RAWIO');
      }
      yield* container.attachGroup(group.iommuGroup);
      group.container = container;
      group.containerUsers = 1;
      group.environment.log.event('set_container', { group: group.number });
    } catch (error) {
      container.put();
      throw error;
    }
  }

  unsetContainer(): void {
    this.#group.environment.executor.run(this.unsetContainerSteps());
  }

  /** {@link unsetContainer} in steps, for a scheduler. */
  *unsetContainerSteps(): Steps<void> {
    const call = 'VFIO_GROUP_UNSET_CONTAINER';
    const group = this.group(call);
    using _held = yield* group.groupRwsem.write();
    if (group.containerUsers === 0)
      throw vfioError(call, this.target, 'EINVAL', 'the group is in no container');
    if (group.containerUsers > 1) throw vfioError(call, this.target, 'EBUSY', users(group));
    yield* group.dissolve();
  }

  getDeviceFd(name: string): DeviceFile {
    return this.#group.environment.executor.run(this.getDeviceFdSteps(name));
  }

  /** {@link getDeviceFd} in steps, for a scheduler. */
  *getDeviceFdSteps(name: string): Steps<CoreDeviceFile> {
    const call = 'VFIO_GROUP_GET_DEVICE_FD';
    const group = this.group(call);
    const { environment } = group;
    using _cause = environment.log.span('get_device_fd', { group: group.number, device: name });
    if (group.containerUsers === 0)
      throw vfioError(call, this.target, 'EINVAL', 'the group is in no container');
    group.checkUsable(call);
    if (group.iommuGroup.isNoiommu && !environment.ports.hasRawio()) throw vfioError(call, name, 'EPERM');
    const device = [...group.devices.values()].find((candidate) => candidate.matches(call, name));
    if (!device?.registration.getUnlessZero()) {
      throw vfioError(call, name, 'ENODEV', `${group.target} has no such device`);
    }
    try {
      return yield* CoreDeviceFile.openInGroup(device, group);
    } catch (error) {
      device.putRegistration();
      throw error;
    }
  }

  /**
   * Associates the group with a VM, or with none; does nothing after the file's release. As in Linux, where kvm-vfio
   * holds a reference, a file that is closed while associated is released when the association ends. @see VfioFileOps
   */
  *setKvmSteps(kvm: KvmPointer | null): Steps<void> {
    if (this.#refs.count === 0) return;
    if (kvm !== null && !this.#isAssociated) {
      this.#isAssociated = true;
      this.#refs.get();
    }
    yield* this.#group.setKvm(kvm);
    if (kvm !== null || !this.#isAssociated) return;
    this.#isAssociated = false;
    if (this.#refs.put()) yield* this.#release();
  }

  /** Closes the file. @see closeSteps */
  [Symbol.dispose](): void {
    this.#group.environment.executor.run(this.closeSteps());
  }

  /** Closes the file, in steps. */
  *closeSteps(): Steps<void> {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    if (this.#refs.put()) yield* this.#release();
  }

  /** @see vfio_group_fops_release */
  *#release(): Steps<void> {
    const group = this.#group;
    {
      using _held = yield* group.groupRwsem.write();
      for (const { name } of group.notifier.blocks) {
        group.environment.warn(`${group.target} is closed with listener '${name}' on its chain`);
      }
      group.openedFile = undefined;
      group.environment.free('group file');
      group.environment.log.event('close_group', { group: group.number });
      yield* group.dissolve();
    }
    yield* group.put();
  }
}

/** The warning about these listeners was given when the previous user closed the group. @see vfio_group_fops_open */
function clearLeftovers(group: VfioGroup): void {
  group.notifier.clear();
}

function users(group: VfioGroup): string {
  const listeners = group.deviceListeners();
  if (listeners.length > 0) return `device listeners hold it: ${listeners.join(', ')}`;
  return 'close its devices first';
}

function stillContained(group: VfioGroup): string {
  return `the container of its last user still exists: ${users(group)}`;
}
