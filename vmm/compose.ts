/**
 * Puts a machine together: the one place that knows which implementation stands behind each port. tsyringe builds the
 * graph, each thing when it is first asked for; the Scope frees it, last made, first freed.
 */
import type { Bus, BusDevice, Doorbells, Interrupts, PciEnvironment } from '../devices/contracts.js';
import { createDebugExit, DEBUG_EXIT_PORT } from '../devices/debug-exit.js';
import { formatSlot, PCI_CONFIG_PORT, PCI_CONFIG_PORTS, PciHost } from '../devices/pci/host-bridge.js';
import { createPostCode, POST_CODE_PORT } from '../devices/post-code.js';
import { COM1_GSI, COM1_PORT, SERIAL_PORTS, Serial } from '../devices/serial.js';
import { GsiRouting, type GsiTarget } from '../kvm/gsi-routing.js';
import { MemorySlots } from '../kvm/memory-slots.js';
import { Kvm } from '../kvm/system.js';
import { KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER } from '../kvm/uapi.js';
import type { Vcpu } from '../kvm/vcpu.js';
import { KvmVfio, VfioFileOps } from '../kvm/vfio.js';
import type { Vm } from '../kvm/vm.js';
import { Mapping } from '../sys/mapping.js';
import { Scope } from '../sys/scope.js';
import { VfioProvider } from '../vfio/uapi.js';
import { type AssignedDevice, Assignment } from './assignment.js';
import { MmioBus, PioBus, RangeBus } from './bus.js';
import type { VmConfig } from './config.js';
import { SerialConsole } from './console.js';
import { KvmAssociation } from './device-space.js';
import { DeviceDisplay } from './display/device-display.js';
import { attachStep } from './dma-maps.js';
import { KvmDoorbells } from './doorbells.js';
import { ExitDispatcher } from './exit-dispatcher.js';
import { imageProgram } from './guest-image.js';
import type { GuestProgram } from './guest-program.js';
import { type DependencyContainer, instanceCachingFactory, container as root } from './injection.js';
import { KvmInterrupts } from './interrupts.js';
import * as layout from './layout.js';
import { createPlatform, TIMER_GSI } from './linux/index.js';
import { linuxProgram } from './linux-program.js';
import { Machine } from './machine.js';
import { EventThread, MachinePorts } from './machine-ports.js';
import { MemoryMap, MemorySlotPort } from './memory-map.js';
import type { Plugin } from './plugin.js';
import { EventSignals } from './signals.js';
import { GsiRoutingToken, KvmToken, VmConfigToken, VmToken } from './tokens.js';
import { createVfioProviders } from './vfio-providers.js';

/** A machine that is ready to run; disposing closes all of it. */
export interface ComposedMachine extends Disposable {
  readonly machine: Machine;
}

/** First slot for devices that do not ask for one; 0 is the host bridge, 1 and 2 stay free as on other machines. */
const FIRST_SLOT = 3;

/** The 8254 raises GSI 0, which reaches the I/O APIC at another pin, as on any PC. */
const TIMER_TARGETS: readonly GsiTarget[] = [
  { kind: 'pin', irqchip: KVM_IRQCHIP_PIC_MASTER, pin: 0 },
  { kind: 'pin', irqchip: KVM_IRQCHIP_IOAPIC, pin: TIMER_GSI },
];

/** Without these a device cannot be assigned; every KVM of the last decade has them. */
const NEEDED = [
  'KVM_CAP_IRQCHIP',
  'KVM_CAP_IRQ_ROUTING',
  'KVM_CAP_IRQFD',
  'KVM_CAP_IRQFD_RESAMPLE',
  'KVM_CAP_IOEVENTFD',
  'KVM_CAP_IOEVENTFD_ANY_LENGTH',
  'KVM_CAP_IMMEDIATE_EXIT',
] as const;

/**
 * Builds a machine from its configuration. Machine thread only.
 * @throws SysError, GuestImageError, RangeError of whatever cannot be had; nothing is left open
 */
export function compose(
  config: VmConfig,
  ports: MachinePorts,
  eventThread: EventThread,
  plugins: readonly Plugin[],
): ComposedMachine {
  using scope = new Scope();
  // First: it is the likeliest to be wrong, and nothing is open yet.
  const program = config.kernel === undefined ? imageProgram(config) : linuxProgram(config.kernel, config);
  const container = root.createChildContainer();
  container.register(VmConfigToken, { useValue: config });
  container.register(MachinePorts, { useValue: ports });
  container.register(EventThread, { useValue: eventThread });
  registerKvm(container, scope);
  registerVfio(container, scope, plugins);
  const machine = buildMachine(container, scope, config, program);
  program.load(container.resolve(MemoryMap), machine.bootVcpu);
  const owned = scope.move();
  return { machine, [Symbol.dispose]: () => owned[Symbol.dispose]() };
}

