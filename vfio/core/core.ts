import { disposable } from '../../sys/scope.js';
import type { VendorDriver, VendorEnvironment, VfioDeviceOps } from '../driver.js';
import type { VfioFileOps } from '../file-ops.js';
import { type UnregisterOptions, VfioDevice } from './device.js';
import { CoreEnvironment, type CorePorts, defaultPorts } from './environment.js';
import { CoreFileOps } from './file-ops.js';
import type { IommuCapabilities } from './iommu-group.js';
import { type HostDevice, IommuGroup } from './iommu-group.js';
import { Mdevs } from './mdev.js';
import { type CoreProvider, coreProvider } from './provider.js';
import { CoreRegistry } from './registry.js';
import type { Steps } from './steps.js';

/** Options of a core. */
export interface CoreOptions {
  /** Ports that replace the defaults. */
  readonly ports?: Partial<CorePorts>;
  /**
   * Allows devices without an IOMMU group: each gets a group of its own, which requires CAP_SYS_RAWIO. Default: false.
   */
  readonly enableUnsafeNoiommuMode?: boolean;
}

/** A VFIO subsystem in this process. It owns all its state; a process can have several. Machine thread only. */
export class VfioCore implements Disposable {
  /** @internal */
  readonly environment: CoreEnvironment;
  /** @internal */
  readonly registry: CoreRegistry;
  /** Registered mdev parents and their devices. */
  readonly mdevs: Mdevs;
  /** This core's devices behind the VFIO uAPI. */
  readonly provider: CoreProvider;
  /** The calls that kvm-vfio makes on files of this core. */
  readonly vfioFileOps: VfioFileOps;

  constructor(options: CoreOptions = {}) {
    this.environment = new CoreEnvironment(
      { ...defaultPorts, ...options.ports },
      options.enableUnsafeNoiommuMode ?? false,
    );
    this.registry = new CoreRegistry(this.environment);
    this.mdevs = new Mdevs(this.registry);
    this.vfioFileOps = new CoreFileOps(this.registry);
    this.provider = coreProvider(this.registry, this.mdevs, this.vfioFileOps);
  }

  /**
   * Registers a vendor driver and its types. Disposing the result unregisters them and removes their devices; a device
   * in use is removed once its last file is closed.
   * @throws SysError EEXIST if the driver, or a type of the same name, is already registered
   */
  registerVendorDriver(driver: VendorDriver, environment: VendorEnvironment): Disposable {
    this.mdevs.registerParent(driver, environment);
    return disposable(() => this.#finish(`unregister ${driver.name}`, this.mdevs.unregisterParent(driver)));
  }

  /** Creates an IOMMU group for host devices; {@link IommuGroup.put} releases it. @throws SysError ENOMEM */
  createIommuGroup(capabilities?: IommuCapabilities): IommuGroup {
    return IommuGroup.alloc(this.environment, capabilities);
  }

  /**
   * Initializes and registers a device; {@link delGroupDev} returns `data`. @see vfio_add_group_dev
   * @throws SysError EINVAL without an IOMMU group; EBUSY if `dev` is already registered; ENOMEM
   */
  addGroupDev(dev: HostDevice, ops: VfioDeviceOps, data: unknown): void {
    this.run(this.addGroupDevSteps(dev, ops, data));
  }

  /** {@link addGroupDev} in steps, for a scheduler. Sets `dev.drvdata` on success only. */
  *addGroupDevSteps(dev: HostDevice, ops: VfioDeviceOps, data: unknown): Steps<void> {
    this.environment.allocate('vfio_device');
    try {
      const device = VfioDevice.init(this.registry, dev, ops, data);
      yield* device.register();
      dev.drvdata = device;
    } catch (error) {
      this.environment.free('vfio_device');
      throw error;
    }
  }

  /**
   * Unregisters a device of {@link addGroupDev}; resolves to the driver's data once the last file is closed, and to
   * undefined if `dev` is not registered. @see vfio_del_group_dev
   */
  delGroupDev(dev: HostDevice, options: UnregisterOptions = {}): Promise<unknown> {
    return this.start('vfio_del_group_dev', this.delGroupDevSteps(dev, options));
  }

  /** {@link delGroupDev} in steps, for a scheduler. */
  *delGroupDevSteps(dev: HostDevice, options: UnregisterOptions = {}): Steps<unknown> {
    const device = dev.drvdata;
    if (!(device instanceof VfioDevice)) return undefined;
    yield* device.unregister(options);
    dev.drvdata = undefined;
    this.environment.free('vfio_device');
    return device.data;
  }

  /** Runs an operation to its end, synchronously. @throws DeadlockError if it would have to wait */
  run<T>(steps: Steps<T>): T {
    return this.environment.executor.run(steps);
  }

  /** Runs an operation that may have to wait, as a task of the given name. */
  start<T>(name: string, steps: Steps<T>): Promise<T> {
    return this.environment.executor.start(name, steps);
  }

  /** Number of live objects by kind; empty once all files are closed and all devices unregistered. */
  get live(): ReadonlyMap<string, number> {
    return new Map([...this.environment.live].filter(([, count]) => count !== 0));
  }

  #finish(name: string, steps: Steps<void>): void {
    this.start(name, steps).catch((error: unknown) => this.environment.warn(`${name}: ${String(error)}`));
  }

  /** Removes the remaining mediated devices, and warns of objects that are still live. */
  [Symbol.dispose](): void {
    for (const mdev of this.mdevs.devices) this.#finish(`remove ${mdev.uuid}`, this.mdevs.remove(mdev.uuid));
    const left = [...this.live].map(([kind, count]) => `${kind} ${count}`);
    if (left.length > 0) this.environment.warn(`VFIO core is disposed with live objects: ${left.join(', ')}`);
  }
}
