import { DeviceSets } from './dev-set.js';
import type { VfioDevice } from './device.js';
import type { CoreEnvironment } from './environment.js';
import type { VfioGroup } from './group.js';
import { Mutex } from './locks.js';
import { Numbers } from './ref-count.js';

/** Groups and devices of one core: what `struct vfio` is in vfio_main.c and group.c. Machine thread only. */
export class CoreRegistry {
  readonly environment: CoreEnvironment;
  /** Guards {@link groups}. */
  readonly groupLock: Mutex;
  /** By the IOMMU group's number: what /dev/vfio has. */
  readonly groups = new Map<number, VfioGroup>();
  readonly groupMinors = new Numbers();
  /** By node name: what /dev/vfio/devices has. */
  readonly cdevs = new Map<string, VfioDevice>();
  readonly cdevNumbers = new Numbers();
  readonly deviceSets: DeviceSets;

  constructor(environment: CoreEnvironment) {
    this.environment = environment;
    this.groupLock = new Mutex(environment, 'vfio.group_lock');
    this.deviceSets = new DeviceSets(environment);
  }
}
