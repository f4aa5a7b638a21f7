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

/** How a core is made. */
export interface CoreOptions {
  /** Ports that differ from the usual ones. */
  readonly ports?: Partial<CorePorts>;
  /** Devices without an IOMMU group may be registered, in groups of their own that need CAP_SYS_RAWIO. */
  readonly enableUnsafeNoiommuMode?: boolean;
}

/** A VFIO subsystem in this process. It owns all its state: any number of cores live side by side. Machine thread only. */
export class VfioCore implements Disposable {
  readonly environment: CoreEnvironment;
  readonly registry: CoreRegistry;
  /** Registered mdev parents and their devices. */
  readonly mdevs: Mdevs;
  /** This core's devices on the VFIO uAPI. */
  readonly provider: CoreProvider;
  /** What a kvm-vfio device calls for files of this core. */
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
   * Makes a vendor driver's types available. Disposing the result takes them away, with the devices made of them; a device
   * that is in use goes when its last file is closed.
   * @throws SysError EEXIST if the driver, or a type of that name, is there already
   */
  registerVendorDriver(driver: VendorDriver, environment: VendorEnvironment): Disposable {
    this.mdevs.registerParent(driver, environment);
    return disposable(() => this.#finish(`unregister ${driver.name}`, this.mdevs.unregisterParent(driver)));
  }

  /** A new IOMMU group for devices of the host; {@link IommuGroup.put} gives it back. */
  createIommuGroup(capabilities?: IommuCapabilities): IommuGroup {
    return IommuGroup.alloc(this.environment, capabilities);
  }

  /** Init and register in one: the driver's data comes back from {@link delGroupDev}. @see vfio_add_group_dev */
  addGroupDev(dev: HostDevice, ops: VfioDeviceOps, data: unknown): void {
    this.run(this.addGroupDevSteps(dev, ops, data));
  }

  /** @throws SysError as VfioDevice.register; ENOMEM. The driver's drvdata is set on success only. */
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

  /** Unregisters what {@link addGroupDev} registered; resolves to the driver's data. @see vfio_del_group_dev */
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

  /** Runs an operation to its end. @throws DeadlockError where it would have to wait */
  run<T>(steps: Steps<T>): T {
    return this.environment.executor.run(steps);
  }

  /** Runs an operation that may have to wait, as a task of that name. */
  start<T>(name: string, steps: Steps<T>): Promise<T> {
    return this.environment.executor.start(name, steps);
  }

  /** What was made and not freed: empty when all files are closed and all devices unregistered. */
  get live(): ReadonlyMap<string, number> {
    return new Map([...this.environment.live].filter(([, count]) => count !== 0));
  }

  #finish(name: string, steps: Steps<void>): void {
    this.start(name, steps).catch((error: unknown) => this.environment.warn(`${name}: ${String(error)}`));
  }

  /** Removes the devices that are left; tells what is still open. */
  [Symbol.dispose](): void {
    for (const mdev of this.mdevs.devices) this.#finish(`remove ${mdev.uuid}`, this.mdevs.remove(mdev.uuid));
    const left = [...this.live].map(([kind, count]) => `${kind} ${count}`);
    if (left.length > 0) this.environment.warn(`VFIO core is disposed with live objects: ${left.join(', ')}`);
  }
}
