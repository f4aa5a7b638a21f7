/** A container: the address space that the devices of its groups share. After drivers/vfio/container.c. */
import {
  type ContainerFile,
  type DmaMap,
  type DmaUnmap,
  type IommuInfo,
  type UnmappedMemory,
  VFIO_API_VERSION,
  VFIO_NOIOMMU_IOMMU,
} from '../uapi.js';
import { vfioError } from '../vfio-error.js';
import type { DirtyPages } from './dirty-pages.js';
import type { CoreEnvironment } from './environment.js';
import type { IommuBackend, IommuDriver } from './iommu-driver.js';
import type { IommuGroup } from './iommu-group.js';
import { RwSemaphore } from './locks.js';
import { noiommuDriver } from './noiommu.js';
import { RefCount } from './ref-count.js';
import type { Steps } from './steps.js';
import { type1Driver } from './type1.js';

const drivers: readonly IommuDriver[] = [type1Driver, noiommuDriver];

export class Container {
  readonly environment: CoreEnvironment;
  readonly target = 'container (core)';
  /** One reference of the open file and one of each group. */
  readonly refs: RefCount;
  readonly groups = new Set<IommuGroup>();
  /** Guards {@link groups} and the chosen IOMMU. */
  readonly #groupLock: RwSemaphore;
  #driver: IommuDriver | undefined;
  #backend: IommuBackend | undefined;

  private constructor(environment: CoreEnvironment) {
    this.environment = environment;
    this.refs = new RefCount(this.target, 1, (text) => environment.warn(text));
    this.#groupLock = new RwSemaphore(environment, 'container group_lock');
  }

  /** @throws SysError ENOMEM */
  static create(environment: CoreEnvironment): Container {
    environment.allocate('container');
    return new Container(environment);
  }

  get backend(): IommuBackend | undefined {
    return this.#backend;
  }

  put(): void {
    if (!this.refs.put()) return;
    if (this.groups.size > 0)
      this.environment.warn(`${this.target} is released with ${this.groups.size} groups`);
    this.environment.free('container');
  }

