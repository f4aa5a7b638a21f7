import type { IommuInfo } from '../uapi.js';
import { vfioError } from '../vfio-error.js';
import type { CoreEnvironment } from './environment.js';
import { BlockingNotifierChain, type NotifierBlock } from './notifier.js';
import { RefCount } from './ref-count.js';
import type { Steps } from './steps.js';

/** Events of an IOMMU group's devices; values of linux/iommu.h. */
export const IOMMU_GROUP_NOTIFY_ADD_DEVICE = 1;
export const IOMMU_GROUP_NOTIFY_DEL_DEVICE = 2;
export const IOMMU_GROUP_NOTIFY_BIND_DRIVER = 3;
export const IOMMU_GROUP_NOTIFY_BOUND_DRIVER = 4;
export const IOMMU_GROUP_NOTIFY_UNBIND_DRIVER = 5;
export const IOMMU_GROUP_NOTIFY_UNBOUND_DRIVER = 6;

export const PCI_HEADER_TYPE_NORMAL = 0;
export const PCI_HEADER_TYPE_BRIDGE = 1;

/** A device on a bus of the host: struct device. */
export class HostDevice {
  /** Unique on its bus: `0000:01:00.0`, a UUID. */
  readonly name: string;
  /** Header type of a PCI device. */
  readonly headerType: number;
  /** Name of the bound driver; undefined if none is. */
  driver: string | undefined;
  /** The driver's private data (dev_set_drvdata). */
  drvdata: unknown;
  /** The IOMMU group it is in; undefined if no IOMMU translates its DMA. */
  iommuGroup: IommuGroup | undefined;

  constructor(name: string, headerType = PCI_HEADER_TYPE_NORMAL) {
    this.name = name;
    this.headerType = headerType;
  }

  /** The host binds a driver. Steps notify the group before and after. */
  *bindDriver(driver: string): Steps<void> {
    yield* this.#notify(IOMMU_GROUP_NOTIFY_BIND_DRIVER);
    this.driver = driver;
    yield* this.#notify(IOMMU_GROUP_NOTIFY_BOUND_DRIVER);
  }

  /** The host unbinds the driver. Steps notify the group before and after. */
  *unbindDriver(): Steps<void> {
    yield* this.#notify(IOMMU_GROUP_NOTIFY_UNBIND_DRIVER);
    this.driver = undefined;
    yield* this.#notify(IOMMU_GROUP_NOTIFY_UNBOUND_DRIVER);
  }

  *#notify(event: number): Steps<void> {
    if (this.iommuGroup !== undefined) yield* this.iommuGroup.notify(event, this);
  }
}

/** Capabilities of a group's IOMMU. */
export interface IommuCapabilities {
  /** Whether all DMA snoops the caches, whatever the device requests. */
  readonly isCoherent: boolean;
  /** Empty if any address can be mapped. */
  readonly iovaRanges: IommuInfo['iovaRanges'];
}

/** DMA of an in-process device is memory access by this process: always coherent, at any IOVA. */
export const softwareIommu: IommuCapabilities = { isCoherent: true, iovaRanges: [] };

/** Devices that the IOMMU cannot isolate from each other: struct iommu_group, with its blocking notifier chain. */
export class IommuGroup {
  /** Unique in its core: N of /dev/vfio/N. */
  readonly number: number;
  /** Name for messages: `group 3 (core)`. */
  readonly target: string;
  /** `vfio-noiommu` for the group of a device without an IOMMU. */
  readonly name: string;
  /** Capabilities of its IOMMU. */
  readonly capabilities: IommuCapabilities;
  /** The devices now in the group. */
  readonly devices = new Set<HostDevice>();
  /** One reference of the creator, and one of each VFIO group. */
  readonly refs: RefCount;
  readonly #environment: CoreEnvironment;
  readonly #chain: BlockingNotifierChain<HostDevice>;

  private constructor(
    environment: CoreEnvironment,
    number: number,
    name: string,
    capabilities: IommuCapabilities,
  ) {
    this.#environment = environment;
    this.number = number;
    this.target = `group ${number} (core)`;
    this.name = name;
    this.capabilities = capabilities;
    this.refs = new RefCount(`IOMMU group ${number}`, 1, (text) => environment.warn(text));
    this.#chain = new BlockingNotifierChain(environment, 'iommu_group notifier', `IOMMU group ${number}`);
  }

  /** A group with the lowest free number; the last {@link put} frees it. @throws SysError ENOMEM @internal */
  static alloc(environment: CoreEnvironment, capabilities = softwareIommu, name = ''): IommuGroup {
    environment.allocate('iommu_group');
    return new IommuGroup(environment, environment.iommuGroupNumbers.alloc(), name, capabilities);
  }

  /** Whether its device has no IOMMU. */
  get isNoiommu(): boolean {
    return this.name === 'vfio-noiommu';
  }

  /** Number of registered listeners; tests check that it returns to 0. */
  get listeners(): number {
    return this.#chain.blocks.length;
  }

  /** Drops a reference; the last one frees the group and its number. */
  put(): void {
    if (!this.refs.put()) return;
    this.#environment.iommuGroupNumbers.free(this.number);
    this.#environment.free('iommu_group');
  }

  /** Adds a device and notifies IOMMU_GROUP_NOTIFY_ADD_DEVICE. @throws SysError EBUSY if it is in a group */
  *addDevice(device: HostDevice): Steps<void> {
    if (device.iommuGroup !== undefined) {
      throw vfioError(
        'iommu_group_add_device',
        device.name,
        'EBUSY',
        `it is in group ${device.iommuGroup.number}`,
      );
    }
    device.iommuGroup = this;
    this.devices.add(device);
    yield* this.notify(IOMMU_GROUP_NOTIFY_ADD_DEVICE, device);
  }

  /** Notifies IOMMU_GROUP_NOTIFY_DEL_DEVICE, then removes the device. */
  *removeDevice(device: HostDevice): Steps<void> {
    yield* this.notify(IOMMU_GROUP_NOTIFY_DEL_DEVICE, device);
    this.devices.delete(device);
    device.iommuGroup = undefined;
  }

  /** Calls the listeners in the order of their registration. @param event IOMMU_GROUP_NOTIFY_ */
  *notify(event: number, device: HostDevice): Steps<void> {
    yield* this.#chain.call(event, device);
  }

  /** Registers a listener for IOMMU_GROUP_NOTIFY_ events. @throws SysError EEXIST if it is already registered */
  *registerNotifier(block: NotifierBlock<HostDevice>): Steps<void> {
    yield* this.#chain.register(block);
  }

  /** Works inside a callback too, because any caller may drop the last reference of a VFIO group. */
  *unregisterNotifier(block: NotifierBlock<HostDevice>): Steps<void> {
    if (this.#chain.isCallingMe) this.#chain.drop(block);
    else yield* this.#chain.unregister(block);
  }
}
