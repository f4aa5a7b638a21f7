/** A VFIO group: its user, its container and its VM. After drivers/vfio/group.c. */

import type { KvmPointer } from '../driver.js';
import { VFIO_GROUP_NOTIFY, VFIO_GROUP_NOTIFY_SET_KVM } from '../group-notify.js';
import { HARMLESS_DRIVERS } from '../harmless-drivers.js';
import { vfioError } from '../vfio-error.js';
import type { Container } from './container.js';
import type { VfioDevice } from './device.js';
import type { CoreEnvironment } from './environment.js';
import type { IommuBackend } from './iommu-driver.js';
import {
  type HostDevice,
  IOMMU_GROUP_NOTIFY_ADD_DEVICE,
  IOMMU_GROUP_NOTIFY_BOUND_DRIVER,
  IOMMU_GROUP_NOTIFY_UNBOUND_DRIVER,
  type IommuGroup,
  PCI_HEADER_TYPE_NORMAL,
} from './iommu-group.js';
import { Mutex, RwSemaphore } from './locks.js';
import { BlockingNotifierChain, type NotifierBlock } from './notifier.js';
import { RefCount } from './ref-count.js';
import type { CoreRegistry } from './registry.js';
import { type Steps, WaitQueue } from './steps.js';

export const VFIO_IOMMU_NOTIFY = 0;
export { VFIO_GROUP_NOTIFY, VFIO_GROUP_NOTIFY_SET_KVM };

/** Listener for {@link VFIO_GROUP_NOTIFY}. Its data is the VM that the group is associated with, or null. */
export type KvmListener = NotifierBlock<KvmPointer | null>;

export class VfioGroup {
  readonly environment: CoreEnvironment;
  readonly registry: CoreRegistry;
  readonly iommuGroup: IommuGroup;
  readonly number: number;
  /** Name for messages: `group 3 (core)`. */
  readonly target: string;
  /** One reference of each device, of each open file, and of each operation in progress. */
  readonly refs: RefCount;
  /** Guards {@link openedFile}, {@link container} and {@link containerUsers}. */
  readonly groupRwsem: RwSemaphore;
  /** Guards {@link devices}. */
  readonly deviceLock: Mutex;
  /**
   * Makes {write the cache, call the chain} and {read the cache, replay or take a reference} atomic: without it, a
   * listener or an open could get a VM whose association has just ended.
   */
  readonly kvmLock: Mutex;
  /** Registered devices, by host device. */
  readonly devices = new Map<HostDevice, VfioDevice>();
  /**
   * Devices already removed from {@link devices} whose driver is still bound; they do not make the group non-viable.
   */
  readonly unbound = new Set<HostDevice>();
  readonly notifier: BlockingNotifierChain<KvmPointer | null>;
  /** The open group file; undefined while the group is not open. */
  openedFile: object | undefined;
  container: Container | undefined;
  /** One for the group being in a container, one per open device, one per device notifier. */
  containerUsers = 0;
  /** Number of devices bound by cdev; the group cannot be opened while there are any. */
  cdevOpenCount = 0;
  readonly containerGone = new WaitQueue();
  readonly #minor: number;
  readonly #iommuNotifier: NotifierBlock<HostDevice>;
  #kvm: KvmPointer | null = null;

