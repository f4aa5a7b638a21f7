import type { Hva } from '../../sys/address.js';
import { findMapping, type Mapping } from '../../sys/mapping.js';
import type { KvmPointer } from '../driver.js';
import { type Clock, systemClock } from './clock.js';
import { LockOrder } from './lock-order.js';
import type { LockContext } from './locks.js';
import { Numbers } from './ref-count.js';
import { Executor } from './steps.js';
import { TraceLog } from './trace-log.js';

/** What the core needs of the world around it. */
export interface CorePorts {
  /** Receives each condition that only a bug of some driver or caller can cause; the core continues. */
  readonly warn: (text: string) => void;
  /** Time-outs and timestamps; tests pass a fake one. */
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

/**
 * What every part of one core stands on, whatever it is a part of: ports, tasks and their locks, the log, allocation.
 * Which groups and devices exist is the registry's business. Machine thread only.
 */
export class CoreEnvironment implements LockContext {
  readonly ports: CorePorts;
  readonly executor: Executor;
  readonly order: LockOrder;
  readonly log: TraceLog;
  /** Whether devices without an IOMMU group may be registered (the module's enable_unsafe_noiommu_mode). */
  readonly isNoiommuEnabled: boolean;
  /** Numbers of IOMMU groups, which VFIO's groups take over. */
  readonly iommuGroupNumbers = new Numbers();
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
