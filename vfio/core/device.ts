/** A registered device: struct vfio_device. After drivers/vfio/vfio_main.c. */
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
import { trySlotReset } from './slot-reset.js';
import { Completion, maybeSteps, type Steps } from './steps.js';
import { tokenOfOptions, VfToken, validateVfToken } from './vf-token.js';

/** Event of a device's own chain: its last user is closing it, and the driver's closeDevice has not run yet. */
export const VFIO_DEVICE_RELEASE = 1 << 0;

/** How often unregister calls the driver's `request`. */
const REQUEST_INTERVAL_MS = 10_000;

/** Options of {@link VfioDevice.unregister}. */
export interface UnregisterOptions {
  /** The caller, for the warning that it is blocked; the running task if absent. */
  readonly task?: { readonly name: string; readonly id: number };
  /** Interrupts the first wait: unregister prints the warning, then waits uninterruptibly. */
  readonly signal?: AbortSignal;
}

/** Listener of either kind that vfio_register_notifier takes. */
export type VfioListener = KvmListener | NotifierBlock<DmaUnmapEvent>;

/** The core's argument of openDevice. A driver that pins pages or registers notifiers declares its parameter so. */
export interface CoreOpenDevice extends OpenDevice {
  /** As {@link OpenDevice.dma}; it can also pin pages. */
  readonly dma: DeviceDmaAccess;
  /** The device being opened. */
  readonly device: VfioDevice;
}

