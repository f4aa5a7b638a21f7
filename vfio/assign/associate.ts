import { isErrno } from '../../sys/error.js';
import { disposable } from '../../sys/scope.js';
import type { VfioProvider } from '../provider.js';
import type { VfioFile } from '../uapi.js';
import { attachStep } from './attach-step.js';
import type { KvmAssociation } from './kvm-association.js';

/**
 * Associates a file with the VM until disposed, if kvm-vfio can access it: by its kernel descriptor, or by its provider's
 * file operations. It cannot access a file of another process: the device's driver then has no VM.
 * @param what the file's name in messages: `group 3`
 * @throws SysError as {@link KvmAssociation.addFile}
 */
export function associate(
  kvm: KvmAssociation,
  provider: VfioProvider,
  file: VfioFile,
  what: string,
): Disposable {
  if (file.fd === undefined && provider.fileOps === undefined) {
    attachStep(`${what} cannot be associated with the VM: it belongs to another process`);
    return disposable(() => {});
  }
  kvm.addFile(file);
  attachStep(`${what} is associated with the VM (KVM_DEV_VFIO_FILE_ADD)`);
  return disposable(() => {
    try {
      kvm.removeFile(file);
    } catch (error) {
      // The VM was closed first, which dropped the association.
      if (!isErrno(error, 'EBADF') && !isErrno(error, 'ENOENT')) throw error;
    }
  });
}
