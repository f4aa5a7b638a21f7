import type { AssignableDevice, DeviceFile, VfioFile } from '../vfio/uapi.js';

/** Tells KVM which VFIO files belong to the VM; the kvm-vfio device does. */
export interface KvmAssociation {
  addFile(file: VfioFile): void;
  removeFile(file: VfioFile): void;
}
export const KvmAssociation = Symbol('KvmAssociation');

/** A device that is open, in an address space with the guest's memory, and associated with the VM. Disposing closes it. */
export interface OpenedDevice extends Disposable {
  readonly file: DeviceFile;
}

/** One provider's devices in this machine: they share an address space. Machine thread only. */
export interface DeviceSpace {
  /** @throws SysError of the step that failed; everything before it has been undone */
  open(device: AssignableDevice): OpenedDevice;
}
