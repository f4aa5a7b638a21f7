/** Where devices come from: a provider behind the calls of uapi.ts. */
import type { InputEvent, InputKind, MdevParentState } from './driver.js';
import type { VfioFileOps } from './file-ops.js';
import type { SriovFunctions } from './sriov.js';
import type { CdevFile, ContainerFile, GroupFile, IommufdFile } from './uapi.js';

/** A device that a provider found, or created if it is mediated; disposing undoes that. No file of it is open yet. */
export interface AssignableDevice extends Disposable {
  /** Name for VFIO_GROUP_GET_DEVICE_FD: a PCI address, a UUID or a socket's path. */
  readonly name: string;
  /** Number of its IOMMU group. */
  readonly group: number;
  /** Name of its cdev, `vfioN`; absent if it has none. */
  readonly cdev?: string;
  /** UUID to pass to bindIommufd, for a VF whose physical function has a user; `name` has it for GET_DEVICE_FD. */
  readonly vfToken?: string;
  /** True if no IOMMU translates its DMA: a user-space driver can use it, a guest cannot. */
  readonly isNoiommu?: boolean;
  /**
   * True if there is no DMA of it, and its driver asks for none, while its PCI_COMMAND_MASTER is off: so of a PCI device of the
   * kernel's. Guest memory need not be mapped for it before.
   */
  readonly waitsForMastering?: boolean;
  /** One readable line: what the device is, and its source. */
  readonly description: string;
  /** The device's own statistics by name, such as packets and doorbells; absent if it keeps none. */
  counters?(): Readonly<Record<string, number>>;
  /**
   * How many interrupts it has sent by each MSI or MSI-X vector; absent if it keeps no count. Those of the kernel's drivers and of
   * other processes go from their eventfd into KVM, where nobody counts them.
   */
  vectorCounts?(): readonly number[];
  /**
   * Gives the device faults, for tests: a text that its driver knows, as `removed` or `slow:500+ignore-mask` of the test card; `none`
   * takes all away. Absent if it has none to give. Machine thread only. @throws SysError EINVAL for another text, with the faults
   * that there are
   */
  inject?(faults: string): void;
  /**
   * Sends the guest a packet of events at one instant, of a keyboard or a pointer; all of it, or none if its driver is not there or does
   * not take events as fast. Absent if the device is none. Machine thread only. @throws SysError EINVAL for an event that it does not
   * have
   */
  input?(events: readonly InputEvent[]): void;
  /** What a person's keys and pointer are sent to; absent for none, and for a device whose events are its driver's own. */
  readonly inputKind?: InputKind;
  /**
   * The virtual functions that a guest can enable while it runs; absent if it has none, and for devices of the kernel and of other
   * processes, whose VFs belong to their host.
   */
  readonly sriov?: SriovFunctions<AssignableDevice>;
  /** The account of the device that it is a part of, as it is now; absent if it is a part of none. Machine thread only. */
  parent?(): MdevParentState;
}

/** The group interface of a provider. */
export interface VfioGroups {
  /** @throws SysError ENODEV if VFIO is not available; EACCES */
  openContainer(): ContainerFile;
  /** @throws SysError ENODEV for an unknown group; EBUSY if the group is already open; EACCES */
  openGroup(group: number): GroupFile;
}

/** The cdev interface of a provider. */
export interface VfioCdevs {
  /** @throws SysError ENODEV if iommufd is not available; EACCES */
  openIommufd(): IommufdFile;
  /** @throws SysError ENODEV for an unknown node; EACCES */
  openCdev(node: string): CdevFile;
}

/** A device as a caller asks for it: an address and its options. */
export interface RequestedDevice {
  /** In the form of its provider ({@link VfioProvider.matches}). */
  readonly address: string;
  /** The options after the address, by name. */
  readonly options?: Readonly<Record<string, string>> | undefined;
}

/** A source of VFIO devices: the in-process core, the kernel, vfio-user servers, or a plug-in's. */
export interface VfioProvider {
  /** Name for messages: `core`, `host`, `vfio-user`. */
  readonly name: string;
  /** Form of its addresses, for messages: `a PCI address such as 0000:01:00.0`. */
  readonly addresses: string;
  /**
   * Addresses that are words, and the beginnings of others up to a colon: `virtio-net`, `mdev:`. For suggestions to a person
   * who has mistyped one; absent: there are none.
   */
  readonly names?: readonly string[];
  /** True if other processes map guest memory for its devices; guest RAM must then be a memory file (a memfd). */
  readonly needsSharedMemory?: boolean;
  /**
   * Calls that kvm-vfio makes on files without a kernel descriptor; absent if all files of this provider have one, or
   * if its devices cannot be associated with a VM.
   */
  readonly fileOps?: VfioFileOps;
  /** Whether `address` has this provider's form. Opens nothing. */
  matches(address: string): boolean;
  /**
   * What is wrong with an address or its options by themselves, whatever the host has; undefined if nothing is. Opens
   * nothing: it is called before a machine starts. Absent: `resolve` finds out.
   */
  checkOptions?(address: string, options: Readonly<Record<string, string>>): string | undefined;
  /**
   * Called before devices that belong together are resolved, one after the other: does for all of them what the first of
   * them depends on, such as binding the other functions of its IOMMU group. The result is disposed when the last is
   * attached, or one has failed; what a resolved device still needs lasts as long as that device. Absent: nothing is to do.
   * @throws SysError after undoing what was done
   */
  prepare?(devices: readonly RequestedDevice[]): Disposable;
  /**
   * Finds the device, or creates one if `address` is a type of mediated device.
   * @throws SysError ENODEV if no such device exists; EUSERS or ENOSPC if its parent has no instance left; EINVAL for an option
   *   that is unknown or invalid
   */
  resolve(address: string, options: Readonly<Record<string, string>>): AssignableDevice;
  /** The group interface: containers and groups; absent if the provider has none. */
  readonly groups?: VfioGroups;
  /** The cdev interface; absent if the provider has none. */
  readonly cdevs?: VfioCdevs;
}

/** Token under which a machine's providers are registered. */
export const VfioProvider = Symbol('VfioProvider');