  private constructor(registry: CoreRegistry, iommuGroup: IommuGroup, minor: number) {
    const of = `group ${iommuGroup.number}`;
    this.environment = registry.environment;
    this.registry = registry;
    this.iommuGroup = iommuGroup;
    this.number = iommuGroup.number;
    this.#minor = minor;
    this.target = iommuGroup.target;
    this.refs = new RefCount(of, 1, (text) => this.environment.warn(text));
    this.groupRwsem = new RwSemaphore(registry.environment, 'group_rwsem', of);
    this.deviceLock = new Mutex(registry.environment, 'device_lock', of);
    this.kvmLock = new Mutex(registry.environment, 'kvm_lock', of);
    this.notifier = new BlockingNotifierChain(registry.environment, 'group notifier', of);
    this.#iommuNotifier = {
      name: `vfio ${of}`,
      call: (event, device) => this.iommuGroupEvent(event, device),
    };
  }

  /**
   * The group of an IOMMU group, created if necessary, with a reference for the caller. @see vfio_group_find_or_alloc
   * @throws SysError ENOMEM
   */
  static *findOrCreate(registry: CoreRegistry, iommuGroup: IommuGroup): Steps<VfioGroup> {
    const known = yield* VfioGroup.#find(registry, iommuGroup);
    if (known !== undefined) return known;
    registry.environment.allocate('vfio_group');
    const group = new VfioGroup(registry, iommuGroup, registry.groupMinors.alloc());
    iommuGroup.refs.get();
    // Not under the list's lock: a callback of this chain may drop a group's last reference, which takes that lock.
    yield* iommuGroup.registerNotifier(group.#iommuNotifier);
    yield 'vfio_create_group: before the list';
    const earlier = yield* VfioGroup.#find(registry, iommuGroup, group);
    if (earlier === undefined) return group;
    yield* group.#free();
    return earlier;
  }

  /** The group on the list, with a reference; if there is none, adds `next` and returns undefined. */
  static *#find(
    registry: CoreRegistry,
    iommuGroup: IommuGroup,
    next?: VfioGroup,
  ): Steps<VfioGroup | undefined> {
    using _held = yield* registry.groupLock.acquire();
    const known = registry.groups.get(iommuGroup.number);
    if (known?.refs.getUnlessZero()) return known;
    if (next === undefined) return undefined;
    registry.groups.set(next.number, next);
    registry.environment.log.event('create_group', { group: next.number });
    return undefined;
  }

  /** The VM that the group is associated with; null for none. */
  get kvm(): KvmPointer | null {
    return this.#kvm;
  }

  /** Drops a reference. Dropping the last one frees the group before this returns, in any context. */
  *put(): Steps<void> {
    if (this.refs.count > 1) {
      this.refs.put();
      return;
    }
    {
      // As kref_put_mutex: the list is locked before the count can reach 0, so that nobody finds a dead group on it.
      using _held = yield* this.registry.groupLock.acquire();
      if (!this.refs.put()) return;
      this.#warnUnbalanced();
      this.environment.log.event('group_remove_node', { group: this.number });
      this.registry.groups.delete(this.number);
      this.environment.log.event('group_list_del', { group: this.number });
    }
    yield 'vfio_group_release: off the list';
    yield* this.#free();
  }

  *#free(): Steps<void> {
    this.registry.groupMinors.free(this.#minor);
    this.environment.log.event('group_free_minor', { group: this.number });
    yield* this.iommuGroup.unregisterNotifier(this.#iommuNotifier);
    this.environment.log.event('group_unregister_notifier', { group: this.number });
    this.unbound.clear();
    this.environment.log.event('group_free_unbound', { group: this.number });
    this.environment.free('vfio_group');
    this.environment.log.event('group_free', { group: this.number });
    this.iommuGroup.put();
  }

  #warnUnbalanced(): void {
    const names = [...this.devices.values()].map(({ name }) => name);
    if (names.length > 0)
      this.environment.warn(`${this.target} is released with devices: ${names.join(', ')}`);
    if (this.containerUsers > 0) {
      this.environment.warn(`${this.target} is released with ${this.containerUsers} container users`);
    }
    const listeners = this.notifier.blocks.map(({ name }) => name);
    if (listeners.length > 0)
      this.environment.warn(`${this.target} is released with listeners: ${listeners.join(', ')}`);
  }

  /** Whether no device of the IOMMU group has a host driver that could do DMA in the user's address space. */
  isViable(): boolean {
    for (const device of this.iommuGroup.devices) if (!this.#isDeviceViable(device)) return false;
    return true;
  }

  /** @see vfio_dev_viable */
  #isDeviceViable(device: HostDevice): boolean {
    return (
      device.driver === undefined ||
      this.unbound.has(device) ||
      device.headerType !== PCI_HEADER_TYPE_NORMAL ||
      HARMLESS_DRIVERS.includes(device.driver) ||
      this.devices.has(device)
    );
  }

  /**
   * Handles the host's events of the group's devices. Needs no reference: the callback runs only while it is
   * registered, and a group that is not on the list has neither devices nor users. @see vfio_iommu_group_notifier
   */
  iommuGroupEvent(event: number, device: HostDevice): void {
    this.environment.log.event('iommu_group_event', { group: this.number, event, device: device.name });
    if (event === IOMMU_GROUP_NOTIFY_UNBOUND_DRIVER) this.unbound.delete(device);
    if (this.containerUsers === 0) return;
    if (event === IOMMU_GROUP_NOTIFY_ADD_DEVICE) {
      this.environment.warn(`${device.name}: device added to live group ${this.number}`);
    } else if (event === IOMMU_GROUP_NOTIFY_BOUND_DRIVER && !this.isViable()) {
      // Linux stopped here with BUG_ON up to 5.18: the user's DMA and the driver's now share an address space.
      this.environment.log.event('isolation_violation', {
        group: this.number,
        device: device.name,
        driver: device.driver,
      });
      this.environment.warn(
        `${device.name}: driver ${device.driver} bound in live group ${this.number}, isolation is lost`,
      );
    }
  }

  /** Associates the group with a VM, or with none: caches it and notifies all listeners. @see vfio_group_set_kvm */
  *setKvm(kvm: KvmPointer | null): Steps<void> {
    using _cause = this.environment.log.span('set_kvm', {
      group: this.number,
      kvm: this.environment.kvmName(kvm),
    });
    using _held = yield* this.kvmLock.acquire();
    this.#kvm = kvm;
    yield 'vfio_group_set_kvm: cached';
    yield* this.notifier.call(VFIO_GROUP_NOTIFY_SET_KVM, kvm);
  }

  /** The group's VM, with a reference for the caller; undefined if there is none, or if it is being destroyed. */
  *getKvmSafe(): Steps<KvmPointer | undefined> {
    using _held = yield* this.kvmLock.acquire();
    const kvm = this.#kvm;
    yield 'vfio_device_group_get_kvm_safe: read the cache';
    return kvm?.getUnlessDying() ? kvm : undefined;
  }

  /**
   * Registers `block` for changes of the VM and, if there is a VM now, replays its SET_KVM event to `block` alone.
   * Linux 4.10 to 5.18 called the whole chain for the replay, although only the new listener needs it.
   * @param events VFIO_GROUP_NOTIFY_SET_KVM; the known bits are cleared
   * @throws SysError EINVAL for unknown events or a group without an IOMMU; EEXIST if it is already registered; EDEADLK
   *   inside a callback
   */
  *registerNotifier(events: { mask: number }, block: KvmListener): Steps<void> {
    const call = 'vfio_register_notifier';
    const isSetKvm = (events.mask & VFIO_GROUP_NOTIFY_SET_KVM) !== 0;
    events.mask &= ~VFIO_GROUP_NOTIFY_SET_KVM;
    if (events.mask !== 0) {
      throw vfioError(call, this.target, 'EINVAL', `unknown events 0x${events.mask.toString(16)}`);
    }
    if (this.kvmLock.isMine)
      throw vfioError(call, this.target, 'EDEADLK', 'not allowed inside a SET_KVM callback');
    yield* this.#addTransientUser(call);
    try {
      using _held = yield* this.kvmLock.acquire();
      yield* this.notifier.register(block);
      const kvm = this.#kvm;
      this.environment.log.event('register_notifier', { group: this.number, listener: block.name });
      if (!isSetKvm || kvm === null) return;
      yield 'vfio_register_notifier: before the replay';
      using _cause = this.environment.log.span('replay', {
        group: this.number,
        listener: block.name,
        kvm: this.environment.kvmName(kvm),
      });
      yield* this.notifier.tell(block, VFIO_GROUP_NOTIFY_SET_KVM, kvm);
    } finally {
      yield* this.tryDissolveContainer();
    }
  }

  /** @throws SysError ENOENT if it is not registered; EDEADLK inside a callback */
  *unregisterNotifier(block: KvmListener): Steps<void> {
    const call = 'vfio_unregister_notifier';
    if (this.kvmLock.isMine)
      throw vfioError(call, this.target, 'EDEADLK', 'not allowed inside a SET_KVM callback');
    yield* this.notifier.unregister(block);
    this.environment.log.event('unregister_notifier', { group: this.number, listener: block.name });
  }

  /** As {@link addContainerUser}, but reports every failure as EINVAL. */
  *#addTransientUser(call: string): Steps<void> {
    try {
      yield* this.addContainerUser(call);
    } catch (error) {
      throw vfioError(call, this.target, 'EINVAL', error instanceof Error ? error.message : undefined);
    }
  }

  /**
   * Keeps the group in its container until {@link tryDissolveContainer}. Returns the container's IOMMU.
   * @see vfio_group_add_container_user
   * @throws SysError EINVAL if the group has no container, its container no IOMMU, or the group is not viable; EPERM
   *   for a noiommu group
   */
  *addContainerUser(call: string): Steps<IommuBackend> {
    using _held = yield* this.groupRwsem.write();
    if (this.containerUsers === 0)
      throw vfioError(call, this.target, 'EINVAL', 'the group is in no container');
    if (this.iommuGroup.isNoiommu) throw vfioError(call, this.target, 'EPERM', 'the group has no IOMMU');
    const backend = this.checkUsable(call);
    this.containerUsers++;
    return backend;
  }

  /** Returns its container's IOMMU. @throws SysError EINVAL if there is none, or the group is not viable */
  checkUsable(call: string): IommuBackend {
    const backend = this.container?.backend;
    if (backend === undefined) {
      throw vfioError(call, this.target, 'EINVAL', 'put the group into a container and set its IOMMU first');
    }
    if (!this.isViable()) throw vfioError(call, this.target, 'EINVAL', this.viabilityHint());
    return backend;
  }

  /** Names of its devices' listeners, `mtty (device x)`; each listener keeps the group in its container. */
  deviceListeners(): readonly string[] {
    return [...this.devices.values()].flatMap(({ name, notifier }) =>
      notifier.blocks.map((block) => `${block.name} (device ${name})`),
    );
  }

  viabilityHint(): string {
    const bad = [...this.iommuGroup.devices].filter((device) => !this.#isDeviceViable(device));
    const names = bad.map(({ name, driver }) => `${name} (${driver})`).join(', ');
    return `the group is not viable: unbind the host's driver from ${names}`;
  }

  /** Drops a container user; dropping the last one detaches the group from its container. */
  *tryDissolveContainer(): Steps<void> {
    using _held = yield* this.groupRwsem.write();
    yield* this.dissolve();
  }

  /** As {@link tryDissolveContainer}; the caller holds {@link groupRwsem}. */
  *dissolve(): Steps<void> {
    if (this.containerUsers === 0 || --this.containerUsers > 0) return;
    yield* this.detachContainer();
  }

  /** The caller holds {@link groupRwsem}; no container users are left. */
  *detachContainer(): Steps<void> {
    const { container } = this;
    if (container === undefined) return;
    yield* container.detachGroup(this.iommuGroup);
    this.container = undefined;
    this.environment.log.event('unset_container', { group: this.number });
    this.containerGone.wake();
    container.put();
  }
}
