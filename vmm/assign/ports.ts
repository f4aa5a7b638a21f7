/** The ports of an assignment and their defaults, over KVM where KVM has the function. */
import {
  type AddressWindow,
  type Bus,
  Doorbells,
  GuestMapper,
  Interrupts,
  MmioBus,
  PciWindows,
  PioBus,
  Signals,
} from '../../devices/contracts.js';
import { VfioPciFunctions } from '../../devices/vfio-pci/functions.js';
import { GsiRouting } from '../../kvm/gsi-routing.js';
import { MemorySlots } from '../../kvm/memory-slots.js';
import { KvmVfio } from '../../kvm/vfio.js';
import type { Vm } from '../../kvm/vm.js';
import { EventThread } from '../../sys/event-task.js';
import type { Scope } from '../../sys/scope.js';
import { Assignment, GuestMemory, KvmAssociation, PciFunctions } from '../../vfio/assign/index.js';
import { VfioCore } from '../../vfio/core/core.js';
import type { VendorDriver } from '../../vfio/driver.js';
import { VfioProvider } from '../../vfio/provider.js';
import { RangeBus } from './bus.js';
import { KvmDoorbells } from './doorbells.js';
import { ExitDispatcher } from './exit-dispatcher.js';
import { joinFileOps } from './file-ops.js';
import { KvmInterrupts } from './interrupts.js';
import { MemoryMap, MemorySlotPort } from './memory-map.js';
import { EventSignals } from './signals.js';
import { GsiRoutingToken, VmToken } from './tokens.js';

/** The ports of an assignment. The caller can supply any of them; the others are created on first use. */
export interface AssignmentPorts {
  /** The VM. No default. */
  readonly vm: Vm;
  /** Runs event tasks: data paths of in-process devices, and waiting on eventfds. No default; see {@link PolledEventThread}. */
  readonly eventThread: EventThread;
  /** Address ranges in which the guest can place BARs. No default: they are part of the machine's memory layout. */
  readonly windows: readonly AddressWindow[];
  /** The VM's GSI routing table. Default: GSIs 0 to 23 are routed to the in-kernel I/O APIC and PICs, as KVM's own table. */
  readonly gsiRouting: GsiRouting;
  /** Maps host memory into the guest. Default: KVM's memory slots. */
  readonly slots: MemorySlotPort;
  /** The default of `memory` and `mapper`; RAM is added here. */
  readonly memoryMap: MemoryMap;
  /** Guest memory that attached devices map for DMA. Default: `memoryMap`. */
  readonly memory: GuestMemory;
  /** Maps mappable BARs into the guest. Default: `memoryMap`. */
  readonly mapper: GuestMapper;
  /** Guest physical addresses whose accesses trap. Default: a {@link RangeBus}. */
  readonly mmio: Bus;
  /** I/O ports. Default: a {@link RangeBus}. */
  readonly pio: Bus;
  /** Forwards exits to the buses. Default: to `pio` and `mmio`; TypeError unless both are a {@link RangeBus}. */
  readonly exits: ExitDispatcher;
  /** Registers doorbells. Default: ioeventfds. */
  readonly doorbells: Doorbells;
  /** Creates interrupt lines. Default: irqfds. */
  readonly interrupts: Interrupts;
  /** Watches eventfds. Default: a task of `eventThread`. */
  readonly signals: Signals;
  /** The VFIO core of this process. Default: one with this package's vendor drivers. */
  readonly core: VfioCore;
  /** The first that matches an address resolves it. Default: the core, the kernel, vfio-user. */
  readonly providers: readonly VfioProvider[];
  /** Associates VFIO files with the VM. Default: a kvm-vfio device; files of this process by their provider's `fileOps`. */
  readonly association: KvmAssociation;
  /** Emulates configuration space. Default: `VfioPciFunctions` of tsvisor/devices over the ports above. */
  readonly functions: PciFunctions;
  /** Attaches devices. Default: one over the ports above. */
  readonly assignment: Assignment;
}

/** Name of a port. */
export type PortName = keyof AssignmentPorts;

/** Returns a port, creating it on first use; defaults get the ports that they depend on by it. */
export type GetPort = <K extends PortName>(name: K) => AssignmentPorts[K];

/** Container token of each port. A provider is one registration of its token: `providers` is all of them. */
export const portTokens = {
  vm: VmToken,
  eventThread: EventThread,
  windows: PciWindows,
  gsiRouting: GsiRoutingToken,
  slots: MemorySlotPort,
  memoryMap: MemoryMap,
  memory: GuestMemory,
  mapper: GuestMapper,
  mmio: MmioBus,
  pio: PioBus,
  exits: ExitDispatcher,
  doorbells: Doorbells,
  interrupts: Interrupts,
  signals: Signals,
  core: VfioCore,
  providers: VfioProvider,
  association: KvmAssociation,
  functions: PciFunctions,
  assignment: Assignment,
} as const satisfies Record<PortName, unknown>;

