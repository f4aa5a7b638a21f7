import type { KvmPointer } from '../driver.js';
import type { VfioFileOps } from '../file-ops.js';
import { CoreDeviceFile } from './device-file.js';
import { CoreGroupFile } from './group-file.js';
import type { CoreRegistry } from './registry.js';
import type { Steps } from './steps.js';

export class CoreFileOps implements VfioFileOps {
  readonly #registry: CoreRegistry;

  constructor(registry: CoreRegistry) {
    this.#registry = registry;
  }

  isValid(file: object): boolean {
    return (
      (file instanceof CoreGroupFile || file instanceof CoreDeviceFile) &&
      file.isOpen &&
      file.registry === this.#registry
    );
  }

  setKvm(file: object, kvm: KvmPointer | null): void {
    this.#registry.environment.executor.run(this.setKvmSteps(file, kvm));
  }

  *setKvmSteps(file: object, kvm: KvmPointer | null): Steps<void> {
    if (file instanceof CoreGroupFile || file instanceof CoreDeviceFile) yield* file.setKvmSteps(kvm);
  }

  enforcedCoherent(file: object): boolean {
    return (file instanceof CoreGroupFile || file instanceof CoreDeviceFile) && file.isCoherent;
  }
}
