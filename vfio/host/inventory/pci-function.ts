/** A PCI function of the host as a record that can be printed, and sent as JSON. */
import type { Holder } from '../holders.js';
import type { HostMdevType } from '../mdev.js';
import type { VfTypesRecord } from '../vf-type.js';
import type { Assignability } from './assignability.js';
import type { IommuGroupRecord } from './iommu-group.js';
import type { PciInterrupts } from './pci-interrupts.js';
import type { PciBar } from './pci-resources.js';

/** A number, and its name in the host's pci.ids. */
export interface NamedId {
  /** Hexadecimal digits in lower case: `8086`, of a class `020000`. */
  readonly id: string;
  /** Undefined if pci.ids has none, or is not installed. May contain whatever that file does. */
  readonly name: string | undefined;
}

/** The card that a PCI function is on. */
export interface PciSubsystem {
  /** Hexadecimal digits of the vendor that made it. */
  readonly vendor: string;
  /** Hexadecimal digits of the card. */
  readonly device: string;
  /** As {@link NamedId.name}. */
  readonly name: string | undefined;
}

/** A physical function with SR-IOV. */
export interface PhysfnRecord {
  /** Tells it from a {@link VirtfnRecord}. */
  readonly role: 'physfn';
  /** Most VFs that it can have. */
  readonly totalVfs: number;
  /** VFs that it has now. */
  readonly numVfs: number;
  /** Whether the kernel binds drivers to new VFs; undefined if it does not say. */
  readonly isAutoprobed: boolean | undefined;
  /** Addresses of its VFs, in order. */
  readonly virtfns: readonly string[];
}

/** A virtual function. */
export interface VirtfnRecord {
  /** Tells it from a {@link PhysfnRecord}. */
  readonly role: 'virtfn';
  /** Address of its physical function. */
  readonly physfn: string;
}

/** A PCI function of the host. In JSON, members that are undefined are left out. */
export interface PciFunctionRecord {
  /** Its address in full form: `0000:01:00.0`. */
  readonly address: string;
  /** Who made the chip. */
  readonly vendor: NamedId;
  /** What it is. */
  readonly device: NamedId;
  /** Undefined if the function does not name a card. */
  readonly subsystem: PciSubsystem | undefined;
  /** What it does. */
  readonly class: NamedId;
  /** Two hexadecimal digits; undefined if the kernel does not say. */
  readonly revision: string | undefined;
  /** Whether it is a PCI bridge. */
  readonly isBridge: boolean;
  /** Undefined if none is bound. */
  readonly driver: string | undefined;
  /** Whether its driver is a VFIO driver: vfio-pci, or a variant of it. */
  readonly isVfio: boolean;
  /** The only driver that may bind; undefined if any may. */
  readonly driverOverride: string | undefined;
  /** What the host's driver made of it: `net/eth0`, `nvme/nvme0`. */
  readonly hostNames: readonly string[];
  /** Where the host has mounted file systems of it, as /proc/self/mountinfo writes that. */
  readonly mountPoints: readonly string[];
  /** Undefined if it is behind no IOMMU. */
  readonly group: IommuGroupRecord | undefined;
  /** Whether it can be assigned as it is, and if not, why. */
  readonly assignability: Assignability;
  /** In the order in which the kernel tries them; empty if it cannot be reset; `unknown` before Linux 5.15. */
  readonly resetMethods: readonly string[] | 'unknown';
  /** BARs and ROM. */
  readonly bars: readonly PciBar[];
  /** How many of each kind it has. */
  readonly interrupts: PciInterrupts;
  /** Undefined if it is neither a physical function with SR-IOV nor a VF. */
  readonly sriov: PhysfnRecord | VirtfnRecord | undefined;
  /** Types of mediated devices that its driver offers. */
  readonly mdevTypes: readonly HostMdevType[];
  /** For a VF whose driver makes it a vGPU: its types; undefined for any other function. */
  readonly vfTypes: VfTypesRecord | undefined;
  /** Its node in /dev/vfio/devices, `vfio3`; undefined if it has none. */
  readonly cdev: string | undefined;
  /** Undefined if the platform does not report it. */
  readonly numaNode: number | undefined;
  /** `D0`, `D3hot`, `D3cold` …; undefined before Linux 5.12. */
  readonly powerState: string | undefined;
  /** Whether the kernel may remove its power while it is idle; undefined if it does not say. */
  readonly isD3coldAllowed: boolean | undefined;
  /** Whether the firmware displayed on it. */
  readonly isBootVga: boolean;
  /** Processes that have its group or its cdev open, as far as this user may see. */
  readonly users: readonly Holder[];
}

/** All PCI functions of a host. */
export interface PciInventory {
  /** Sorted by address. */
  readonly functions: readonly PciFunctionRecord[];
  /** The IOMMUs that the kernel uses: `dmar0`, `ivhd0`; empty without one. */
  readonly iommus: readonly string[];
  /** False if this user may not see which files some process has open: `users` may then lack some. */
  readonly areUsersComplete: boolean;
}
