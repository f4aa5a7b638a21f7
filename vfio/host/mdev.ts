/** Mediated devices of the kernel: a parent device's driver offers types, a UUID written to one makes a device. */
import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { list, type Sysfs, text } from './sysfs.js';
import { isUuid } from './uuid.js';

/** A kind of mediated device that a parent offers. */
export interface HostMdevType {
  /** As sysfs names it: `mtty-2`, `i915-GVTg_V5_4`. */
  readonly type: string;
  /** The driver's name for people. */
  readonly name: string;
  /** Parent device's name. */
  readonly parent: string;
  /** How many more can be made. */
  readonly availableInstances: number;
  /** `vfio-pci` for one that is a PCI device to the guest. */
  readonly deviceApi: string;
  readonly description: string;
  readonly path: string;
}

/** Every type of every parent. */
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
      };
    });
  });
}

/**
 * Makes a mediated device and returns its UUID. {@link removeMdev} undoes it.
 * @param type as sysfs or the driver names it
 * @throws SysError ENODEV if no parent has the type; ENOSPC if none has an instance left; EEXIST for a UUID in use;
 *   EINVAL for what is no UUID
 */
export function createMdev(
  sysfs: Sysfs,
  type: string,
  options: { readonly uuid?: string | undefined; readonly parent?: string | undefined } = {},
): string {
  const all = listMdevTypes(sysfs);
  const { uuid = randomUUID(), parent } = options;
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
    const hint = `no instance is left on ${parents}: remove a mediated device, or choose a smaller type`;
    throw new SysError({ call, target: type, errno: errno.ENOSPC, hint });
  }
  sysfs.write(join(offer.path, 'create'), uuid);
  return uuid;
}

/** Removes a mediated device; waits until its user has let go of it. @throws SysError ENODEV if there is none */
export function removeMdev(sysfs: Sysfs, uuid: string): void {
  sysfs.write(join(sysfs.mdev(uuid).path, 'remove'), '1');
}
