import type { Hva } from '../../sys/address.js';
import { findMapping, type Mapping } from '../../sys/mapping.js';
import type { KvmPointer } from '../driver.js';
import { type Clock, systemClock } from './clock.js';
import { DeviceSets } from './dev-set.js';
import type { VfioDevice } from './device.js';
import type { VfioGroup } from './group.js';
import { LockOrder } from './lock-order.js';
import { type LockContext, Mutex } from './locks.js';
import { Numbers } from './ref-count.js';
import { Executor } from './steps.js';
import { TraceLog } from './trace-log.js';

/** What the core needs of the world around it. */
export interface CorePorts {
  /** Told once about each thing that only a bug of some driver or caller explains; the core goes on. */
  readonly warn: (text: string) => void;
  readonly clock: Clock;
  /** The live mapping that holds all of a range of host memory, if one does. */
  readonly findMemory: (address: Hva, bytes: bigint) => Mapping | undefined;
  /** Called before an object of this kind is made: the kernel's kzalloc. @throws SysError ENOMEM if there is no room */
  readonly allocate: (what: string) => void;
  /** Whether the caller may use devices without an IOMMU (CAP_SYS_RAWIO). */
  readonly hasRawio: () => boolean;
}

export const defaultPorts: CorePorts = {
  warn: (text) => process.emitWarning(text, 'VfioWarning'),
  clock: systemClock,
  findMemory: findMapping,
  allocate: () => undefined,
  hasRawio: () => false,
};

/** State of one core, shared by all its parts: what `struct vfio` is in vfio_main.c and group.c. Machine thread only. */
export class CoreState implements LockContext {
  readonly ports: CorePorts;
  readonly executor: Executor;
  readonly order: LockOrder;
  readonly log: TraceLog;
  /** Whether devices without an IOMMU group may be registered (the module's enable_unsafe_noiommu_mode). */
  readonly isNoiommuEnabled: boolean;
  /** Guards {@link groups}. */
  readonly groupLock: Mutex;
  /** By the IOMMU group's number: what /dev/vfio has. */
  readonly groups = new Map<number, VfioGroup>();
  readonly groupMinors = new Numbers();
  readonly iommuGroupNumbers = new Numbers();
  /** By node name: what /dev/vfio/devices has. */
  readonly cdevs = new Map<string, VfioDevice>();
  readonly cdevNumbers = new Numbers();
  readonly deviceSets: DeviceSets;
  /** Objects that were made and not freed, by kind: all zero in the end. */
  readonly live = new Map<string, number>();
  readonly #kvmNames = new WeakMap<KvmPointer, string>();
  #kvmCount = 0;

  constructor(ports: CorePorts, isNoiommuEnabled: boolean) {
    this.ports = ports;
    this.isNoiommuEnabled = isNoiommuEnabled;
    this.executor = new Executor(ports.clock, ports.warn);
    this.order = new LockOrder(ports.warn);
    this.log = new TraceLog(this.executor);
    this.groupLock = new Mutex(this, 'vfio.group_lock');
    this.deviceSets = new DeviceSets(this);
  }

  warn(text: string): void {
    this.log.event('warn', { text });
    this.ports.warn(text);
  }

  /** Makes room for an object. @throws SysError ENOMEM */
  allocate(what: string): void {
    this.ports.allocate(what);
    this.live.set(what, (this.live.get(what) ?? 0) + 1);
  }

  /** Undoes {@link allocate}. */
  free(what: string): void {
    this.live.set(what, (this.live.get(what) ?? 0) - 1);
  }

  /** A VM in messages and events: `kvm 1`, or null. */
  kvmName(kvm: KvmPointer | null | undefined): string | null {
    if (kvm === null || kvm === undefined) return null;
    const known = this.#kvmNames.get(kvm);
    if (known !== undefined) return known;
    const name = `kvm ${++this.#kvmCount}`;
    this.#kvmNames.set(kvm, name);
    return name;
  }
}
