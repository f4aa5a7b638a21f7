/** A device as its driver registers it. After drivers/vfio/vfio_main.c. */
import { isErrno } from '../../sys/error.js';
import type { KvmPointer, OpenDevice, VfioDeviceOps } from '../driver.js';
import { vfioError } from '../vfio-error.js';
import type { DeviceSet } from './dev-set.js';
import { DeviceDmaAccess } from './dma-access.js';
import type { DmaSpace } from './dma-space.js';
import type { CoreEnvironment } from './environment.js';
import { type KvmListener, VFIO_GROUP_NOTIFY, VFIO_IOMMU_NOTIFY, VfioGroup } from './group.js';
import type { DmaUnmapEvent } from './iommu-driver.js';
import { type HostDevice, IommuGroup } from './iommu-group.js';
import { type NotifierBlock, SrcuNotifierChain } from './notifier.js';
import { RefCount } from './ref-count.js';
import { RegionTable } from './regions.js';
import type { CoreRegistry } from './registry.js';
import { Completion, maybeSteps, type Steps } from './steps.js';

/** Event of a device's own chain: its last user is closing it, and the driver has not been told yet. */
export const VFIO_DEVICE_RELEASE = 1 << 0;

/** Unregister asks the driver for the device this often. */
const REQUEST_INTERVAL_MS = 10_000;

/** Who unregisters, for the message that it is blocked; and what may interrupt its first wait. */
export interface UnregisterOptions {
  /** Who unregisters, as the warning names it; the running task if absent. */
  readonly task?: { readonly name: string; readonly id: number };
  /** Interrupts the first wait: the warning is given, and the wait proceeds. */
  readonly signal?: AbortSignal;
}

/** Listener of either kind, as vfio_register_notifier takes it. */
export type VfioListener = KvmListener | NotifierBlock<DmaUnmapEvent>;

/** What openDevice is given by this core: a driver may declare its parameter so, to pin pages and to listen. */
export interface CoreOpenDevice extends OpenDevice {
  /** As {@link OpenDevice.dma}, and pins pages. */
  readonly dma: DeviceDmaAccess;
  /** The device that is opened. */
  readonly device: VfioDevice;
}

/** A device registered with the core: struct vfio_device. Machine thread only. */
export class VfioDevice {
  readonly environment: CoreEnvironment;
  readonly registry: CoreRegistry;
  /** The host device behind it. */
  readonly dev: HostDevice;
  /** The driver's functions. */
  readonly ops: VfioDeviceOps;
  /** The driver's own. */
  readonly data: unknown;
  /** 0 until registered; then the registration's reference and one per open file. */
  readonly registration: RefCount;
  /** Listeners for its association with a VM. */
  readonly notifier: SrcuNotifierChain<VfioDevice>;
  /** DMA through the address space that it is attached to. */
  readonly dma: DeviceDmaAccess;
  /** The driver's regions, placed in the device file. */
  readonly regions: RegionTable;
  /** Guarded by the device set's lock. */
  openCount = 0;
  /** The VM it was associated with when it was first opened; fixed until the last close. */
  kvm: KvmPointer | undefined;
  #unregistered: Completion;
  #group: VfioGroup | undefined;
  #set: DeviceSet | undefined;
  #setId: unknown;
  #cdevNumber: number | undefined;
  #isEmulated = false;

  private constructor(registry: CoreRegistry, dev: HostDevice, ops: VfioDeviceOps, data: unknown) {
    this.environment = registry.environment;
    this.registry = registry;
    this.dev = dev;
    this.ops = ops;
    this.data = data;
    this.registration = new RefCount(`registration of ${dev.name}`, 0, (text) => this.environment.warn(text));
    this.notifier = new SrcuNotifierChain(registry.environment, 'device notifier', dev.name);
    this.dma = new DeviceDmaAccess(this);
    this.regions = new RegionTable(ops, dev.name);
    this.#unregistered = new Completion(`last user of ${dev.name}`);
  }

