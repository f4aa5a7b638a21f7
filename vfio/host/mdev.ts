/** Mediated devices of the kernel: a parent's driver offers types, and writing a UUID to a type creates a device. */
import { join } from 'node:path';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { isUuid, randomUuid } from '../uuid.js';
import { list, type Sysfs, text } from './sysfs.js';

/** A type of mediated device that a parent offers. */
export interface HostMdevType {
  /** Name in sysfs: `mtty-2`, `i915-GVTg_V5_4`. */
  readonly type: string;
  /** The driver's readable name of the type. */
  readonly name: string;
  /** Parent device's name. */
  readonly parent: string;
  /** How many more instances can be created. */
  readonly availableInstances: number;
  /** `vfio-pci` for a PCI device. */
  readonly deviceApi: string;
  /** The driver's description; empty if it gives none. */
  readonly description: string;
  /** UUIDs of the instances that there are. */
  readonly instances: readonly string[];
  /** The type's folder in sysfs, absolute. */
  readonly path: string;
}

/** The types of all parents. */
export function listMdevTypes(sysfs: Sysfs): HostMdevType[] {
  const parents = list(sysfs.path('class/mdev_bus')) ?? [];
  return parents.flatMap((parent) => {
    const folder = sysfs.path('class/mdev_bus', parent, 'mdev_supported_types');
    return (list(folder) ?? []).map((type): HostMdevType => {
      const path = join(folder, type);
      return {
        type,
        parent,
        path,
        name: text(join(path, 'name')) ?? type,
        availableInstances: Number(text(join(path, 'available_instances')) ?? 0),
        deviceApi: text(join(path, 'device_api')) ?? '',
        description: text(join(path, 'description')) ?? '',
        instances: list(join(path, 'devices')) ?? [],
      };
    });
  });
}

/**
 * Creates a mediated device and returns its UUID. {@link removeMdev} removes it.
 * @param type its name in sysfs, or the driver's readable name
 * @throws SysError ENODEV if no parent has the type; ENOSPC if none has an instance left; EEXIST for a UUID in use;
 *   EINVAL for a malformed UUID
 */
export function createMdev(
  sysfs: Sysfs,
  type: string,
  options: { readonly uuid?: string | undefined; readonly parent?: string | undefined } = {},
): string {
  const all = listMdevTypes(sysfs);
  const { uuid = randomUuid(), parent } = options;
  const call = 'create mdev';
  if (!isUuid(uuid)) {
    throw new SysError({ call, target: type, errno: errno.EINVAL, hint: `'${uuid}' is no UUID` });
  }
  const offers = all.filter(
    (offer) => (offer.type === type || offer.name === type) && (parent ?? offer.parent) === offer.parent,
  );
  if (offers.length === 0) {
    const known = all.map((offer) => `${offer.type} of ${offer.parent}`).join(', ');
    const hint = `the types are: ${known || 'none; load a driver that offers some'}`;
    throw new SysError({ call, target: type, errno: errno.ENODEV, hint });
  }
  const offer = offers.find(({ availableInstances }) => availableInstances > 0);
  if (offer === undefined) {
    const parents = offers.map((full) => full.parent).join(', ');
    const hint = `${parents} has no instance left: remove a mediated device, or choose a smaller type`;
    throw new SysError({ call, target: type, errno: errno.ENOSPC, hint });
  }
  sysfs.write(join(offer.path, 'create'), uuid);
  return uuid;
}

/** Removes a mediated device; waits until its user has closed it. @throws SysError ENODEV if it does not exist */
export function removeMdev(sysfs: Sysfs, uuid: string): void {
  sysfs.write(join(sysfs.mdev(uuid).path, 'remove'), '1');
}