/** Everything that stands on /dev/kvm. */
function registerKvm(container: DependencyContainer, scope: Scope): void {
  const once = <T>(make: (from: DependencyContainer) => T) => ({
    useFactory: instanceCachingFactory<T>(make),
  });
  container.register(
    KvmToken,
    once(() => openKvm(scope)),
  );
  container.register(
    VmToken,
    once((from) => scope.own(createVm(from.resolve<Kvm>(KvmToken)))),
  );
  container.register(
    GsiRoutingToken,
    once((from) => {
      const routing = GsiRouting.create(from.resolve<Vm>(VmToken), {
        isIoapicRouted: true,
        isPicRouted: true,
      });
      routing.set(0, TIMER_TARGETS);
      return routing;
    }),
  );
  container.register(
    MemorySlotPort,
    once((from) => new MemorySlots(from.resolve<Vm>(VmToken))),
  );
  container.register(
    MemoryMap,
    once((from) => {
      const memory = scope.own(new MemoryMap(from.resolve(MemorySlotPort)));
      const { ram: handle } = from.resolve<MachinePorts>(MachinePorts);
      const ram = scope.own(Mapping.borrow(handle, handle.fd));
      memory.addRam(BigInt(ram.bytes), ram);
      return memory;
    }),
  );
  container.register(PioBus, { useValue: new RangeBus('pio') });
  container.register(MmioBus, { useValue: new RangeBus('mmio') });
  container.registerSingleton(ExitDispatcher);
}

function openKvm(scope: Scope): Kvm {
  const kvm = scope.own(Kvm.open());
  kvm.requireExtensions(NEEDED);
  return kvm;
}

function createVm(kvm: Kvm): Vm {
  const vm = kvm.createVm();
  vm.setTssAddr(layout.KVM_TSS_ADDRESS);
  vm.setIdentityMapAddr(layout.KVM_IDENTITY_MAP_ADDRESS);
  vm.createIrqchip();
  vm.createPit2();
  // With it an instruction that KVM cannot emulate is named in the report of the crash.
  if (vm.checkExtension('KVM_CAP_EXIT_ON_EMULATION_FAILURE') > 0)
    vm.enableCap('KVM_CAP_EXIT_ON_EMULATION_FAILURE', 1n);
  return vm;
}

/** The VFIO providers, and the only place where kvm/ and vfio/ meet: the port by which kvm-vfio reaches core files. */
function registerVfio(container: DependencyContainer, scope: Scope, plugins: readonly Plugin[]): void {
  const eventThread = container.resolve<EventThread>(EventThread);
  const { core, providers } = createVfioProviders(scope, eventThread, plugins);
  for (const provider of providers) container.register(VfioProvider, { useValue: provider });
  container.register(VfioFileOps, { useValue: core.vfioFileOps });
  container.register(KvmAssociation, {
    useFactory: instanceCachingFactory((from) =>
      scope.own(KvmVfio.create(from.resolve<Vm>(VmToken), from.resolve<VfioFileOps>(VfioFileOps))),
    ),
  });
}

