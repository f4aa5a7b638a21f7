/** Mediated devices: instances of a type that a parent's driver offers. After drivers/vfio/mdev. */
import type { MdevInstance, MdevParentState, MdevType, VendorDriver, VendorEnvironment } from '../driver.js';
import { isUuid, randomUuid } from '../uuid.js';
import { vfioError } from '../vfio-error.js';
import { VfioDevice } from './device.js';
import { HostDevice } from './iommu-group.js';
import type { CoreRegistry } from './registry.js';
import type { Steps } from './steps.js';

/** A mediated device that is registered with the core. */
export interface Mdev {
  /** Its UUID, in lower case. */
  readonly uuid: string;
  /** The type it is an instance of. */
  readonly type: MdevType;
  /** The registered device. */
  readonly device: VfioDevice;
  /** The instance that the vendor driver's `create` returned. */
  readonly instance: MdevInstance;
  /** For a VF: UUID of its physical function, and its number from 0. It is not one of its type's instances. */
  readonly vf?: { readonly physfn: string; readonly index: number };
}

interface Parent {
  readonly driver: VendorDriver;
  readonly environment: VendorEnvironment;
}

/** All parents and mediated devices of one core. */
export class Mdevs {
  readonly #registry: CoreRegistry;
  readonly #parents = new Map<string, Parent>();
  readonly #devices = new Map<string, Mdev>();
  /** Number of instances by type. */
  readonly #instances = new Map<MdevType, number>();
  readonly #removing = new WeakSet<Mdev>();

  constructor(registry: CoreRegistry) {
    this.#registry = registry;
  }

