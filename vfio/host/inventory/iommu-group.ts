/** An IOMMU group as a record: its members, and which of them keep it from being viable. */
import type { HostGroup, SysfsDevice } from '../sysfs.js';
import { isHarmless } from '../viability.js';

/** A member of an IOMMU group. */
export interface GroupMemberRecord {
  /** `0000:01:00.0`, or the name of a device on another bus. */
  readonly name: string;
  /** `pci`, `mdev`, `platform` …; empty if it is not on a bus. */
  readonly bus: string;
  /** Undefined if it has none. */
  readonly driver: string | undefined;
  /** Whether it keeps the group from being viable: a driver of the host has it, which may do DMA. */
  readonly isBlocking: boolean;
  /** Why it does or does not, in a few words. */
  readonly reason: string;
}

/** A range of IOVAs that cannot be mapped for a group's devices, in hexadecimal: `0xfee00000`. */
export interface ReservedRegionRecord {
  /** First byte. */
  readonly start: string;
  /** Last byte. */
  readonly last: string;
  /** `msi`, `direct`, `reserved`, `direct-relaxable` … */
  readonly type: string;
}

/** An IOMMU group: the unit in which the kernel lends devices. */
export interface IommuGroupRecord {
  /** Its number, as in /sys/kernel/iommu_groups. */
  readonly number: number;
  /** Whether VFIO created it for a device without an IOMMU, whose DMA can reach all memory: no guest can use it. */
  readonly isNoiommu: boolean;
  /** Whether no member is blocking. */
  readonly isViable: boolean;
  /** Every device of the group, sorted by name. */
  readonly members: readonly GroupMemberRecord[];
  /** Ranges that cannot be mapped for DMA, as the kernel lists them. */
  readonly reservedRegions: readonly ReservedRegionRecord[];
}

export function iommuGroupRecord({
  number,
  isNoiommu,
  members,
  reservedRegions,
}: HostGroup): IommuGroupRecord {
  const records = members.map(memberRecord);
  return {
    number,
    isNoiommu,
    isViable: records.every(({ isBlocking }) => !isBlocking),
    members: records,
    reservedRegions: reservedRegions.map(({ start, last, type }) => ({
      start: `0x${start.toString(16)}`,
      last: `0x${last.toString(16)}`,
      type,
    })),
  };
}

function memberRecord(member: SysfsDevice): GroupMemberRecord {
  const { name, bus, driver } = member;
  return { name, bus, driver, isBlocking: !isHarmless(member), reason: reasonOf(member) };
}

function reasonOf(member: SysfsDevice): string {
  const { driver, isVfio, isBridge } = member;
  if (driver === undefined) return 'no driver has it';
  if (isVfio) return `${driver} is a VFIO driver`;
  if (isBridge) return 'a bridge does no DMA of its own';
  return isHarmless(member) ? `${driver} does no DMA` : `${driver} of the host has it`;
}
