import { errno } from '../../sys/errno.js';
import { isErrno, SysError } from '../../sys/error.js';
import { disposable, Scope } from '../../sys/scope.js';
import { groupsOf } from '../interfaces.js';
import type { AssignableDevice, VfioProvider } from '../provider.js';
import {
  type ContainerFile,
  type GroupFile,
  VFIO_API_VERSION,
  VFIO_GROUP_FLAGS_VIABLE,
  VFIO_TYPE1v2_IOMMU,
} from '../uapi.js';
import { associate } from './associate.js';
import { attachStep } from './attach-step.js';
import type { DeviceSpace, OpenedDevice } from './device-space.js';
import { DmaMaps, type DmaTarget } from './dma-maps.js';
import type { GuestMemory } from './guest-memory.js';
import type { KvmAssociation } from './kvm-association.js';
import { slotResetByGroup } from './slot-reset.js';

function containerTarget(container: ContainerFile): DmaTarget {
  const mapEach = container.mapDmas?.bind(container);
  const mapCall = container.mapDmaCall?.bind(container);
  return {
    map: (map) => container.mapDma(map),
    ...(mapEach && { mapEach }),
    ...(mapCall && { mapCall }),
    unmap: (iova, size) => void container.unmapDma({ flags: 0, iova, size }),
  };
}

/** VFIO detaches a group from its container when the host unbinds its last device. */
function leaveContainer(file: GroupFile): void {
  try {
    file.unsetContainer();
  } catch (error) {
    if (!isErrno(error, 'EINVAL') && !isErrno(error, 'ENODEV')) throw error;
    attachStep(`${file.target} has left its container: its devices are gone`);
  }
}

interface OpenGroup {
  readonly file: GroupFile;
  readonly scope: Scope;
  users: number;
}

/** One device's use of a group; disposing the last lease closes the group. */
export interface GroupLease extends Disposable {
  readonly file: GroupFile;
}

/** The legacy interface: a container, and the groups attached to it. */
export class GroupSpace implements DeviceSpace {
  readonly #provider: VfioProvider;
  readonly #memory: GuestMemory;
  readonly #kvm: KvmAssociation;
  readonly #groups = new Map<number, OpenGroup>();
  #container: ContainerFile | undefined;
  #maps: (Disposable & { readonly dma: DmaMaps }) | undefined;

  constructor(provider: VfioProvider, memory: GuestMemory, kvm: KvmAssociation) {
    this.#provider = provider;
    this.#memory = memory;
    this.#kvm = kvm;
  }

  open(device: AssignableDevice, isHeld = false): OpenedDevice {
    using scope = new Scope();
    if (!isHeld) this.dma?.settle();
    const group = scope.own(this.lease(device.group, isHeld));
    const file = scope.own(group.file.getDeviceFd(device.name));
    attachStep(`device ${device.name} is open (VFIO_GROUP_GET_DEVICE_FD)`);
    const owned = scope.move();
    const slot = slotResetByGroup(device, file, (number) => this.#groups.get(number)?.file);
    return {
      file,
      ...(slot === undefined ? {} : { slot }),
      [Symbol.dispose]: () => owned[Symbol.dispose](),
    };
  }

  /**
   * Opens a group, once for all its devices, attaches it to the container and associates it with the VM, before any of its
   * devices is opened: a driver may need its KVM in open_device.
   * @param isHeld @see DeviceSpace.open
   * @throws SysError of the failed step; earlier steps are then reverted
   */
  lease(number: number, isHeld = false): GroupLease {
    const group = this.#groups.get(number) ?? this.#open(number, isHeld);
    this.#groups.set(number, group);
    group.users++;
    return { file: group.file, ...disposable(() => this.#release(number, group)) };
  }

  get dma(): DmaMaps | undefined {
    return this.#maps?.dma;
  }

  #open(number: number, isHeld: boolean): OpenGroup {
    using scope = new Scope();
    scope.defer(() => this.#closeIfUnused());
    const container = this.#openContainer();
    const file = scope.own(groupsOf(this.#provider).openGroup(number));
    if ((file.getStatus() & VFIO_GROUP_FLAGS_VIABLE) === 0) {
      const hint =
        'every device of the group must be bound to a vfio driver, or to none: `ls /sys/kernel/iommu_groups/*/devices` shows who shares a group';
      throw new SysError({ call: 'VFIO_GROUP_GET_STATUS', target: file.target, errno: errno.EPERM, hint });
    }
    attachStep(`group ${number} is open and viable`);
    file.setContainer(container);
    scope.defer(() => leaveContainer(file));
    this.#startMapping(container, isHeld);
    scope.defer(() => this.#stopMappingIfUnused()); // before the last group is detached, which releases the IOMMU
    scope.own(associate(this.#kvm, this.#provider, file, `group ${number}`));
    return { file, scope: scope.move(), users: 0 };
  }

  #openContainer(): ContainerFile {
    if (this.#container !== undefined) return this.#container;
    using scope = new Scope();
    const container = scope.own(groupsOf(this.#provider).openContainer());
    const { target } = container;
    if (container.getApiVersion() !== VFIO_API_VERSION) {
      throw new SysError({
        call: 'VFIO_GET_API_VERSION',
        target,
        errno: errno.EINVAL,
        hint: 'an unknown VFIO',
      });
    }
    if (container.checkExtension(VFIO_TYPE1v2_IOMMU) === 0) {
      const hint = 'load vfio_iommu_type1';
      throw new SysError({ call: 'VFIO_CHECK_EXTENSION TYPE1v2', target, errno: errno.ENODEV, hint });
    }
    scope.move();
    this.#container = container;
    return container;
  }

  /** VFIO_SET_IOMMU requires a group in the container; guest memory can be mapped only after it. */
  #startMapping(container: ContainerFile, isHeld: boolean): void {
    if (this.#maps !== undefined) return;
    container.setIommu(VFIO_TYPE1v2_IOMMU);
    attachStep(`${container.target} has IOMMU type1v2`);
    const dma = new DmaMaps(containerTarget(container), `${this.#provider.name} container`, isHeld);
    this.#maps = { dma, ...this.#memory.listen(dma) };
  }

  #release(number: number, group: OpenGroup): void {
    if (--group.users > 0) return;
    this.#groups.delete(number);
    group.scope[Symbol.dispose]();
  }

  #stopMappingIfUnused(): void {
    if (this.#groups.size > 0) return;
    this.#maps?.[Symbol.dispose]();
    this.#maps = undefined;
  }

  #closeIfUnused(): void {
    if (this.#groups.size > 0) return;
    this.#container?.[Symbol.dispose]();
    this.#container = undefined;
  }
}