  /** The types of all registered parents. */
  get types(): readonly MdevType[] {
    return [...this.#parents.values()].flatMap(({ driver }) => driver.types);
  }

  /** The devices that the registered drivers divide, with their accounts; of those drivers that keep one. */
  get parents(): readonly MdevParentState[] {
    return [...this.#parents.values()].flatMap(({ driver }) => driver.parents?.() ?? []);
  }

  /** All mediated devices, oldest first. */
  get devices(): readonly Mdev[] {
    return [...this.#devices.values()];
  }

  /**
   * @see mdev_register_parent
   * @throws SysError EEXIST if the driver, or a type of the same name, is already registered
   */
  registerParent(driver: VendorDriver, environment: VendorEnvironment): void {
    const call = 'mdev_register_parent';
    if (this.#parents.has(driver.name))
      throw vfioError(call, driver.name, 'EEXIST', 'it is already registered');
    for (const { name } of driver.types) {
      if (this.findType(name) === undefined) continue;
      throw vfioError(call, driver.name, 'EEXIST', `another driver has a type named ${name}`);
    }
    this.#parents.set(driver.name, { driver, environment });
  }

  /** Removes the parent's devices, then the parent. @see mdev_unregister_parent */
  *unregisterParent(driver: VendorDriver): Steps<void> {
    if (this.#parents.get(driver.name)?.driver !== driver) return;
    this.#parents.delete(driver.name);
    for (const mdev of this.devices) if (driver.types.includes(mdev.type)) yield* this.remove(mdev.uuid);
  }

  /** The type of the given name, if a registered parent offers it. */
  findType(name: string): MdevType | undefined {
    return this.types.find((type) => type.name === name);
  }

  /** The device with the given UUID, if it exists; either case is fine. */
  find(uuid: string): Mdev | undefined {
    return this.#devices.get(uuid.toLowerCase());
  }

  /** What the driver of a type says of options; undefined if nothing, or for the UUID of an existing device. */
  checkOptions(typeName: string, options: Readonly<Record<string, string>>): string | undefined {
    const type = this.findType(typeName);
    const { driver } =
      [...this.#parents.values()].find(({ driver }) => type && driver.types.includes(type)) ?? {};
    return type && driver?.checkOptions?.(type, options);
  }

  /** How many more instances of a type can be created. */
  availableInstances(type: MdevType): number {
    const left = type.maxInstances - (this.#instances.get(type) ?? 0);
    const { driver } = [...this.#parents.values()].find(({ driver }) => driver.types.includes(type)) ?? {};
    return Math.min(left, driver?.availableInstances?.(type) ?? left);
  }

  /**
   * Creates an instance, and registers its device in an IOMMU group of its own. @see mdev_device_create
   * @param givenUuid in either case; the device's name is in lower case
   * @throws SysError ENODEV for an unknown type; EINVAL for a malformed UUID; EEXIST for a UUID in use; EUSERS if all of
   *   the type's instances are in use, or ENOSPC if the driver counts them itself; any error of the driver's `create`
   */
  *create(
    typeName: string,
    givenUuid: string = randomUuid(),
    options: Readonly<Record<string, string>> = {},
  ): Steps<Mdev> {
    const call = 'mdev_device_create';
    const uuid = givenUuid.toLowerCase();
    const parent = [...this.#parents.values()].find(({ driver }) =>
      driver.types.some(({ name }) => name === typeName),
    );
    const type = this.findType(typeName);
    if (parent === undefined || type === undefined)
      throw vfioError(call, typeName, 'ENODEV', 'there is no such type');
    if (!isUuid(uuid)) throw vfioError(call, `${typeName} ${uuid}`, 'EINVAL', 'it is no UUID');
    if (this.#devices.has(uuid)) throw vfioError(call, `${typeName} ${uuid}`, 'EEXIST', 'the UUID is in use');
    if (this.availableInstances(type) <= 0) {
      const code = parent.driver.availableInstances === undefined ? 'EUSERS' : 'ENOSPC';
      throw vfioError(
        call,
        typeName,
        code,
        parent.driver.shortage?.(type, options) ?? 'all of its instances are in use',
      );
    }
    const { driver, environment } = parent;
    return yield* this.#register({ uuid, type }, driver.name, () =>
      driver.create(type, uuid, options, environment),
    );
  }

  /**
   * Creates a VF of a device, in an IOMMU group of its own, as ACS separates VFs.
   * @throws SysError EINVAL for a device without that VF; EEXIST while it exists; any error of the driver's `create`
   */
  *createVf({ uuid: physfn, type, device, instance }: Mdev, index: number): Steps<Mdev> {
    const [call, target] = ['sriov_add_vf', `VF ${index} of ${physfn}`];
    const { sriov } = instance;
    if (sriov === undefined || !Number.isInteger(index) || index < 0 || index >= sriov.totalVfs)
      throw vfioError(call, target, 'EINVAL', `it has ${sriov?.totalVfs ?? 0} VFs`);
    if (this.devices.some(({ vf }) => vf?.physfn === physfn && vf.index === index))
      throw vfioError(call, target, 'EEXIST', 'dispose it first');
    const identity = { uuid: randomUuid(), type, vf: { physfn, index } };
    return yield* this.#register(identity, device.dev.driver, () => sriov.create(index));
  }

  *#register(
    identity: Pick<Mdev, 'uuid' | 'type' | 'vf'>,
    driver: string | undefined,
    create: () => MdevInstance,
  ): Steps<Mdev> {
    const { uuid } = identity;
    this.#registry.environment.allocate('mdev_device');
    let instance: MdevInstance | undefined;
    try {
      instance = create();
      const dev = new HostDevice(uuid);
      dev.driver = driver;
      const device = VfioDevice.init(this.#registry, dev, instance.ops, instance);
      const mdev: Mdev = { ...identity, device, instance };
      this.#devices.set(uuid, mdev);
      this.#count(mdev, 1);
      yield* device.registerEmulated();
      return mdev;
    } catch (error) {
      const mdev = this.#devices.get(uuid);
      if (mdev !== undefined && this.#devices.delete(uuid)) this.#count(mdev, -1);
      instance?.[Symbol.dispose]();
      this.#registry.environment.free('mdev_device');
      throw error;
    }
  }

  /**
   * Unregisters the device (as {@link VfioDevice.unregister}), then disposes the instance.
   * @throws SysError ENODEV for an unknown UUID; EBUSY if the device is already being removed
   */
  *remove(uuid: string): Steps<void> {
    const mdev = this.find(uuid);
    if (mdev === undefined) throw vfioError('mdev_device_remove', uuid, 'ENODEV', 'it was removed already');
    if (this.#removing.has(mdev)) throw vfioError('mdev_device_remove', uuid, 'EBUSY', 'it is being removed');
    this.#removing.add(mdev);
    yield* mdev.device.unregister();
    this.#devices.delete(mdev.uuid);
    this.#count(mdev, -1);
    this.#registry.environment.free('mdev_device');
    mdev.instance[Symbol.dispose]();
  }

  #count({ type, vf }: Mdev, change: number): void {
    if (vf === undefined) this.#instances.set(type, (this.#instances.get(type) ?? 0) + change);
  }
}