  /** One group decides: {@link attachGroup} refuses a mix. */
  #isNoiommu(): boolean {
    const [first] = this.groups;
    return first?.isNoiommu ?? false;
  }

  /** The chosen IOMMU driver, or those that suit the groups. */
  #candidates(): readonly IommuDriver[] {
    if (this.#driver !== undefined) return [this.#driver];
    if (this.groups.size === 0) return drivers;
    return drivers.filter(({ isNoiommu }) => isNoiommu === this.#isNoiommu());
  }

  /** @see vfio_container_ioctl_check_extension */
  checkExtension(extension: number): number {
    if (this.#backend !== undefined) return this.#backend.checkExtension(extension);
    // Without CAP_SYS_RAWIO the answer is the same: it is SET_IOMMU that fails.
    if (extension === VFIO_NOIOMMU_IOMMU && !this.environment.isNoiommuEnabled) return 0;
    for (const driver of this.#candidates()) {
      const answer = driver.checkExtension(extension);
      if (answer > 0) return answer;
    }
    return 0;
  }

  /** @see vfio_ioctl_set_iommu */
  *setIommu(type: number): Steps<void> {
    const call = 'VFIO_SET_IOMMU';
    using _held = yield* this.#groupLock.write();
    if (this.groups.size === 0) {
      throw vfioError(call, this.target, 'EINVAL', 'put a group into the container first');
    }
    if (this.#driver !== undefined) throw vfioError(call, this.target, 'EINVAL', 'its IOMMU is already set');
    for (const driver of this.#candidates()) {
      // The numbers of types and of extensions are one space, so a driver may be asked to open what is no type.
      if (driver.checkExtension(type) <= 0) continue;
      const backend = driver.open(this.environment, type);
      const attached: IommuGroup[] = [];
      try {
        for (const group of this.groups) {
          yield* backend.attachGroup(group);
          attached.push(group);
        }
      } catch (error) {
        for (const group of attached.reverse()) yield* backend.detachGroup(group);
        backend.release();
        throw error;
      }
      this.#driver = driver;
      this.#backend = backend;
      this.environment.log.event('set_iommu', { driver: driver.name, type });
      return;
    }
    throw vfioError(call, this.target, 'ENODEV', `no IOMMU of type ${type} for these groups`);
  }

  /** @throws SysError EPERM for a mix of groups with and without an IOMMU; EINVAL from the IOMMU driver */
  *attachGroup(group: IommuGroup): Steps<void> {
    using _held = yield* this.#groupLock.write();
    if (this.groups.size > 0 && this.#isNoiommu() !== group.isNoiommu) {
      const hint = 'groups with and without an IOMMU cannot share a container';
      throw vfioError('VFIO_GROUP_SET_CONTAINER', group.target, 'EPERM', hint);
    }
    if (this.#backend !== undefined) yield* this.#backend.attachGroup(group);
    this.groups.add(group);
  }

  /** Detaching the last group releases the IOMMU and its maps. */
  *detachGroup(group: IommuGroup): Steps<void> {
    using _held = yield* this.#groupLock.write();
    if (this.#backend !== undefined) yield* this.#backend.detachGroup(group);
    this.groups.delete(group);
    if (this.groups.size > 0 || this.#backend === undefined) return;
    this.#backend.release();
    this.#backend = undefined;
    this.#driver = undefined;
    this.environment.log.event('unset_iommu', {});
  }

  /** @throws SysError EINVAL before SET_IOMMU */
  requireBackend(call: string): IommuBackend {
    if (this.#backend === undefined) throw vfioError(call, this.target, 'EINVAL', 'set its IOMMU first');
    return this.#backend;
  }
}

/** `/dev/vfio/vfio` of the core. */
export class CoreContainerFile implements ContainerFile {
  readonly target: string;
  readonly #container: Container;
  #isOpen = true;

  private constructor(container: Container) {
    this.#container = container;
    this.target = container.target;
  }

  /** @throws SysError ENOMEM */
  static open(environment: CoreEnvironment): CoreContainerFile {
    return new CoreContainerFile(Container.create(environment));
  }

  /** False after close. */
  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** @throws SysError EBADF after close */
  container(call: string): Container {
    if (!this.#isOpen) throw vfioError(call, this.target, 'EBADF', 'the container file is closed');
    return this.#container;
  }

  getApiVersion(): number {
    this.container('VFIO_GET_API_VERSION');
    return VFIO_API_VERSION;
  }

  checkExtension(extension: number): number {
    return this.container('VFIO_CHECK_EXTENSION').checkExtension(extension);
  }

  setIommu(type: number): void {
    this.#container.environment.executor.run(this.setIommuSteps(type));
  }

  /** {@link setIommu} in steps, for a scheduler. */
  *setIommuSteps(type: number): Steps<void> {
    yield* this.container('VFIO_SET_IOMMU').setIommu(type);
  }

  getIommuInfo(): IommuInfo {
    return this.#backend('VFIO_IOMMU_GET_INFO').getInfo();
  }

  mapDma(map: DmaMap): void {
    this.#container.environment.executor.run(this.mapDmaSteps(map));
  }

  /** {@link mapDma} in steps, for a scheduler. */
  *mapDmaSteps(map: DmaMap): Steps<void> {
    yield* this.#backend('VFIO_IOMMU_MAP_DMA').mapDma(map);
  }

  unmapDma(unmap: DmaUnmap): bigint {
    return this.#container.environment.executor.run(this.unmapDmaSteps(unmap));
  }

  /** {@link unmapDma} in steps, for a scheduler. */
  *unmapDmaSteps(unmap: DmaUnmap): Steps<bigint> {
    return yield* this.#backend('VFIO_IOMMU_UNMAP_DMA').unmapDma(unmap);
  }

  setUnmapped(memory: UnmappedMemory): void {
    const { space } = this.#backend('setUnmapped');
    if (space !== undefined) space.unmapped = memory;
  }

  /** VFIO_IOMMU_DIRTY_PAGES. @throws SysError EINVAL before SET_IOMMU; ENOTTY if the IOMMU cannot track dirty pages */
  get dirtyPages(): DirtyPages {
    const call = 'VFIO_IOMMU_DIRTY_PAGES';
    const pages = this.#backend(call).dirtyPages;
    if (pages === undefined) throw vfioError(call, this.target, 'ENOTTY');
    return pages;
  }

  #backend(call: string): IommuBackend {
    return this.container(call).requireBackend(call);
  }

  /** Closes the file. The container exists until its last group is detached. */
  [Symbol.dispose](): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#container.put();
  }
}