function buildMachine(
  container: DependencyContainer,
  scope: Scope,
  config: VmConfig,
  program: GuestProgram,
): Machine {
  const ports = container.resolve<MachinePorts>(MachinePorts);
  const vm = container.resolve<Vm>(VmToken);
  const memory = container.resolve(MemoryMap);
  const pio = container.resolve<RangeBus>(PioBus);
  const mmio = container.resolve<RangeBus>(MmioBus);
  const environment: PciEnvironment = {
    mmio,
    pio,
    memory,
    doorbells: container.resolve<Doorbells>(KvmDoorbells),
    interrupts: container.resolve<Interrupts>(KvmInterrupts),
    signals: scope.own(container.resolve(EventSignals)),
    windows: [layout.PCI_WINDOW, layout.PCI_WINDOW_64, layout.PCI_IO_WINDOW],
  };
  const reset = () => machine.end({ kind: 'reset' });
  const pci = PciHost.create({ reset });
  const put = (bus: Bus, base: number | bigint, bytes: number | bigint, device: BusDevice) =>
    scope.own(bus.add(BigInt(base), BigInt(bytes), device));
  put(pio, PCI_CONFIG_PORT, PCI_CONFIG_PORTS, pci.ports);
  put(mmio, layout.ECAM_BASE, layout.ECAM_BYTES, pci.ecam);

  const console = new SerialConsole(ports.emit);
  const serial = new Serial({
    name: 'COM1',
    transmit: (bytes) => console.write(bytes),
    raise: (isHigh) => vm.irqLine(COM1_GSI, isHigh),
  });
  put(pio, COM1_PORT, SERIAL_PORTS, serial);

  const vcpus = createVcpus(container.resolve<Kvm>(KvmToken), vm, config, program, scope);
  const plugs = new Map<number, Disposable>();
  const platform = createPlatform({
    nowNs: () => process.hrtime.bigint(),
    nowMs: () => Date.now(),
    irqLine: (gsi, level) => vm.irqLine(gsi, level),
    powerOff: () => machine.end({ kind: 'powered-off' }),
    reset,
    eject: (slot) => unplug(plugs.get(slot)),
  });
  for (const { base, count, device } of platform.ranges) put(pio, base, count, device);
  const devices = assignDevices(container.resolve(Assignment), pci, config, environment, {
    scope,
    plugs,
    askGuest: program.hasAcpi ? (slot) => platform.requestUnplug(slot) : undefined,
  });
  const machine = new Machine({
    ports,
    memory,
    pio,
    mmio,
    exits: container.resolve(ExitDispatcher),
    vcpus,
    serial,
    console,
    devices,
    displays: devices.flatMap(
      ({ slot, name, assigned }) => DeviceDisplay.find(slot, name, assigned.file) ?? [],
    ),
    platform,
  });
  put(
    pio,
    POST_CODE_PORT,
    1,
    createPostCode((code) => machine.mark(code)),
  );
  put(
    pio,
    DEBUG_EXIT_PORT,
    1,
    createDebugExit((status) => machine.end({ kind: 'verdict', status })),
  );
  return machine;
}

function createVcpus(
  kvm: Kvm,
  vm: Vm,
  config: VmConfig,
  program: GuestProgram,
  scope: Scope,
): readonly Vcpu[] {
  const host = {
    supported: kvm.getSupportedCpuid(),
    hasTscDeadline: kvm.checkExtension('KVM_CAP_TSC_DEADLINE_TIMER') > 0,
  };
  return Array.from({ length: config.vcpus }, (_, id) => {
    const vcpu = scope.own(vm.createVcpu(id, config.ffi));
    program.setUpVcpu(vcpu, id, host);
    return vcpu;
  });
}

/** Takes a device away while the guest runs: what fails on the way is told, and does not end the guest. */
function unplug(plug: Disposable | undefined): void {
  try {
    plug?.[Symbol.dispose]();
  } catch (error) {
    attachStep(`on the way out: ${(error as Error).message}`);
  }
}

/** How devices leave while the machine runs. */
interface Unplugging {
  /** Owns what is still there at the end. */
  readonly scope: Scope;
  /** By slot: disposing takes the device from the guest and closes it. */
  readonly plugs: Map<number, Disposable>;
  /** Asks the guest to let go of what is in a slot; undefined if it could not hear that. */
  readonly askGuest: ((slot: number) => void) | undefined;
}

function assignDevices(
  assignment: Assignment,
  pci: PciHost,
  config: VmConfig,
  environment: PciEnvironment,
  { scope, plugs, askGuest }: Unplugging,
): { readonly slot: number; readonly name: string; readonly assigned: AssignedDevice }[] {
  const wanted = new Set(config.devices.map(({ slot }) => slot));
  let next = FIRST_SLOT;
  return config.devices.map((device) => {
    while (device.slot === undefined && wanted.has(next)) next++;
    const slot = device.slot ?? next++;
    const place = { device: slot, function: 0 };
    const name = `${formatSlot(place)} ${device.address}`;
    const plug = scope.own(new Scope());
    plugs.set(slot, plug);
    let isAsked = false;
    const requested = () => {
      // The host asks again, every ten seconds: a guest that has not let go by then loses the device all the same.
      if (askGuest === undefined || isAsked) unplug(plug);
      else askGuest(slot);
      isAsked = true;
    };
    // INTA# to INTD# are swizzled by slot, so that neighbours do not share a line.
    const routeIntx = (pin: number) => layout.PCI_INTX_GSIS[(slot + pin - 1) % layout.PCI_INTX_GSIS.length];
    const assigned = plug.own(assignment.attach(device, name, environment, { routeIntx, requested }));
    plug.own(pci.add(place, assigned.function));
    return { slot, name, assigned };
  });
}
