/** Devices and IOMMU groups in sysfs. Every call reads anew; nothing is cached. */
import { existsSync, readdirSync, readFileSync, readlinkSync, realpathSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { errno } from '../../sys/errno.js';
import { fromNodeError, SysError } from '../../sys/error.js';

/** A device of the host: a PCI function, a mediated device, or another member of an IOMMU group. */
export interface SysfsDevice {
  /** `0000:01:00.0`, or a UUID. */
  readonly name: string;
  /** `pci`, `mdev`, `platform` …; empty if it is not on a bus. */
  readonly bus: string;
  /** Its folder, symbolic links resolved. */
  readonly path: string;
  /** Name of the driver that is bound to it; undefined if there is none. */
  readonly driver: string | undefined;
  /** Whether its driver is a VFIO driver: vfio-pci, a variant of it, or an mdev driver. */
  readonly isVfio: boolean;
  /** Whether it is a PCI bridge: bridges do no DMA of their own, so the host may keep them bound. */
  readonly isBridge: boolean;
  /** IOMMU group; undefined if the device is behind no IOMMU. */
  readonly group: number | undefined;
  /** Name of its character device, `vfioN`; undefined if it has none. */
  readonly cdev: string | undefined;
  /** PCI vendor and device ID, `8086:10d3`; undefined if it is not a PCI device. */
  readonly id: string | undefined;
  /** PCI class as sysfs writes it, `0x020000`. */
  readonly class: string | undefined;
  /** Reset methods in the kernel's order: `flr`, `pm`, `bus`; undefined if it has none, or before Linux 5.15. */
  readonly resetMethods: readonly string[] | undefined;
  /** Undefined if the platform does not report it. */
  readonly numaNode: number | undefined;
  /** For a VF: the address of its physical function. */
  readonly physfn: string | undefined;
  /** For a PF: its VFs' addresses, in order. */
  readonly virtfns: readonly string[];
}

/** A range of IOVAs that cannot be mapped for a group's devices. */
export interface ReservedRegion {
  /** First byte. */
  readonly start: bigint;
  /** Last byte. */
  readonly last: bigint;
  /** `msi`, `direct`, `reserved`, `direct-relaxable` … */
  readonly type: string;
}

/** An IOMMU group with all its members. */
export interface HostGroup {
  /** Its number, as in /sys/kernel/iommu_groups. */
  readonly number: number;
  /** Whether VFIO created it for a device without an IOMMU, whose DMA can reach all memory. */
  readonly isNoiommu: boolean;
  /** Every device of the group, sorted by name. */
  readonly members: readonly SysfsDevice[];
  /** Ranges that cannot be mapped for DMA, as the kernel lists them. */
  readonly reservedRegions: readonly ReservedRegion[];
}

/** Writes a sysfs file; tests replace it, as no kernel reacts to their writes. */
export type WriteAttribute = (path: string, text: string) => void;

const PCI_CLASS_BRIDGE = /^0x0604/;
const PCI_HEADER_TYPE = 0x0e;
const PCI_HEADER_TYPE_MASK = 0x7f;

/** A directory tree with the layout of /sys. */
export class Sysfs {
  /** The tree's root folder. */
  readonly root: string;
  readonly #write: WriteAttribute;

  constructor(root = '/sys', write: WriteAttribute = (path, text) => writeFileSync(path, text)) {
    this.root = root;
    this.#write = write;
  }

  /** Path below the root. */
  path(...parts: string[]): string {
    return join(this.root, ...parts);
  }

  /** Whether a path below the root exists. */
  exists(...parts: string[]): boolean {
    return existsSync(this.path(...parts));
  }

  /**
   * Writes an attribute: the kernel acts on it before this returns.
   * @param path absolute
   * @throws SysError with the errno of write(2)
   */
  write(path: string, text: string, hint?: string): void {
    try {
      this.#write(path, text);
    } catch (error) {
      throw fromNodeError(error, 'write', `${path} ('${text.trim()}')`, hint);
    }
  }

  /** A PCI function by address, in full form. @throws SysError ENODEV if there is none */
  pciDevice(address: string): SysfsDevice {
    return this.#find(this.path('bus/pci/devices', address), `PCI device ${address}`, 'devices');
  }

  /** A mediated device by UUID. @throws SysError ENODEV if there is none */
  mdev(uuid: string): SysfsDevice {
    return this.#find(this.path('bus/mdev/devices', uuid), `mediated device ${uuid}`, 'mdev list');
  }

  /** Whether the kernel has a mediated device with this UUID, in lower case. */
  hasMdev(uuid: string): boolean {
    return this.exists('bus/mdev/devices', uuid);
  }

  /** The device behind a cdev, `vfioN`. @throws SysError ENODEV */
  cdevDevice(node: string): SysfsDevice {
    return this.#find(this.path('class/vfio-dev', node, 'device'), `/dev/vfio/devices/${node}`);
  }

  /** An IOMMU group. @throws SysError ENODEV if there is none of that number */
  group(number: number): HostGroup {
    const folder = this.path('kernel/iommu_groups', String(number));
    const names = list(join(folder, 'devices'));
    if (names === undefined) {
      const hint = 'no such IOMMU group: it goes when its last device does';
      throw new SysError({ call: 'find', target: `IOMMU group ${number}`, errno: errno.ENODEV, hint });
    }
    return {
      number,
      // The group's name does not tell: mediated devices, which need no IOMMU, have the same one.
      isNoiommu: this.exists('class/vfio', `noiommu-${number}`),
      members: names.map((name) => describe(realpathSync(join(folder, 'devices', name)))),
      reservedRegions: parseReserved(text(join(folder, 'reserved_regions')) ?? ''),
    };
  }

  /** Target of a character device's link in `dev/char`, resolved. @throws SysError ENODEV */
  characterDevice(major: number, minor: number): string {
    const link = this.path('dev/char', `${major}:${minor}`);
    try {
      return realpathSync(link);
    } catch {
      const hint = 'the descriptor is no character device that this kernel knows';
      throw new SysError({
        call: 'find',
        target: `character device ${major}:${minor}`,
        errno: errno.ENODEV,
        hint,
      });
    }
  }

  /** @param lister the command of tsvisor that lists what there is */
  #find(link: string, target: string, lister?: string): SysfsDevice {
    let path: string;
    try {
      path = realpathSync(link);
    } catch (cause) {
      const hint = `there is no ${link}${lister === undefined ? '' : `; tsvisor ${lister} shows what there is`}`;
      throw new SysError({ call: 'find', target, errno: errno.ENODEV, hint, cause });
    }
    return describe(path);
  }
}

