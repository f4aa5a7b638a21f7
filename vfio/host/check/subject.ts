/** What rules look at: the request, and what the host says of each device and group in it. */
import type { SysError } from '../../../sys/error.js';
import type { HostContext } from '../context.js';
import type { PciFunctionRecord } from '../inventory/pci-function.js';
import type { HostGroup, SysfsDevice } from '../sysfs.js';
import type { CheckFinding, CheckRuleName } from './finding.js';
import type { NodeProbe } from './node-probe.js';

/** A range of guest physical addresses that holds RAM. */
export interface GuestRange {
  /** First byte. */
  readonly base: bigint;
  /** Length of the range. */
  readonly bytes: bigint;
}

/** The way in which a device is opened: by its group and a container, or by its cdev and an iommufd. */
export type CheckInterface = 'group' | 'iommufd';

/** All that is to be assigned to one machine. */
export interface CheckedMachine {
  readonly context: HostContext;
  readonly probe: NodeProbe;
  readonly devices: readonly CheckedDevice[];
  /** The guest's RAM; undefined if it is not known. */
  readonly memory: readonly GuestRange[] | undefined;
  /** How a shell calls the process that will lock the guest's memory: `$$`, or a number. */
  readonly lockingProcess: string;
}

/** One device of the request. */
export interface CheckedDevice {
  /** As it was given. */
  readonly address: string;
  readonly options: Readonly<Record<string, string>>;
  readonly interface: CheckInterface;
  /** Undefined if there is no such device, or if it is yet to be made. */
  readonly device: SysfsDevice | undefined;
  /** Why there is no `device`; undefined for one that is yet to be made. */
  readonly missing: SysError | undefined;
  /** Undefined if it is behind no IOMMU. */
  readonly group: HostGroup | undefined;
  /** Reads the record when it is first called; undefined if it is no PCI function. */
  readonly pci: () => PciFunctionRecord | undefined;
}

/** A group of the request, with those of its members that are to be assigned. */
export interface CheckedGroup {
  readonly group: HostGroup;
  readonly devices: readonly CheckedMember[];
}

/** A device that is there, and in a group. */
export interface CheckedMember extends CheckedDevice {
  readonly device: SysfsDevice;
}

/** A rule about the host, a device or a group. */
export interface Rule<Subject> {
  readonly name: CheckRuleName;
  /** Undefined if the rule does not apply. Opens nothing, changes nothing. */
  check(subject: Subject, machine: CheckedMachine): CheckFinding | undefined;
  /**
   * The error of the call that would fail, for a `run` that is refused before anything starts; absent for a rule whose
   * failure the kernel reports itself, or may not report.
   */
  refusal?(subject: Subject, machine: CheckedMachine): SysError | undefined;
}
