/** The Linux kernel's VFIO as a provider of vfio/uapi.ts. */
export { nearestPciAddress, pciAddress } from '../addresses.js';
export { type BindingHost, bindToDriver, type DriverBinding } from './binding.js';
export type { HostContext } from './context.js';
export { HostDeviceFile } from './device.js';
export {
  bindPciFunction,
  type Rebinding,
  type RebindOptions,
  restorePciBinding,
  unbindPciFunction,
} from './group-binding.js';
export type { Holder } from './holders.js';
export { createMdev, type HostMdevType, listMdevTypes, removeMdev } from './mdev.js';
export { type LockedMemory, readLockedMemory } from './memlock.js';
export { type HostProvider, hostProvider } from './provider.js';
export { HOST_REQUESTS } from './requests.js';
export { HOST_ROOTS, type HostRoots } from './roots.js';
export {
  type HostGroup,
  type ReservedRegion,
  Sysfs,
  type SysfsDevice,
  type WriteAttribute,
} from './sysfs.js';
export { listVfTypes, type VfType, type VfTypes, type VfTypesRecord } from './vf-type.js';
export { bindCommands, blockingMembers, checkViable, unbindCommands } from './viability.js';
