import type { KvmReference } from '../../kvm/reference.js';
import type { VfioFile, VfioFileOps } from '../../kvm/vfio.js';
import type { VfioProvider } from '../../vfio/provider.js';

/**
 * Joins the file operations of all providers into those of kvm-vfio, which uses them for VFIO files that have no kernel
 * descriptor. Returns undefined if no provider has file operations. The only module where kvm/ and vfio/ meet.
 */
export function joinFileOps(providers: readonly VfioProvider[]): VfioFileOps | undefined {
  const all = providers.flatMap(({ fileOps }) => (fileOps === undefined ? [] : [fileOps]));
  if (all.length === 0) return undefined;
  /** A closed file is no longer valid, but its provider still has to be notified when the VM drops it. */
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