  /**
   * First half of making a device: nothing of it can be seen or called yet, so the driver can set itself up.
   * Second half: {@link register}, the last thing a probe does. @see vfio_init_group_dev
   */
  static init(registry: CoreRegistry, dev: HostDevice, ops: VfioDeviceOps, data?: unknown): VfioDevice {
    return new VfioDevice(registry, dev, ops, data);
  }

  /** Name of the host device: a PCI address or a UUID. */
  get name(): string {
    return this.dev.name;
  }

  /** Whether it has a group: from register until unregister has finished. */
  get isRegistered(): boolean {
    return this.#group !== undefined;
  }

  /** @throws SysError ENODEV unless it is registered */
  get group(): VfioGroup {
    if (this.#group === undefined)
      throw vfioError('vfio_device', this.name, 'ENODEV', 'it is not registered');
    return this.#group;
  }

  /** Of its own, unless {@link assignSet} said otherwise before it was registered. */
  get set(): DeviceSet {
    if (this.#set === undefined) throw vfioError('vfio_device', this.name, 'ENODEV', 'it is not registered');
    return this.#set;
  }

  /** @throws SysError ENODEV unless it is registered */
  get isAloneInGroup(): boolean {
    return this.group.devices.size <= 1;
  }

  /** `vfio0`: its node's name under /dev/vfio/devices. */
  get cdev(): string {
    return `vfio${this.#cdevNumber}`;
  }

  /** Whether GET_DEVICE_FD means it: `NAME`, or `NAME` and options behind a blank. */
  matches(name: string): boolean {
    return name === this.name || name.startsWith(`${this.name} `);
  }

  /** Puts it into the set of devices that `id` stands for; between init and register. @throws SysError ENOMEM */
  assignSet(id: unknown): void {
    this.#set = this.registry.deviceSets.assign(this, id);
    this.#setId = id;
  }

  /**
   * Makes the device available, under its group and as a cdev. From the moment it is on the group's list, which is before
   * this returns, its functions may be called. @see vfio_register_group_dev
   * @throws SysError EINVAL without an IOMMU group; EBUSY if the host's device is registered already; ENOMEM
   */
  *register(): Steps<void> {
    const call = 'vfio_register_group_dev';
    using _cause = this.environment.log.span('register', { device: this.name });
    const iommuGroup = this.dev.iommuGroup ?? (yield* this.#noiommuGroup(call));
    let group: VfioGroup | undefined;
    try {
      if (this.#set === undefined) this.assignSet(this);
      group = yield* VfioGroup.findOrCreate(this.registry, iommuGroup);
      // Node and number exist before anyone can find the device: it is never seen under one name only.
      this.environment.allocate('cdev');
      yield* this.#addToGroup(call, group);
    } catch (error) {
      if (group !== undefined) yield* group.put();
      this.#releaseSet();
      yield* this.#removeOwnGroup();
      throw error;
    }
    yield 'vfio_register_group_dev: on the list';
  }

  /**
   * As {@link register} for a device without an IOMMU behind it, such as a mdev: it gets a group of its own.
   * @see vfio_register_emulated_iommu_dev
   */
  *registerEmulated(): Steps<void> {
    const iommuGroup = IommuGroup.alloc(this.environment);
    this.#isEmulated = true;
    yield* iommuGroup.addDevice(this.dev);
    yield* this.register();
  }

  *#noiommuGroup(call: string): Steps<IommuGroup> {
    if (!this.environment.isNoiommuEnabled)
      throw vfioError(call, this.name, 'EINVAL', 'it is in no IOMMU group');
    const group = IommuGroup.alloc(this.environment, undefined, 'vfio-noiommu');
    this.#isEmulated = true;
    yield* group.addDevice(this.dev);
    this.environment.warn(`${this.name}: registered without an IOMMU, its user can reach all memory`);
    return group;
  }

  *#addToGroup(call: string, group: VfioGroup): Steps<void> {
    using _held = yield* group.deviceLock.acquire();
    if (group.devices.has(this.dev)) {
      this.environment.free('cdev');
      this.environment.warn(`${this.name}: Device already exists on group ${group.number}`);
      throw vfioError(call, this.name, 'EBUSY', `it is registered on ${group.target} already`);
    }
    // The caller's reference on the group is the device's from now on.
    this.#group = group;
    this.#unregistered = new Completion(`last user of ${this.name}`);
    this.#cdevNumber = this.registry.cdevNumbers.alloc();
    this.registration.start();
    group.devices.set(this.dev, this);
    this.registry.cdevs.set(this.cdev, this);
    this.environment.log.event('registered', { device: this.name, group: group.number, cdev: this.cdev });
  }

  /**
   * Takes the device from its users: asks the driver's `request` every 10 s until the last file is closed, and, if it was
   * the group's last device, waits until the group has left its container. @see vfio_unregister_group_dev
   */
  *unregister(options: UnregisterOptions = {}): Steps<void> {
    const { group } = this;
    using _cause = this.environment.log.span('unregister', { device: this.name, group: group.number });
    // It still has its driver, but is no longer on the list: without this the group would seem not to be viable.
    group.unbound.add(this.dev);
    {
      using _held = yield* group.deviceLock.acquire();
      group.devices.delete(this.dev);
      this.registry.cdevs.delete(this.cdev);
    }
    yield 'vfio_unregister_group_dev: off the list';
    this.putRegistration();
    yield* this.#waitForUsers(options);
    if (group.devices.size === 0) yield* this.#waitForContainer(group);
    this.registry.cdevNumbers.free(this.#cdevNumber as number);
    this.environment.free('cdev');
    this.#cdevNumber = undefined;
    this.#group = undefined;
    this.#releaseSet();
    yield* this.#removeOwnGroup();
    this.environment.log.event('unregistered', { device: this.name, group: group.number });
    yield* group.put();
  }

  *#waitForUsers({ task, signal }: UnregisterOptions): Steps<void> {
    let interruptible = signal;
    for (let count = 0; !this.#unregistered.isDone; count++) {
      this.environment.log.event('request', { device: this.name, count });
      this.ops.request?.(count);
      const wait = { timeoutMs: REQUEST_INTERVAL_MS, signal: interruptible };
      if ((yield* this.#unregistered.wait(wait)) !== 'interrupted') continue;
      interruptible = undefined;
      const { name, id } = task ?? this.environment.executor.current;
      this.environment.warn(
        `${this.name}: Device is currently in use, task "${name}" (${id}) blocked until device is released`,
      );
    }
  }

  *#waitForContainer(group: VfioGroup): Steps<void> {
    for (const { name } of this.notifier.blocks) {
      this.environment.warn(
        `listener '${name}' of device ${this.name} keeps ${group.target} in its container`,
      );
    }
    if (group.container === undefined) return;
    yield {
      what: `${group.target} to leave its container`,
      queue: group.containerGone,
      isReady: () => group.container === undefined,
    };
  }

  /** Gives back what a file, or the registration, held; the last one lets unregister go on. */
  putRegistration(): void {
    if (this.registration.put()) this.#unregistered.complete();
  }

  #releaseSet(): void {
    if (this.#set === undefined) return;
    this.registry.deviceSets.release(this, this.#setId);
    this.#set = undefined;
  }

  *#removeOwnGroup(): Steps<void> {
    const { iommuGroup } = this.dev;
    if (!this.#isEmulated || iommuGroup === undefined) return;
    this.#isEmulated = false;
    yield* iommuGroup.removeDevice(this.dev);
    iommuGroup.put();
  }

  /**
   * First open calls the driver. The set's lock is held.
   * @param space where its DMA goes: its container, unless told
   * @throws what the driver refuses it with
   */
  *open(kvm: KvmPointer | undefined, space?: DmaSpace | null): Steps<void> {
    this.openCount++;
    if (this.openCount > 1) return;
    this.kvm = kvm;
    using _cause = this.environment.log.span('open_device', {
      device: this.name,
      kvm: this.environment.kvmName(kvm),
    });
    try {
      this.dma.attach(space === undefined ? this.group.container?.backend?.space : (space ?? undefined));
      const open: CoreOpenDevice = { kvm, dma: this.dma, device: this };
      yield* maybeSteps(this.ops.openDevice(open));
    } catch (error) {
      this.openCount = 0;
      this.kvm = undefined;
      this.dma.forget();
      this.regions.forget();
      throw error;
    }
  }

  /**
   * Last close tells the device's listeners, then the driver. The set's lock is held; whoever holds it puts the VM once
   * it is released.
   */
  *close(): Steps<void> {
    if (this.openCount > 1) {
      this.openCount--;
      return;
    }
    using _cause = this.environment.log.span('close_device', { device: this.name });
    yield* this.notifier.call(VFIO_DEVICE_RELEASE, this);
    try {
      yield* maybeSteps(this.ops.closeDevice());
    } finally {
      this.openCount = 0;
      this.kvm = undefined;
      this.dma.forget();
      this.regions.forget();
    }
  }

  /**
   * Tells `block` when the device is about to be released. It keeps the group in its container until it is
   * unregistered, so the listener must go when it is told, but not from inside its callback.
   * @see vfio_device_register_notifier, RFC of March 2021
   * @throws SysError EINVAL unless the group is contained, with an IOMMU, and viable; EPERM without an IOMMU of its own;
   *   EEXIST if it is registered already
   */
  *registerDeviceNotifier(block: NotifierBlock<VfioDevice>): Steps<void> {
    const { group } = this;
    yield* group.addContainerUser('vfio_device_register_notifier');
    try {
      yield* this.notifier.register(block);
    } catch (error) {
      yield* group.tryDissolveContainer();
      throw error;
    }
  }

  /** A block that is not registered changes nothing. @throws SysError EDEADLK inside a callback of the chain */
  *unregisterDeviceNotifier(block: NotifierBlock<VfioDevice>): Steps<void> {
    const { group } = this;
    try {
      yield* this.notifier.unregister(block);
    } catch (error) {
      if (isErrno(error, 'ENOENT')) return;
      throw error;
    }
    yield* group.tryDissolveContainer();
  }

  /**
   * Registers with the group's chain (who is the VM) or the IOMMU's (what is unmapped).
   * @param events bits of the chain's events; those known are cleared
   * @throws SysError EINVAL for no events, unknown ones, another type, or a group that cannot be used; ENODEV unless
   *   registered
   */
  *registerNotifier(type: number, events: { mask: number }, block: VfioListener): Steps<void> {
    const call = 'vfio_register_notifier';
    if (events.mask === 0) throw vfioError(call, this.name, 'EINVAL', 'no events asked for');
    const { group } = this;
    if (type === VFIO_GROUP_NOTIFY) {
      yield* group.registerNotifier(events, block as KvmListener);
      return;
    }
    if (type !== VFIO_IOMMU_NOTIFY) throw vfioError(call, this.name, 'EINVAL', `type ${type}`);
    yield* group.addContainerUser(call);
    try {
      const backend = group.container?.backend;
      if (backend !== undefined)
        yield* backend.registerNotifier(events, block as NotifierBlock<DmaUnmapEvent>);
    } finally {
      yield* group.tryDissolveContainer();
    }
  }

  /** @throws SysError EINVAL for another type; ENOENT if it is not registered */
  *unregisterNotifier(type: number, block: VfioListener): Steps<void> {
    const { group } = this;
    if (type === VFIO_GROUP_NOTIFY) {
      yield* group.unregisterNotifier(block as KvmListener);
      return;
    }
    const backend = group.container?.backend;
    if (type !== VFIO_IOMMU_NOTIFY || backend === undefined) {
      throw vfioError('vfio_unregister_notifier', this.name, 'EINVAL', `type ${type}`);
    }
    yield* backend.unregisterNotifier(block as NotifierBlock<DmaUnmapEvent>);
  }
}
