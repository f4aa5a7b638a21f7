/** What a vendor driver needs to follow its group's association with a VM: vfio_register_notifier, as the core has it. */

export type { CoreOpenDevice } from './core/device.js';
export type { Steps } from './core/steps.js';

/** Type of the chain that tells of the group's VM. */
export const VFIO_GROUP_NOTIFY = 1;

/** Event of VFIO_GROUP_NOTIFY: its data is the VM, or null when the association ends. */
export const VFIO_GROUP_NOTIFY_SET_KVM = 1 << 0;
