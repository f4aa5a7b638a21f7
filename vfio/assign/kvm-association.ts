import type { VfioFile } from '../uapi.js';

/**
 * Port: associates VFIO files with the VM, as KVM's kvm-vfio device does. A file is added before its devices are opened,
 * because a driver may need its VM in open_device.
 */
export interface KvmAssociation {
  /** KVM_DEV_VFIO_FILE_ADD. @throws SysError EBADF, EINVAL, EEXIST, ENODEV as virt/kvm/vfio.c */
  addFile(file: VfioFile): void;
  /** KVM_DEV_VFIO_FILE_DEL. @throws SysError EBADF, ENOENT */
  removeFile(file: VfioFile): void;
}

/** Token of the port {@link KvmAssociation}. */
export const KvmAssociation = Symbol('KvmAssociation');
