/** Accessors for a provider's interfaces, which may be absent. */
import type { VfioCdevs, VfioGroups, VfioProvider } from './uapi.js';
import { vfioError } from './vfio-error.js';

/** @throws SysError ENODEV if the provider has no group interface */
export function groupsOf({ name, groups }: VfioProvider): VfioGroups {
  if (groups !== undefined) return groups;
  throw vfioError('open group', `provider ${name}`, 'ENODEV', 'it has cdevs only: use interface=iommufd');
}

/** @throws SysError ENODEV if the provider has no cdev interface */
export function cdevsOf({ name, cdevs }: VfioProvider): VfioCdevs {
  if (cdevs !== undefined) return cdevs;
  const hint =
    'its devices have no cdev and no iommufd: omit interface=iommufd, so that their groups are used';
  throw vfioError('open cdev', `provider ${name}`, 'ENODEV', hint);
}
