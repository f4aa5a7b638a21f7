import { formatRange, iova } from '../sys/address.js';
import { errno } from '../sys/errno.js';
import { SysError } from '../sys/error.js';
import { disposable, Scope } from '../sys/scope.js';
import { trace } from '../sys/trace.js';
import {
  type ContainerFile,
  type GroupFile,
  VFIO_API_VERSION,
  VFIO_DMA_MAP_FLAG_READ,
  VFIO_DMA_MAP_FLAG_WRITE,
  VFIO_GROUP_FLAGS_VIABLE,
  VFIO_TYPE1v2_IOMMU,
  type VfioFile,
  type VfioProvider,
} from '../vfio/uapi.js';
import type { MemoryListener, MemoryMap, MemoryRegion } from './memory-map.js';

/** Tells a person, and whoever else listens, about one step of attaching a device. */
export function attachStep(text: string): void {
  if (trace.vfio.hasSubscribers) trace.vfio.publish({ what: 'attach', text });
}

/** Tells KVM which VFIO files belong to the VM; the kvm-vfio device does. */
export interface KvmAssociation {
  addFile(file: VfioFile): void;
  removeFile(file: VfioFile): void;
}
export const KvmAssociation = Symbol('KvmAssociation');

/** Keeps a container's maps equal to the guest's memory: every region once, IOVA = guest physical address. */
class DmaMaps implements MemoryListener {
  readonly #container: ContainerFile;
  readonly #mapped = new Set<MemoryRegion>();

  constructor(container: ContainerFile) {
    this.#container = container;
  }

  added(region: MemoryRegion): void {
    const range = formatRange(region.gpa, region.bytes);
    try {
      this.#container.mapDma({
        flags: VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
        vaddr: region.hva,
        iova: iova(region.gpa),
        size: region.bytes,
      });
      this.#mapped.add(region);
      attachStep(`DMA map ${range} (${region.name})`);
    } catch (error) {
      // Without its RAM a device is useless; without another device's BAR it only cannot do peer-to-peer DMA.
      if (region.kind === 'ram') throw error;
      attachStep(
        `no DMA map ${range} (${region.name}), so no peer-to-peer DMA to it: ${(error as Error).message}`,
      );
    }
  }

  removed(region: MemoryRegion): void {
    if (!this.#mapped.delete(region)) return;
    this.#container.unmapDma({ flags: 0, iova: iova(region.gpa), size: region.bytes });
  }
}

interface OpenGroup {
  readonly file: GroupFile;
  readonly scope: Scope;
  users: number;
}

/** The use of a group by one device; the last one's end closes the group. */
export interface GroupLease extends Disposable {
  readonly file: GroupFile;
}

/** What one provider's devices in this machine see as memory: a container, with the groups in it. Machine thread only. */
export class AddressSpace {
  readonly #provider: VfioProvider;
  readonly #memory: MemoryMap;
  readonly #kvm: KvmAssociation;
  readonly #groups = new Map<number, OpenGroup>();
  #container: ContainerFile | undefined;
  #maps: Disposable | undefined;

  constructor(provider: VfioProvider, memory: MemoryMap, kvm: KvmAssociation) {
    this.#provider = provider;
    this.#memory = memory;
    this.#kvm = kvm;
  }

  /**
   * Opens a group, once for all its devices, puts it into the container and associates it with the VM, so that a
   * device that is opened next finds its KVM.
   * @throws SysError of the step that failed; everything before it has been undone
   */
  lease(number: number): GroupLease {
    const group = this.#groups.get(number) ?? this.#open(number);
    this.#groups.set(number, group);
    group.users++;
    return { file: group.file, ...disposable(() => this.#release(number, group)) };
  }

  #open(number: number): OpenGroup {
    using scope = new Scope();
    scope.defer(() => this.#closeIfUnused());
    const container = this.#openContainer();
    const file = scope.own(this.#provider.openGroup(number));
    if ((file.getStatus() & VFIO_GROUP_FLAGS_VIABLE) === 0) {
      const hint = 'every device of the group must be bound to a vfio driver, or to none';
      throw new SysError({ call: 'VFIO_GROUP_GET_STATUS', target: file.target, errno: errno.EPERM, hint });
    }
    attachStep(`group ${number} is open and viable`);
    file.setContainer(container);
    scope.defer(() => file.unsetContainer());
    this.#startMapping(container);
    scope.defer(() => this.#stopMappingIfUnused()); // before the last group leaves, and takes the IOMMU along
    this.#kvm.addFile(file);
    scope.defer(() => this.#kvm.removeFile(file));
    attachStep(`group ${number} is associated with the VM (KVM_DEV_VFIO_FILE_ADD)`);
    return { file, scope: scope.move(), users: 0 };
  }

  #openContainer(): ContainerFile {
    if (this.#container !== undefined) return this.#container;
    using scope = new Scope();
    const container = scope.own(this.#provider.openContainer());
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

  /** The IOMMU can only be set once a group is in the container; the maps follow the guest's memory from then on. */
  #startMapping(container: ContainerFile): void {
    if (this.#maps !== undefined) return;
    container.setIommu(VFIO_TYPE1v2_IOMMU);
    attachStep(`${container.target} has IOMMU type1v2`);
    this.#maps = this.#memory.listen(new DmaMaps(container));
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
