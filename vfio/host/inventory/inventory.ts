/** Reads the records of PCI functions from sysfs and /proc. Every call reads anew; nothing is cached. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { isErrno } from '../../../sys/error.js';
import { driverOverride } from '../binding.js';
import { deviceNodes, type HostContext, hostContext } from '../context.js';
import { type Holder, scanHolders } from '../holders.js';
import { type HostMdevType, listMdevTypes } from '../mdev.js';
import { mountPointsOn, readMounts } from '../mounts.js';
import { type HostGroup, list, type SysfsDevice, text } from '../sysfs.js';
import { vfTypesRecord } from '../vf-type.js';
import { assignability } from './assignability.js';
import { hostNames } from './host-names.js';
import { iommuGroupRecord } from './iommu-group.js';
import type {
  PciFunctionRecord,
  PciInventory,
  PciSubsystem,
  PhysfnRecord,
  VirtfnRecord,
} from './pci-function.js';
import { readPciInterrupts } from './pci-interrupts.js';
import { PciNames } from './pci-names.js';
import { parsePciBars } from './pci-resources.js';

/** Another host, as tests have one, or other names. */
export interface InventoryOptions extends Partial<HostContext> {
  /** From the system's pci.ids if absent. */
  readonly names?: PciNames;
}

/** Reads all PCI functions of the host. Needs no rights: what only root may read is `unknown` to others. */
export function readPciInventory(options: InventoryOptions = {}): PciInventory {
  const context = hostContext(options);
  const devices = (list(context.sysfs.path('bus/pci/devices')) ?? []).flatMap(
    (address) => unlessGone(() => context.sysfs.pciDevice(address)) ?? [],
  );
  const { functions, isComplete } = recordsOf(context, devices, options.names);
  return { functions, iommus: list(context.sysfs.path('class/iommu')) ?? [], areUsersComplete: isComplete };
}

/**
 * Reads one PCI function.
 * @param address in full form, as pciAddress returns it
 * @throws SysError ENODEV if there is none
 */
export function readPciFunction(address: string, options: InventoryOptions = {}): PciFunctionRecord {
  const context = hostContext(options);
  const { functions } = recordsOf(context, [context.sysfs.pciDevice(address)], options.names);
  return functions[0] as PciFunctionRecord;
}

/** A device, and where its users would be. */
export interface Found {
  readonly device: SysfsDevice;
  readonly group: HostGroup | undefined;
  /** Files of /dev by which a process has it. */
  readonly nodes: readonly string[];
}

function recordsOf(context: HostContext, devices: readonly SysfsDevice[], names = PciNames.load()) {
  const found = devices.map((device) => findDevice(context, device));
  const { holders, isComplete } = scanHolders(
    context.roots,
    found.flatMap(({ nodes }) => nodes),
  );
  const types = listMdevTypes(context.sysfs);
  const mounts = readMounts(context);
  const functions = found.map((each): PciFunctionRecord => {
    const users = each.nodes.flatMap((node) => holders.get(node) ?? []);
    const distinct = [...new Map(users.map((user) => [user.pid, user])).values()];
    const mdevTypes = types.filter(({ parent }) => parent === each.device.name);
    return record(each, distinct, mdevTypes, mountPointsOn(mounts, each.device.path), names);
  });
  return { functions, isComplete };
}

export function findDevice(context: HostContext, device: SysfsDevice): Found {
  const { group: number } = device;
  const group = number === undefined ? undefined : unlessGone(() => context.sysfs.group(number));
  return {
    device,
    group,
    nodes: deviceNodes(context, device, group),
  };
}

function record(
  { device, group }: Found,
  users: readonly Holder[],
  mdevTypes: readonly HostMdevType[],
  mountPoints: readonly string[],
  names: PciNames,
): PciFunctionRecord {
  const { name: address, path, driver, isVfio, isBridge, cdev, numaNode } = device;
  const attribute = (name: string) => text(join(path, name));
  const [vendor = '', id = ''] = (device.id ?? '').split(':');
  const classId = (device.class ?? '').slice(2);
  const groupRecord = group && iommuGroupRecord(group);
  const vfTypes = vfTypesRecord(device);
  return {
    address,
    vendor: { id: vendor, name: names.vendor(vendor) },
    device: { id, name: names.device(vendor, id) },
    subsystem: subsystemOf(attribute, vendor, id, names),
    class: { id: classId, name: names.class(classId) },
    revision: attribute('revision')?.slice(2),
    isBridge,
    driver,
    isVfio,
    driverOverride: driverOverride(path),
    hostNames: hostNames(path),
    mountPoints,
    group: groupRecord,
    assignability: assignability(device, groupRecord, users, vfTypes),
    // `reset` without `reset_method` is what older kernels have.
    resetMethods: device.resetMethods ?? (existsSync(join(path, 'reset')) ? 'unknown' : []),
    bars: parsePciBars(attribute('resource') ?? ''),
    interrupts: readPciInterrupts(bytes(join(path, 'config'))),
    sriov: sriovOf(device, attribute),
    mdevTypes,
    vfTypes,
    cdev,
    numaNode,
    powerState: attribute('power_state'),
    isD3coldAllowed: flag(attribute('d3cold_allowed')),
    isBootVga: attribute('boot_vga') === '1',
    users,
  };
}

type Attribute = (name: string) => string | undefined;

const flag = (value: string | undefined): boolean | undefined =>
  value === undefined ? undefined : value === '1';

function subsystemOf(
  attribute: Attribute,
  vendor: string,
  device: string,
  names: PciNames,
): PciSubsystem | undefined {
  const [ofVendor, ofDevice] = ['subsystem_vendor', 'subsystem_device'].map((name) =>
    attribute(name)?.slice(2),
  );
  if (ofVendor === undefined || ofDevice === undefined || ofVendor === '0000') return undefined;
  const name = names.subsystem(vendor, device, ofVendor, ofDevice);
  return { vendor: ofVendor, device: ofDevice, name };
}

function sriovOf(
  { physfn, virtfns }: SysfsDevice,
  attribute: Attribute,
): PhysfnRecord | VirtfnRecord | undefined {
  if (physfn !== undefined) return { role: 'virtfn', physfn };
  const total = attribute('sriov_totalvfs');
  if (total === undefined) return undefined;
  return {
    role: 'physfn',
    totalVfs: Number(total),
    numVfs: Number(attribute('sriov_numvfs') ?? 0),
    isAutoprobed: flag(attribute('sriov_drivers_autoprobe')),
    virtfns,
  };
}

/** As much of a file as this user may read. */
function bytes(path: string): Uint8Array {
  try {
    return readFileSync(path);
  } catch {
    return new Uint8Array();
  }
}

/** Undefined for what disappeared between two looks at sysfs. */
export function unlessGone<T>(find: () => T): T | undefined {
  try {
    return find();
  } catch (error) {
    if (isErrno(error, 'ENODEV') || isErrno(error, 'ENOENT')) return undefined;
    throw error;
  }
}
