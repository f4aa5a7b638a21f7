import type { Fd } from '../../sys/fd.js';
import type { Mapping } from '../../sys/mapping.js';
import type { KvmPointer } from '../driver.js';
import type { FeatureInput, FeatureOutput } from '../feature.js';
import { validateIrqSet } from '../irq-set.js';
import type { HotResetInfo } from '../pci-hot-reset.js';
import type {
  CdevFile,
  DeviceInfo,
  GfxPlaneInfo,
  GfxPlaneQuery,
  GroupFile,
  IommufdFile,
  IrqInfo,
  IrqSet,
  RegionInfo,
  RegionIoEventFd,
} from '../uapi.js';
import {
  VFIO_GFX_PLANE_TYPE_DMABUF,
  VFIO_GFX_PLANE_TYPE_PROBE,
  VFIO_GFX_PLANE_TYPE_REGION,
} from '../uapi.js';
import { vfioError } from '../vfio-error.js';
import type { VfioDevice } from './device.js';
import { deviceFeature } from './device-feature.js';
import type { VfioGroup } from './group.js';
import { hotReset, hotResetInfo } from './hot-reset.js';
import { type BoundIommufd, bindIommufd } from './iommufd-bind.js';
import { RefCount } from './ref-count.js';
import type { CoreRegistry } from './registry.js';
import type { Steps } from './steps.js';

/**
 * An open device: struct vfio_device_file. A file from GET_DEVICE_FD can be used immediately; every call on a file from
 * a cdev fails until {@link bindIommufd} has succeeded.
 */
export class CoreDeviceFile implements CdevFile {
  readonly target: string;
  readonly #device: VfioDevice;
  /** Undefined for a file from a cdev. */
  readonly #group: VfioGroup | undefined;
  /** One reference of the opener, and one of the VM while the file is associated with it. */
  readonly #refs: RefCount;
  #isGranted = false;
  #isOpen = true;
  #bound: BoundIommufd | undefined;
  /** The VM that this file is associated with; for a cdev, bindIommufd passes it to the driver. */
  #kvm: KvmPointer | null = null;

  private constructor(device: VfioDevice, group: VfioGroup | undefined) {
    this.#device = device;
    this.#group = group;
    this.target = group === undefined ? `${device.cdev} (core)` : device.name;
    this.#refs = new RefCount(`file of ${device.name}`, 1, (text) => device.environment.warn(text));
  }

  /**
   * GET_DEVICE_FD. The caller has found the device and holds a reference of its registration. @see vfio_device_open
   * @throws SysError EINVAL if the group has been detached from its container in the meantime; any error of openDevice
   */
  static *openInGroup(device: VfioDevice, group: VfioGroup): Steps<CoreDeviceFile> {
    const call = 'VFIO_GROUP_GET_DEVICE_FD';
    const { environment } = device;
    {
      using _held = yield* group.groupRwsem.write();
      if (group.containerUsers === 0)
        throw vfioError(call, group.target, 'EINVAL', 'the group is in no container');
      group.checkUsable(call);
      group.containerUsers++;
    }
    let kvm: KvmPointer | undefined;
    try {
      environment.allocate('device file');
      try {
        using _held = yield* device.set.lock.acquire();
        if (device.openCount === 0) kvm = yield* group.getKvmSafe();
        yield* device.open(kvm);
      } catch (error) {
        environment.free('device file');
        throw error;
      }
    } catch (error) {
      // Without locks: dropping the VM's last reference destroys it, which calls back into the core.
      kvm?.put();
      yield* group.tryDissolveContainer();
      throw error;
    }
    group.refs.get();
    const file = new CoreDeviceFile(device, group);
    file.#isGranted = true;
    return file;
  }

  /** @throws SysError ENODEV if there is no such node, or the device is being unregistered */
  static openCdev(registry: CoreRegistry, node: string): CoreDeviceFile {
    const device = registry.cdevs.get(node);
    if (!device?.registration.getUnlessZero()) throw vfioError('open', `${node} (core)`, 'ENODEV');
    try {
      registry.environment.allocate('device file');
    } catch (error) {
      device.putRegistration();
      throw error;
    }
    registry.environment.log.event('open_cdev', { device: device.name, cdev: node });
    return new CoreDeviceFile(device, undefined);
  }

  /** False after close. */
  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** @internal */
  get registry(): CoreRegistry {
    return this.#device.registry;
  }

  /** Whether DMA of the device always snoops the caches. */
  get isCoherent(): boolean {
    return this.#device.dev.iommuGroup?.capabilities.isCoherent ?? true;
  }

