/** Accessors for a provider's interfaces, which may be absent. */
import type { VfioCdevs, VfioGroups, VfioProvider } from './provider.js';
import { vfioError } from './vfio-error.js';

/** @throws SysError ENODEV if the provider has no group interface */
export function groupsOf({ name, groups }: VfioProvider): VfioGroups {
  if (groups !== undefined) return groups;
  throw vfioError('open group', `provider ${name}`, 'ENODEV', 'it only has cdevs: use interface=iommufd');
}

/** @throws SysError ENODEV if the provider has no cdev interface */
export function cdevsOf({ name, cdevs }: VfioProvider): VfioCdevs {
  if (cdevs !== undefined) return cdevs;
  const hint = 'its devices have no cdevs: omit interface=iommufd to use their groups';
  throw vfioError('open cdev', `provider ${name}`, 'ENODEV', hint);
}
