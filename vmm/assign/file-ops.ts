import type { KvmReference } from '../../kvm/reference.js';
import type { VfioFile, VfioFileOps } from '../../kvm/vfio.js';
import type { VfioProvider } from '../../vfio/uapi.js';

/**
 * The one place where kvm/ and vfio/ meet: how kvm-vfio reaches files that exist in this process only, whichever
 * provider they are of. Undefined if no provider has such files.
 */
export function joinFileOps(providers: readonly VfioProvider[]): VfioFileOps | undefined {
  const all = providers.flatMap(({ fileOps }) => (fileOps === undefined ? [] : [fileOps]));
  if (all.length === 0) return undefined;
  /** A closed file is nobody's any more, but its provider still has to hear that the VM leaves. */
  const owners = new WeakMap<VfioFile, VfioFileOps>();
  const ownerOf = (file: VfioFile): VfioFileOps | undefined => {
    const owner = all.find((ops) => ops.isValid(file)) ?? owners.get(file);
    if (owner !== undefined) owners.set(file, owner);
    return owner;
  };
  return {
    isValid: (file) => all.some((ops) => ops.isValid(file)),
    setKvm: (file, kvm: KvmReference | null) => ownerOf(file)?.setKvm(file, kvm),
    enforcedCoherent: (file) => ownerOf(file)?.enforcedCoherent(file) ?? false,
  };
}