  /**
   * Associates the file with a VM, or with none; a later bind passes the VM to the driver. As with a group file,
   * closing takes effect only after the association has ended. @see vfio_device_file_set_kvm
   */
  *setKvmSteps(kvm: KvmPointer | null): Steps<void> {
    if (this.#refs.count === 0) return;
    const { environment, name } = this.#device;
    environment.log.event('set_kvm', { device: name, kvm: environment.kvmName(kvm) });
    const wasAssociated = this.#kvm !== null;
    this.#kvm = kvm;
    if (kvm !== null && !wasAssociated) this.#refs.get();
    if (kvm === null && wasAssociated && this.#refs.put()) yield* this.#release();
  }

  /** The VM that the file is associated with; null for none. */
  get kvm(): KvmPointer | null {
    return this.#kvm;
  }

  /** The device behind it. @throws SysError EBADF after close; EINVAL before access is granted */
  #use(call: string): VfioDevice {
    if (!this.#isOpen) throw vfioError(call, this.target, 'EBADF', 'the device file is closed');
    if (!this.#isGranted) throw vfioError(call, this.target, 'EINVAL', 'bind it to an iommufd first');
    return this.#device;
  }

  getInfo(): DeviceInfo {
    return this.#use('VFIO_DEVICE_GET_INFO').ops.getInfo();
  }

  getRegionInfo(index: number): RegionInfo {
    return this.#use('VFIO_DEVICE_GET_REGION_INFO').regions.info(index);
  }

  getRegionIoFds(index: number): readonly RegionIoEventFd[] {
    const { ops, regions } = this.#use('VFIO_USER_DEVICE_GET_REGION_IO_FDS');
    regions.info(index);
    return ops.getRegionIoFds?.(index) ?? [];
  }

  getIrqInfo(index: number): IrqInfo {
    const call = 'VFIO_DEVICE_GET_IRQ_INFO';
    const { ops } = this.#use(call);
    const { numIrqs } = ops.getInfo();
    if (!Number.isInteger(index) || index < 0 || index >= numIrqs) {
      throw vfioError(call, this.target, 'EINVAL', `there is no irq index ${index}`);
    }
    return ops.getIrqInfo(index);
  }

  setIrqs(set: IrqSet): void {
    const { ops, environment, name } = this.#use('VFIO_DEVICE_SET_IRQS');
    validateIrqSet(set, ops.getInfo().numIrqs, (index) => ops.getIrqInfo(index), this.target);
    ops.setIrqs(set);
    environment.log.event('set_irqs', {
      device: name,
      index: set.index,
      flags: set.flags,
      start: set.start,
      count: set.count,
    });
  }

  reset(): void {
    const call = 'VFIO_DEVICE_RESET';
    const { ops, environment, name } = this.#use(call);
    if (ops.reset === undefined) throw vfioError(call, this.target, 'ENOTTY', 'the device has no reset');
    ops.reset();
    environment.log.event('reset', { device: name });
  }

  /** @param argsz the argument's field of that name; room for every function if absent. @see hotResetInfo */
  getPciHotResetInfo(argsz: number = Number.POSITIVE_INFINITY): HotResetInfo {
    const device = this.#use('VFIO_DEVICE_GET_PCI_HOT_RESET_INFO');
    return device.environment.executor.run(hotResetInfo(device, this.#group === undefined, argsz));
  }

  /** @see hotReset */
  pciHotReset(groups: readonly GroupFile[] = []): void {
    this.#device.environment.executor.run(this.pciHotResetSteps(groups));
  }

  /** {@link pciHotReset} in steps, for a scheduler. */
  *pciHotResetSteps(groups: readonly GroupFile[]): Steps<void> {
    yield* hotReset(this.#use('VFIO_DEVICE_PCI_HOT_RESET'), this.#group === undefined, groups);
  }

  /** VFIO_DEVICE_FEATURE: migration, dirty logging and the VF token. @see deviceFeature */
  deviceFeature(flags: number, input?: FeatureInput): FeatureOutput {
    const { ops, vfToken } = this.#use('VFIO_DEVICE_FEATURE');
    return deviceFeature(ops, flags, input, vfToken);
  }

  read(offset: number, data: Uint8Array): number {
    const { ops, regions } = this.#use('pread');
    const { info, at, length } = regions.access(offset, data.length, false);
    return ops.read(info.index, at, length === data.length ? data : data.subarray(0, length));
  }

  write(offset: number, data: Uint8Array): number {
    const { ops, regions } = this.#use('pwrite');
    const { info, at, length } = regions.access(offset, data.length, true);
    return ops.write(info.index, at, length === data.length ? data : data.subarray(0, length));
  }

  mmap(offset: number, bytes: number): Mapping {
    const { ops, regions } = this.#use('mmap');
    const { info, at } = regions.mappable(offset, bytes);
    if (ops.mmap === undefined) throw vfioError('mmap', this.target, 'EINVAL', 'the driver has no mmap');
    return ops.mmap(info.index, at, bytes);
  }

  queryGfxPlane(query: GfxPlaneQuery): GfxPlaneInfo {
    const call = 'VFIO_DEVICE_QUERY_GFX_PLANE';
    const { ops } = this.#use(call);
    if (ops.queryGfxPlane === undefined)
      throw vfioError(call, this.target, 'ENOTTY', 'the device is not a display');
    const type = query.flags & ~VFIO_GFX_PLANE_TYPE_PROBE;
    if (type !== VFIO_GFX_PLANE_TYPE_REGION && type !== VFIO_GFX_PLANE_TYPE_DMABUF)
      throw vfioError(call, this.target, 'EINVAL', 'flags must name one type of plane');
    const { gfxHeads = 1 } = ops;
    if (query.head !== undefined && query.head >= gfxHeads)
      throw vfioError(
        call,
        this.target,
        'EINVAL',
        `it has ${gfxHeads === 1 ? 'one screen' : `${gfxHeads} screens`}, from 0 on`,
      );
    return ops.queryGfxPlane(query);
  }

  getGfxDmabuf(dmabufId: number): Fd {
    const call = 'VFIO_DEVICE_GET_GFX_DMABUF';
    const { ops } = this.#use(call);
    if (ops.getGfxDmabuf === undefined)
      throw vfioError(call, this.target, 'ENOTTY', 'the device has no dma-bufs');
    return ops.getGfxDmabuf(dmabufId);
  }

  bindIommufd(iommufd: IommufdFile, vfToken?: string): number {
    return this.#device.environment.executor.run(this.bindIommufdSteps(iommufd, vfToken));
  }

  /** @see vfio_df_ioctl_bind_iommufd */
  *bindIommufdSteps(iommufd: IommufdFile, vfToken?: string): Steps<number> {
    const call = 'VFIO_DEVICE_BIND_IOMMUFD';
    if (!this.#isOpen) throw vfioError(call, this.target, 'EBADF', 'the device file is closed');
    if (this.#group !== undefined)
      throw vfioError(call, this.target, 'EINVAL', 'it was opened through its group');
    if (this.#bound !== undefined) throw vfioError(call, this.target, 'EINVAL', 'it is already bound');
    this.#bound = yield* bindIommufd(this.#device, iommufd, () => this.#kvm, vfToken);
    this.#isGranted = true;
    return this.#bound.id;
  }

  attachIoas(ioas: number): void {
    this.#device.environment.executor.run(this.attachIoasSteps(ioas));
  }

  /** {@link attachIoas} in steps, for a scheduler. */
  *attachIoasSteps(ioas: number): Steps<void> {
    yield* this.#requireBound('VFIO_DEVICE_ATTACH_IOMMUFD_PT').attach(ioas);
  }

  detachIoas(): void {
    this.#device.environment.executor.run(this.detachIoasSteps());
  }

  /** {@link detachIoas} in steps, for a scheduler. */
  *detachIoasSteps(): Steps<void> {
    yield* this.#requireBound('VFIO_DEVICE_DETACH_IOMMUFD_PT').detach();
  }

  #requireBound(call: string): BoundIommufd {
    this.#use(call);
    if (this.#bound !== undefined) return this.#bound;
    throw vfioError(call, this.target, 'EINVAL', 'it is not bound to an iommufd');
  }

  /** Closes the file; the last close calls the driver's closeDevice. */
  [Symbol.dispose](): void {
    this.#device.environment.executor.run(this.closeSteps());
  }

  /** Closes the file, in steps, for a scheduler. */
  *closeSteps(): Steps<void> {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    if (this.#refs.put()) yield* this.#release();
  }

  /** @see vfio_device_fops_release */
  *#release(): Steps<void> {
    const device = this.#device;
    try {
      if (this.#group !== undefined) yield* closeInGroup(device, this.#group);
      else if (this.#bound !== undefined) yield* this.#bound.close();
    } finally {
      device.environment.free('device file');
      device.putRegistration();
      if (this.#group !== undefined) yield* this.#group.put();
    }
  }
}

function* closeInGroup(device: VfioDevice, group: VfioGroup): Steps<void> {
  let kvm: KvmPointer | undefined;
  try {
    using _held = yield* device.set.lock.acquire();
    if (device.openCount === 1) kvm = device.kvm;
    yield* device.close();
  } finally {
    yield* group.tryDissolveContainer();
    // Without any lock: dropping the last reference destroys the VM, which removes its files from kvm-vfio.
    yield 'vfio_device_group_close: before the VM is put';
    kvm?.put();
  }
}
