import type { IommuInfo } from '../uapi.js';
import { vfioError } from '../vfio-error.js';
import type { CoreEnvironment } from './environment.js';
import { BlockingNotifierChain, type NotifierBlock } from './notifier.js';
import { RefCount } from './ref-count.js';
import type { Steps } from './steps.js';

/** What happens to a device of an IOMMU group; values of linux/iommu.h. */
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
  /** Of a PCI device. */
  readonly headerType: number;
  /** Name of the driver that is bound to it. */
  driver: string | undefined;
  /** The driver's own (dev_set_drvdata). */
  drvdata: unknown;
  /** The IOMMU group it is in; undefined if no IOMMU translates its DMA. */
  iommuGroup: IommuGroup | undefined;

  constructor(name: string, headerType = PCI_HEADER_TYPE_NORMAL) {
    this.name = name;
    this.headerType = headerType;
  }

  /** The host binds a driver. Steps tell the group before and after. */
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

/** What a group's IOMMU can do. */
export interface IommuCapabilities {
  /** All DMA snoops the caches, whatever the device asks for. */
  readonly isCoherent: boolean;
  /** Empty if any address can be mapped. */
  readonly iovaRanges: IommuInfo['iovaRanges'];
}

/** DMA of a device in this process is memory access of this process: always coherent, anywhere. */
export const softwareIommu: IommuCapabilities = { isCoherent: true, iovaRanges: [] };

/** Devices that the IOMMU cannot tell apart: struct iommu_group, with its blocking notifier chain. */
export class IommuGroup {
  /** Unique in its core: N of /dev/vfio/N. */
  readonly number: number;
  /** For messages: `group 3 (core)`, as its user sees it. */
  readonly target: string;
  /** `vfio-noiommu` for one that stands for the lack of an IOMMU. */
  readonly name: string;
  /** What the IOMMU behind it can do. */
  readonly capabilities: IommuCapabilities;
  /** The devices in it now. */
  readonly devices = new Set<HostDevice>();
  /** The maker's and each VFIO group's. */
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

  /** The lowest number that is free becomes its own. Freed by the last {@link put}. @throws SysError ENOMEM */
  static alloc(environment: CoreEnvironment, capabilities = softwareIommu, name = ''): IommuGroup {
    environment.allocate('iommu_group');
    return new IommuGroup(environment, environment.iommuGroupNumbers.alloc(), name, capabilities);
  }

  /** Whether it stands for the lack of an IOMMU. */
  get isNoiommu(): boolean {
    return this.name === 'vfio-noiommu';
  }

  /** Number of listeners, for tests of their balance. */
  get listeners(): number {
    return this.#chain.blocks.length;
  }

  /** Drops a reference; the last one frees the group and its number. */
  put(): void {
    if (!this.refs.put()) return;
    this.#environment.iommuGroupNumbers.free(this.number);
    this.#environment.free('iommu_group');
  }

  /** @throws SysError EBUSY if it is in a group */
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

  /** Adds a listener for IOMMU_GROUP_NOTIFY_ events. @throws SysError EEXIST if it is registered */
  *registerNotifier(block: NotifierBlock<HostDevice>): Steps<void> {
    yield* this.#chain.register(block);
  }

  /** Works inside a callback too: the last put of a VFIO group may come from anywhere. */
  *unregisterNotifier(block: NotifierBlock<HostDevice>): Steps<void> {
    if (this.#chain.isCallingMe) this.#chain.drop(block);
    else yield* this.#chain.unregister(block);
  }
}