/** Ports that the hypervisor has to supply. */
export const portsWithoutDefault: ReadonlySet<PortName> = new Set<PortName>(['vm', 'eventThread', 'windows']);

function missing(name: string, what: string): never {
  throw new TypeError(`tsvisor/assign: no ${name} was given: ${what}`);
}

/** Checks a port of a caller without types, or of a plug-in. @throws TypeError unless it is an object */
export function requirePort<T>(name: string, value: T): T {
  if (typeof value === 'object' && value !== null) return value;
  throw new TypeError(`tsvisor/assign: the ${name} is ${JSON.stringify(value)}, not an object`);
}

/** Where devices come from by default. */
export interface DeviceSources {
  /** Creates the core; `scope` owns it. */
  readonly core: (get: GetPort, scope: Scope) => VfioCore;
  /** Create the providers, in the order of matching. */
  readonly providers: readonly ((get: GetPort) => VfioProvider)[];
}

/** Factories of the other ports' defaults, whatever the devices. `scope` owns what they open. */
export const commonPorts: {
  readonly [K in Exclude<PortName, keyof DeviceSources>]: (get: GetPort, scope: Scope) => AssignmentPorts[K];
} = {
  vm: () => missing('vm', 'create one with Kvm.open() and createVm()'),
  eventThread: () => missing('eventThread', 'start one with PolledEventThread.start()'),
  windows: () => missing('windows', 'name the address ranges in which BARs can lie'),
  gsiRouting: (get) => GsiRouting.create(get('vm'), { isIoapicRouted: true, isPicRouted: true }),
  slots: (get) => new MemorySlots(get('vm')),
  memoryMap: (get, scope) => scope.own(new MemoryMap(get('slots'))),
  memory: (get) => get('memoryMap'),
  mapper: (get) => get('memoryMap'),
  mmio: () => new RangeBus('mmio'),
  pio: () => new RangeBus('pio'),
  exits: (get) => new ExitDispatcher(rangeBus(get('pio')), rangeBus(get('mmio'))),
  doorbells: (get) => new KvmDoorbells(get('vm')),
  interrupts: (get) => new KvmInterrupts(get('vm'), get('gsiRouting')),
  signals: (get, scope) => scope.own(new EventSignals(get('eventThread'))),
  association: (get, scope) => scope.own(KvmVfio.create(get('vm'), joinFileOps(get('providers')))),
  functions: (get) =>
    new VfioPciFunctions({
      mmio: get('mmio'),
      pio: get('pio'),
      memory: get('mapper'),
      doorbells: get('doorbells'),
      interrupts: get('interrupts'),
      signals: get('signals'),
      windows: get('windows'),
    }),
  assignment: (get, scope) => {
    const [memory, association] = [get('memory'), get('association')];
    const [providers, functions] = [get('providers'), get('functions')];
    // Owned last, so that devices that are still attached are detached before their ports go.
    return scope.own(new Assignment({ memory, association, providers, functions }));
  },
};

/** @throws TypeError for another bus */
export function rangeBus(bus: Bus): RangeBus {
  if (bus instanceof RangeBus) return bus;
  throw new TypeError(
    'tsvisor/assign: exits are dispatched to RangeBus; with a bus of your own, answer exits yourself',
  );
}

/** @throws TypeError for a name that is no port, or a window that is no range of a bus */
export function checkGiven(given: Partial<AssignmentPorts>): void {
  const unknown = Object.keys(given).filter((name) => !Object.hasOwn(portTokens, name));
  if (unknown.length > 0) {
    const known = Object.keys(portTokens).join(', ');
    throw new TypeError(`tsvisor/assign: there is no port ${unknown.join(', ')}; the ports are ${known}`);
  }
  for (const { kind, base, bytes } of given.windows ?? []) {
    const isRange =
      (kind === 'mmio' || kind === 'pio') && typeof base === 'bigint' && typeof bytes === 'bigint';
    if (!isRange)
      throw new TypeError(
        "tsvisor/assign: a window is { kind: 'mmio' or 'pio', base: bigint, bytes: bigint }",
      );
  }
}

/** Creates a core with these vendor drivers; `scope` owns it. */
export function createCore(
  eventThread: EventThread,
  scope: Scope,
  drivers: readonly VendorDriver[],
): VfioCore {
  const core = scope.own(new VfioCore());
  for (const driver of drivers) core.registerVendorDriver(driver, { eventThread });
  return core;
}
