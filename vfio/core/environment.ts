import type { Hva } from '../../sys/address.js';
import { findMapping, type Mapping } from '../../sys/mapping.js';
import type { KvmPointer } from '../driver.js';
import { type Clock, systemClock } from './clock.js';
import { LockOrder } from './lock-order.js';
import type { LockContext } from './locks.js';
import { Numbers } from './ref-count.js';
import { Executor } from './steps.js';
import { TraceLog } from './trace-log.js';

/** External services that the core uses. */
export interface CorePorts {
  /** Reports a condition that only a bug of a driver or a caller can cause; the core continues. */
  readonly warn: (text: string) => void;
  /** Source of timeouts; tests pass a fake one. */
  readonly clock: Clock;
  /** The live mapping that contains the whole range of host memory; undefined if none does. */
  readonly findMemory: (address: Hva, bytes: bigint) => Mapping | undefined;
  /** Called before an object of the given kind is allocated, as kzalloc is. @throws SysError ENOMEM to refuse it */
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

/**
 * Services for every part of one core: ports, tasks and their locks, the log, allocation. The registry, not this, knows
 * the groups and devices. Machine thread only.
 */
export class CoreEnvironment implements LockContext {
  readonly ports: CorePorts;
  readonly executor: Executor;
  readonly order: LockOrder;
  readonly log: TraceLog;
  /** Whether devices without an IOMMU group may be registered (the module's enable_unsafe_noiommu_mode). */
  readonly isNoiommuEnabled: boolean;
  /** Numbers of IOMMU groups; a VFIO group has its IOMMU group's number. */
  readonly iommuGroupNumbers = new Numbers();
  /** Number of live objects by kind; all zero at the end. */
  readonly live = new Map<string, number>();
  readonly #kvmNames = new WeakMap<KvmPointer, string>();
  #kvmCount = 0;

  constructor(ports: CorePorts, isNoiommuEnabled: boolean) {
    this.ports = ports;
    this.isNoiommuEnabled = isNoiommuEnabled;
    this.executor = new Executor(ports.clock, ports.warn);
    this.order = new LockOrder(ports.warn);
    this.log = new TraceLog(this.executor);
  }

  warn(text: string): void {
    this.log.event('warn', { text });
    this.ports.warn(text);
  }

  /** Counts an object that is about to be allocated. @throws SysError ENOMEM */
  allocate(what: string): void {
    this.ports.allocate(what);
    this.live.set(what, (this.live.get(what) ?? 0) + 1);
  }

  /** Undoes {@link allocate}. */
  free(what: string): void {
    this.live.set(what, (this.live.get(what) ?? 0) - 1);
  }

  /** Name of a VM for messages and events: `kvm 1`; null for none. */
  kvmName(kvm: KvmPointer | null | undefined): string | null {
    if (kvm === null || kvm === undefined) return null;
    const known = this.#kvmNames.get(kvm);
    if (known !== undefined) return known;
    const name = `kvm ${++this.#kvmCount}`;
    this.#kvmNames.set(kvm, name);
    return name;
  }
}
