/** Everything that attaching a device needs, and the default for each: KVM's where KVM has one. */
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
import { createMttyDriver } from '../../devices/mtty/driver.js';
import { VfioPciFunctions } from '../../devices/vfio-pci/functions.js';
import { createVgpuDriver } from '../../devices/vgpu/driver.js';
import { createVirtioNetDriver } from '../../devices/virtio-net/driver.js';
import { GsiRouting } from '../../kvm/gsi-routing.js';
import { MemorySlots } from '../../kvm/memory-slots.js';
import { KvmVfio } from '../../kvm/vfio.js';
import type { Vm } from '../../kvm/vm.js';
import { EventThread } from '../../sys/event-task.js';
import type { Scope } from '../../sys/scope.js';
import { Assignment, GuestMemory, KvmAssociation, PciFunctions } from '../../vfio/assign/index.js';
import { VfioCore } from '../../vfio/core/core.js';
import { hostProvider } from '../../vfio/host/index.js';
import { VfioProvider } from '../../vfio/uapi.js';
import { userProvider } from '../../vfio/user/index.js';
import { RangeBus } from './bus.js';
import { KvmDoorbells } from './doorbells.js';
import { ExitDispatcher } from './exit-dispatcher.js';
import { joinFileOps } from './file-ops.js';
import { KvmInterrupts } from './interrupts.js';
import { MemoryMap, MemorySlotPort } from './memory-map.js';
import { EventSignals } from './signals.js';
import { GsiRoutingToken, VmToken } from './tokens.js';

/** What an assignment is built from. Each can be given by its owner; what is not given is made when first asked for. */
export interface AssignmentPorts {
  /** The VM. No default. */
  readonly vm: Vm;
  /** Runs the data paths of in-process devices, and waits for rare events. No default: {@link PolledEventThread} is one. */
  readonly eventThread: EventThread;
  /** Where the guest may place BARs. No default: it is part of the machine's memory layout. */
  readonly windows: readonly AddressWindow[];
  /** GSIs of the VM. Default: 0 to 23 lead to the in-kernel I/O APIC and PICs, as in KVM's own table. */
  readonly gsiRouting: GsiRouting;
  /** Default: KVM's memory slots. */
  readonly slots: MemorySlotPort;
  /** The default behind `memory` and `mapper`; ask for it to add RAM. */
  readonly memoryMap: MemoryMap;
  /** Guest memory that attached devices map for DMA. Default: `memoryMap`. */
  readonly memory: GuestMemory;
  /** Maps mappable BARs into the guest. Default: `memoryMap`. */
  readonly mapper: GuestMapper;
  /** Guest physical addresses at which accesses trap. Default: a {@link RangeBus}. */
  readonly mmio: Bus;
  /** I/O ports. Default: a {@link RangeBus}. */
  readonly pio: Bus;
  /** Forwards exits to the default buses. */
  readonly exits: ExitDispatcher;
  /** Default: ioeventfds. */
  readonly doorbells: Doorbells;
  /** Default: irqfds. */
  readonly interrupts: Interrupts;
  /** Default: the event thread watches. */
  readonly signals: Signals;
  /** The VFIO core of this process. Default: one with this package's vendor drivers. */
  readonly core: VfioCore;
  /** In the order in which they are asked for an address. Default: the core, the kernel, vfio-user servers. */
  readonly providers: readonly VfioProvider[];
  /** Default: KVM's kvm-vfio device, which reaches files of this process by their provider's `fileOps`. */
  readonly association: KvmAssociation;
  /** Default: a {@link VfioPciFunctions} over the ports above. */
  readonly functions: PciFunctions;
  /** Attaches devices. Default: one over the ports above. */
  readonly assignment: Assignment;
}

/** Name of a port. */
export type PortName = keyof AssignmentPorts;
/** How a default gets at the ports that it needs in turn. */
export type GetPort = <K extends PortName>(name: K) => AssignmentPorts[K];

/** In a container, a port is registered under this token; `providers` under one that may be registered several times. */
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

/** Only the hypervisor can make these. */
export const portsWithoutDefault: ReadonlySet<PortName> = new Set<PortName>(['vm', 'eventThread', 'windows']);

function missing(name: string, what: string): never {
  throw new TypeError(`tsvisor/assign: no ${name} was given: ${what}`);
}

/** Providers that there are by default, each made when first asked for. */
export const defaultProviders: readonly ((get: GetPort) => VfioProvider)[] = [
  (get) => get('core').provider,
  () => hostProvider(),
  (get) => userProvider(get('eventThread')),
];

/** Makes a port's default. What it opens belongs to `scope`. */
export const defaultPorts: {
  readonly [K in PortName]: (get: GetPort, scope: Scope) => AssignmentPorts[K];
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
  core: (get, scope) => createCore(get('eventThread'), scope),
  providers: (get) => defaultProviders.map((make) => make(get)),
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
  assignment: (get) =>
    new Assignment({
      memory: get('memory'),
      association: get('association'),
      providers: get('providers'),
      functions: get('functions'),
    }),
};

function rangeBus(bus: Bus): RangeBus {
  if (bus instanceof RangeBus) return bus;
  throw new TypeError(
    'tsvisor/assign: exits are dispatched to RangeBus; with a bus of your own, answer exits yourself',
  );
}

/** A core with the vendor drivers of this package. */
export function createCore(eventThread: EventThread, scope: Scope): VfioCore {
  const core = scope.own(new VfioCore());
  for (const driver of [createVirtioNetDriver(), createMttyDriver(), createVgpuDriver()])
    core.registerVendorDriver(driver, { eventThread });
  return core;
}
