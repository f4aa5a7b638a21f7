/** Mediated devices of the kernel as records. */
import { hostContext } from '../context.js';
import { requireUnused } from '../group-binding.js';
import { type Holder, scanHolders } from '../holders.js';
import { listMdevTypes, removeMdev } from '../mdev.js';
import { list } from '../sysfs.js';
import { findDevice, type InventoryOptions, unlessGone } from './inventory.js';

/** A mediated device of the kernel. */
export interface MdevRecord {
  /** Its UUID, in lower case. */
  readonly uuid: string;
  /** Name of its type in sysfs: `mtty-2`; undefined if the parent does not list it. */
  readonly type: string | undefined;
  /** Name of its parent device; undefined as {@link type}. */
  readonly parent: string | undefined;
  /** `vfio-pci` … ; undefined as {@link type}. */
  readonly deviceApi: string | undefined;
  /** Undefined if none is bound. */
  readonly driver: string | undefined;
  /** Number of its IOMMU group; undefined if no driver is bound. */
  readonly group: number | undefined;
  /** Its node in /dev/vfio/devices; undefined if it has none. */
  readonly cdev: string | undefined;
  /** Processes that have its group or its cdev open, as far as this user may see. */
  readonly users: readonly Holder[];
}

/** Reads all mediated devices of the kernel, sorted by UUID. */
export function readMdevs(options: InventoryOptions = {}): MdevRecord[] {
  const context = hostContext(options);
  const uuids = list(context.sysfs.path('bus/mdev/devices')) ?? [];
  const found = uuids.flatMap(
    (uuid) => unlessGone(() => findDevice(context, context.sysfs.mdev(uuid))) ?? [],
  );
  const { holders } = scanHolders(
    context.roots,
    found.flatMap(({ nodes }) => nodes),
  );
  const types = listMdevTypes(context.sysfs);
  return found.map(({ device, nodes }): MdevRecord => {
    const type = types.find(({ instances }) => instances.includes(device.name));
    const users = nodes.flatMap((node) => holders.get(node) ?? []);
    return {
      uuid: device.name,
      type: type?.type,
      parent: type?.parent,
      deviceApi: type?.deviceApi,
      driver: device.driver,
      group: device.group,
      cdev: device.cdev,
      users: [...new Map(users.map((user) => [user.pid, user])).values()],
    };
  });
}

/**
 * Removes a mediated device that nobody uses: {@link removeMdev} would wait for the user.
 * @param uuid in lower case
 * @throws SysError ENODEV if it does not exist; EBUSY naming the processes that have it open
 */
export function removeUnusedMdev(uuid: string, options: InventoryOptions = {}): void {
  const context = hostContext(options);
  requireUnused(context, 'remove mdev', context.sysfs.mdev(uuid));
  removeMdev(context.sysfs, uuid);
}