/** A device from its folder. */
function describe(path: string): SysfsDevice {
  const driver = linkName(join(path, 'driver'));
  const group = linkName(join(path, 'iommu_group'));
  // Kernels without cdevs have the folder, too, but no device number in it.
  const cdev = list(join(path, 'vfio-dev'))?.find((node) => existsSync(join(path, 'vfio-dev', node, 'dev')));
  const vendor = text(join(path, 'vendor'))?.slice(2);
  const device = text(join(path, 'device'))?.slice(2);
  const numaNode = Number(text(join(path, 'numa_node')) ?? -1);
  const pciClass = text(join(path, 'class'));
  return {
    name: basename(path),
    bus: linkName(join(path, 'subsystem')) ?? '',
    path,
    driver,
    isVfio: driver !== undefined && (/vfio/.test(driver) || existsSync(join(path, 'vfio-dev'))),
    isBridge: isBridge(path, pciClass),
    group: group === undefined ? undefined : Number(group),
    cdev,
    id: vendor === undefined || device === undefined ? undefined : `${vendor}:${device}`,
    class: pciClass,
    resetMethods: text(join(path, 'reset_method'))
      ?.split(' ')
      .filter((method) => method !== ''),
    numaNode: numaNode < 0 ? undefined : numaNode,
    physfn: linkName(join(path, 'physfn')),
    virtfns: virtfnsOf(path),
  };
}

/** Decided by the header type, which covers CardBus bridges; by the class if config space cannot be read. */
function isBridge(path: string, pciClass: string | undefined): boolean {
  if (pciClass === undefined) return false;
  try {
    const type = readFileSync(join(path, 'config'))[PCI_HEADER_TYPE];
    if (type !== undefined && type !== 0xff) return (type & PCI_HEADER_TYPE_MASK) !== 0;
  } catch {
    // no config file: fall back to the class
  }
  return PCI_CLASS_BRIDGE.test(pciClass);
}

function virtfnsOf(path: string): string[] {
  const links = (list(path) ?? []).filter((name) => /^virtfn\d+$/.test(name));
  links.sort((a, b) => Number(a.slice(6)) - Number(b.slice(6)));
  return links.map((name) => linkName(join(path, name))).filter((name) => name !== undefined);
}

function parseReserved(lines: string): ReservedRegion[] {
  const found: ReservedRegion[] = [];
  for (const line of lines.split('\n')) {
    const match = /^(0x[0-9a-f]+) (0x[0-9a-f]+) (\S+)$/.exec(line);
    if (match === null) continue;
    found.push({
      start: BigInt(match[1] as string),
      last: BigInt(match[2] as string),
      type: match[3] as string,
    });
  }
  return found;
}

/** An attribute without its newline; undefined if it cannot be read. */
export function text(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8').trimEnd();
  } catch {
    return undefined;
  }
}

/** Names in a folder, sorted; undefined if there is no such folder. */
export function list(path: string): string[] | undefined {
  try {
    return readdirSync(path).sort();
  } catch {
    return undefined;
  }
}

/** Base name of a symbolic link's target; undefined if there is no such link. */
export function linkName(path: string): string | undefined {
  try {
    return basename(readlinkSync(path));
  } catch {
    return undefined;
  }
}