/** A device registered with the core: struct vfio_device. Machine thread only. */
export class VfioDevice {
  /** @internal */
  readonly environment: CoreEnvironment;
  /** @internal */
  readonly registry: CoreRegistry;
  /** The host device behind it. */
  readonly dev: HostDevice;
  /** The driver's functions. */
  readonly ops: VfioDeviceOps;
  /** The driver's private data. */
  readonly data: unknown;
  /** 0 until registered; then one reference of the registration and one per open file. */
  readonly registration: RefCount;
  /** Listeners for VFIO_DEVICE_RELEASE. */
  readonly notifier: SrcuNotifierChain<VfioDevice>;
  /** DMA through the address space that the device is attached to. */
  readonly dma: DeviceDmaAccess;
  /** The driver's regions, placed in the device file. */
  readonly regions: RegionTable;
  /** Guarded by the device set's lock. */
  openCount = 0;
  /** The VM that the device was associated with at its first open; fixed until the last close. */
  kvm: KvmPointer | undefined;
  /** The iommufd that it is bound to by its cdev, and its id there. Guarded by the device set's lock. */
  bound: { readonly context: object; readonly id: number } | undefined;
  /** Whether it was used and has not been reset since. Guarded by the device set's lock. */
  needsReset = false;
  /** @internal Token of a physical function. */
  readonly vfToken: VfToken | undefined;
  #physfnToken: VfToken | undefined;
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
    this.vfToken = ops.pci?.isPhysfn === true ? new VfToken() : undefined;
  }

  /**
   * Initializes a device. Until {@link register}, the last step of a probe, nobody can find it or call its functions,
   * so the driver can set itself up. @see vfio_init_group_dev
   * @internal
   */
  static init(registry: CoreRegistry, dev: HostDevice, ops: VfioDeviceOps, data?: unknown): VfioDevice {
    return new VfioDevice(registry, dev, ops, data);
  }

  /** Name of the host device: a PCI address or a UUID. */
  get name(): string {
    return this.dev.name;
  }

  /** Whether it has a group: from register until unregister has completed. */
  get isRegistered(): boolean {
    return this.#group !== undefined;
  }

  /** Its VFIO group. @throws SysError ENODEV unless it is registered */
  get group(): VfioGroup {
    if (this.#group === undefined)
      throw vfioError('vfio_device', this.name, 'ENODEV', 'it is not registered');
    return this.#group;
  }

  /** A set of its own, unless {@link assignSet} chose another one before it was registered. */
  get set(): DeviceSet {
    if (this.#set === undefined) throw vfioError('vfio_device', this.name, 'ENODEV', 'it is not registered');
    return this.#set;
  }

  /** Whether its group has no other registered device. @throws SysError ENODEV unless it is registered */
  get isAloneInGroup(): boolean {
    return this.group.devices.size <= 1;
  }

  /** Name of its node under /dev/vfio/devices: `vfio0`. */
  get cdev(): string {
    return `vfio${this.#cdevNumber}`;
  }

  /**
   * Whether `name`, the argument of GET_DEVICE_FD, selects it: `NAME`, or for a PCI device `NAME vf_token=UUID`.
   * @throws SysError EINVAL for other options; EINVAL and EACCES as {@link matchToken}
   */
  matches(call: string, name: string): boolean {
    if (name !== this.name && !(this.ops.pci !== undefined && name.startsWith(`${this.name} `))) return false;
    this.matchToken(call, tokenOfOptions(call, this.name, name.slice(this.name.length)));
    return true;
  }

  /**
   * Checks the VF token of an open. @see validateVfToken
   * @throws SysError EACCES for a token that is wrong or missing; EINVAL for one that the device has no use for
   */
  matchToken(call: string, token: string | undefined): void {
    const { pci } = this.ops;
    if (pci !== undefined) {
      const { name, vfToken } = this;
      validateVfToken(call, { name, pci, vfToken, physfnToken: this.#physfnToken }, token);
    } else if (token !== undefined) {
      throw vfioError(call, this.name, 'EINVAL', 'it is not a PCI device: it takes no VF token');
    }
  }

  /** Adds it to the device set of `id`; call it between init and register. @throws SysError ENOMEM */
  assignSet(id: unknown): void {
    this.#set = this.registry.deviceSets.assign(this, id);
    this.#setId = id;
  }

  /**
   * Makes the device available in its group and as a cdev. Its functions may be called as soon as it is on the group's
   * list, before this returns. @see vfio_register_group_dev
   * @throws SysError EINVAL without an IOMMU group; EBUSY if the host device is already registered; ENOMEM
   */
  *register(): Steps<void> {
    const call = 'vfio_register_group_dev';
    using _cause = this.environment.log.span('register', { device: this.name });
    const iommuGroup = this.dev.iommuGroup ?? (yield* this.#noiommuGroup(call));
    let group: VfioGroup | undefined;
    try {
      if (this.#set === undefined) this.assignSet(this.ops.pci?.slot ?? this);
      group = yield* VfioGroup.findOrCreate(this.registry, iommuGroup);
      // The cdev's node and number exist before anyone can find the device, so both of its names appear at once.
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

  /** @see vfio_pci_vf_init */
  #joinPhysfn(): void {
    const { pci } = this.ops;
    if (pci?.physfn !== undefined) this.#physfnToken = this.registry.vfTokens.get(pci.physfn);
    else if (this.vfToken !== undefined) this.registry.vfTokens.set(this.name, this.vfToken);
  }

  /**
   * As {@link register}, for a device without an IOMMU, such as an mdev: it gets a group of its own.
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
      throw vfioError(call, this.name, 'EBUSY', `it is already registered on ${group.target}`);
    }
    // The device now owns the caller's reference to the group.
    this.#group = group;
    this.#unregistered = new Completion(`last user of ${this.name}`);
    this.#cdevNumber = this.registry.cdevNumbers.alloc();
    this.registration.start();
    group.devices.set(this.dev, this);
    this.registry.cdevs.set(this.cdev, this);
    this.#joinPhysfn();
    this.environment.log.event('registered', { device: this.name, group: group.number, cdev: this.cdev });
  }

  /**
   * Removes the device. Calls the driver's `request` every 10 s until the last file is closed; if it was the group's
   * last device, waits until the group is detached from its container. @see vfio_unregister_group_dev
   */
  *unregister(options: UnregisterOptions = {}): Steps<void> {
    const { group } = this;
    using _cause = this.environment.log.span('unregister', { device: this.name, group: group.number });
    // It still has its driver but is no longer on the list; without this entry the group would not be viable.
    group.unbound.add(this.dev);
    {
      using _held = yield* group.deviceLock.acquire();
      group.devices.delete(this.dev);
      this.registry.cdevs.delete(this.cdev);
      if (this.vfToken !== undefined) this.registry.vfTokens.delete(this.name);
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

  /** Drops the reference of a file or of the registration; dropping the last one completes unregister's wait. */
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
   * Counts an open; the first one calls the driver's openDevice. The caller holds the set's lock.
   * @param space the address space of its DMA; its container's if absent, none if null
   * @throws the error that openDevice throws
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
      if (this.#physfnToken !== undefined) this.#physfnToken.users++;
    } catch (error) {
      this.openCount = 0;
      this.kvm = undefined;
      this.dma.forget();
      this.regions.forget();
      throw error;
    }
  }

  /**
   * Counts a close; the last one notifies the device's listeners, then calls the driver's closeDevice. The caller holds
   * the set's lock, and drops its VM reference after releasing it.
   */
  *close(): Steps<void> {
    if (this.openCount > 1) {
      this.openCount--;
      return;
    }
    using _cause = this.environment.log.span('close_device', { device: this.name });
    yield* this.notifier.call(VFIO_DEVICE_RELEASE, this);
    const slot = this.ops.pci?.slot;
    try {
      if (slot !== undefined) this.#resetForClose();
      yield* maybeSteps(this.ops.closeDevice());
    } finally {
      if (this.#physfnToken !== undefined) this.#physfnToken.users--;
      if (slot !== undefined && trySlotReset(this.set, slot))
        this.environment.log.event('hot_reset', { device: this.name });
      this.openCount = 0;
      this.kvm = undefined;
      this.dma.forget();
      this.regions.forget();
    }
  }

  /** A device that cannot reset itself leaves that to its slot. @see vfio_pci_core_disable */
  #resetForClose(): void {
    this.needsReset = true;
    try {
      this.ops.reset?.();
      this.needsReset = this.ops.reset === undefined;
    } catch {
      this.environment.log.event('reset_failed', { device: this.name });
    }
  }

  /**
   * Registers `block` for VFIO_DEVICE_RELEASE. While it is registered, the group stays in its container: unregister it
   * after the event, but not from inside the callback. @see vfio_device_register_notifier, RFC of March 2021
   * @throws SysError EINVAL unless the group is viable, in a container, and the container has an IOMMU; EPERM for a
   *   noiommu group; EEXIST if it is already registered
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

  /**
   * Unregisters `block`; does nothing if it is not registered.
   * @throws SysError EDEADLK inside a callback of the chain
   */
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
   * Registers with the group's chain (VFIO_GROUP_NOTIFY: the VM) or the IOMMU's (VFIO_IOMMU_NOTIFY: unmapped ranges).
   * @param events bits of the chain's events; the known ones are cleared
   * @throws SysError EINVAL for no events, unknown ones, an unknown type, or a group without an IOMMU; ENODEV unless
   *   the device is registered
   */
  *registerNotifier(type: number, events: { mask: number }, block: VfioListener): Steps<void> {
    const call = 'vfio_register_notifier';
    if (events.mask === 0) throw vfioError(call, this.name, 'EINVAL', 'no events requested');
    const { group } = this;
    if (type === VFIO_GROUP_NOTIFY) {
      yield* group.registerNotifier(events, block as KvmListener);
      return;
    }
    if (type !== VFIO_IOMMU_NOTIFY) throw vfioError(call, this.name, 'EINVAL', `type ${type}`);
    const backend = yield* group.addContainerUser(call);
    try {
      yield* backend.registerNotifier(events, block as NotifierBlock<DmaUnmapEvent>);
    } finally {
      yield* group.tryDissolveContainer();
    }
  }

  /** Undoes {@link registerNotifier}. @throws SysError EINVAL for an unknown type; ENOENT if it is not registered */
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
