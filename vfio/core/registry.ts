import { DeviceSets } from './dev-set.js';
import type { VfioDevice } from './device.js';
import type { CoreEnvironment } from './environment.js';
import type { VfioGroup } from './group.js';
import { Mutex } from './locks.js';
import { Numbers } from './ref-count.js';
import type { VfToken } from './vf-token.js';

/** Groups and devices of one core: `struct vfio` of vfio_main.c and group.c. Machine thread only. */
export class CoreRegistry {
  readonly environment: CoreEnvironment;
  /** Guards {@link groups}. */
  readonly groupLock: Mutex;
  /** Groups by number, as in /dev/vfio. */
  readonly groups = new Map<number, VfioGroup>();
  readonly groupMinors = new Numbers();
  /** Devices by node name, as in /dev/vfio/devices. */
  readonly cdevs = new Map<string, VfioDevice>();
  readonly cdevNumbers = new Numbers();
  readonly deviceSets: DeviceSets;
  /** Tokens of the registered physical functions, by the device's name. */
  readonly vfTokens = new Map<string, VfToken>();

  constructor(environment: CoreEnvironment) {
    this.environment = environment;
    this.groupLock = new Mutex(environment, 'vfio.group_lock');
    this.deviceSets = new DeviceSets(environment);
  }
}
