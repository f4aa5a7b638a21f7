import type { KvmPointer } from '../driver.js';
import { CoreDeviceFile } from './device-file.js';
import { CoreGroupFile } from './group-file.js';
import type { CoreState } from './state.js';
import type { Steps } from './steps.js';

/**
 * What the kvm-vfio device asks of VFIO about its files: in Linux, functions it finds by symbol_get. kvm/ declares the
 * same shape as its port, and nothing else of VFIO is known there.
 */
export interface VfioFileOps {
  /** Whether this is an open group or device file of this core. @see vfio_file_is_valid */
  isValid(file: object): boolean;
  /** The VM that the file belongs to from now on; null for none. A file that is closed or not ours is passed over. */
  setKvm(file: object, kvm: KvmPointer | null): void;
  /** Whether all DMA of the file's devices snoops the caches. @see vfio_file_enforced_coherent */
  enforcedCoherent(file: object): boolean;
}

export class CoreFileOps implements VfioFileOps {
  readonly #state: CoreState;

  constructor(state: CoreState) {
    this.#state = state;
  }

  isValid(file: object): boolean {
    return (
      (file instanceof CoreGroupFile || file instanceof CoreDeviceFile) &&
      file.isOpen &&
      file.state === this.#state
    );
  }

  setKvm(file: object, kvm: KvmPointer | null): void {
    this.#state.executor.run(this.setKvmSteps(file, kvm));
  }

  *setKvmSteps(file: object, kvm: KvmPointer | null): Steps<void> {
    if (file instanceof CoreGroupFile || file instanceof CoreDeviceFile) yield* file.setKvmSteps(kvm);
  }

  enforcedCoherent(file: object): boolean {
    return (file instanceof CoreGroupFile || file instanceof CoreDeviceFile) && file.isCoherent;
  }
}
