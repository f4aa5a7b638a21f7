/**
 * Builds a machine. The container has an implementation of each port, a plug-in's or else the default, and creates it
 * on first use; the Scope releases them in reverse order.
 */
import { type Bus, type BusDevice, Clock, MmioBus, PioBus } from '../devices/contracts.js';
import { createDebugExit, DEBUG_EXIT_PORT } from '../devices/debug-exit.js';
import { assignBars } from '../devices/pci/bar-assignment.js';
import { PCI_CONFIG_PORT, PCI_CONFIG_PORTS, PciHost } from '../devices/pci/host-bridge.js';
import { createPostCode, POST_CODE_PORT } from '../devices/post-code.js';
import { SERIAL_PORTS } from '../devices/serial.js';
import type { Kvm } from '../kvm/system.js';
import type { Vcpu } from '../kvm/vcpu.js';
import type { Vm } from '../kvm/vm.js';
import { errno } from '../sys/errno.js';
import { SysError } from '../sys/error.js';
import { EventThread } from '../sys/event-task.js';
import type { IoctlDoor } from '../sys/ioctl-door.js';
import { Mapping } from '../sys/mapping.js';
import { openDoor } from '../sys/open-door.js';
import { Scope } from '../sys/scope.js';
import { SectionReader } from '../sys/state-sections.js';
import { Assignment, attachStep, requireProvider } from '../vfio/assign/index.js';
import { VfioProvider } from '../vfio/provider.js';
import type { RangeBus } from './assign/bus.js';
import { ExitDispatcher } from './assign/exit-dispatcher.js';
import { MemoryMap } from './assign/memory-map.js';
import { holdNothing, PageTrack } from './assign/page-track.js';
import { type DeviceSources, rangeBus } from './assign/ports.js';
import { registerDefault } from './assign/register.js';
import { KvmToken, VmToken } from './assign/tokens.js';
import { AssignedDevices } from './assigned-devices.js';
import type { DeviceConfig, VmConfig } from './config.js';
import { checkDevices } from './device-check.js';
import type { GuestProgram } from './guest-program.js';
import { Hotplug } from './hotplug.js';
import { type DependencyContainer, container as root } from './injection.js';
import * as layout from './layout.js';
import { createPlatform, type Platform } from './linux/platform.js';
import { Machine } from './machine.js';
import type { MachinePorts } from './machine-ports.js';
import { ArrivingDevices } from './move/arriving-devices.js';
import { Mover } from './move/mover.js';
import { registerPcKvm } from './pc-kvm.js';
import type { Plugin } from './plugin.js';
import { configurePorts, registerPorts, withPluginNamed } from './plugin-ports.js';
import { addPcRam } from './ram-layout.js';
import { SerialPorts } from './serial-ports.js';
import { describeMachine, savedConfig } from './snapshot/config.js';
import { Processors, placeOf, SavedMachine } from './snapshot/saved-machine.js';
import { Saver } from './snapshot/saver.js';

/** A machine that is ready to run; disposing closes all of it. */
export interface ComposedMachine extends Disposable {
  readonly machine: Machine;
}

/** What devices a machine can have. */
export interface MachineDevices {
  readonly plugins: readonly Plugin[];
  /** Where this package's own come from. */
  readonly sources: DeviceSources;
}

/** Where the machine puts BARs, and ACPI says that they can be. */
const WINDOWS = [layout.PCI_WINDOW, layout.PCI_WINDOW_64, layout.PCI_IO_WINDOW];

const systemClock: Clock = { nowNs: () => process.hrtime.bigint(), nowMs: () => Date.now() };

/**
 * Builds a machine from its configuration. Machine thread only.
 * @param program what it runs
 * @param hostCheck the rules for devices of the host, if the configuration may have one
 * @throws ConfigError, SysError, GuestImageError, RangeError of the step that failed; nothing is left open
 */
export function compose(
  config: VmConfig,
  program: GuestProgram,
  ports: MachinePorts,
  eventThread: EventThread,
  { plugins, sources }: MachineDevices,
  hostCheck?: typeof import('./host-check.js'),
): ComposedMachine {
  using scope = new Scope();
  const container = root.createChildContainer();
  configurePorts(container, plugins, scope);
  registerPcKvm(container, scope);
  registerDefault(container, Clock, () => systemClock);
  const windows = [...WINDOWS, ...layout.holeAboveRam(config.memory)];
  const holder = offerGuest(container, scope);
  registerPorts(container, plugins, { eventThread, windows }, sources, scope);
  const providers = container.resolveAll<VfioProvider>(VfioProvider);
  const all = { ...config, devices: [...config.devices, ...(ports.restored?.plugged ?? [])] };
  checkDevices(providers, all.devices);
  hostCheck?.refuseHopeless(providers, all);
  const vm = container.resolve<Vm>(VmToken); // first, so that it is closed last
  if (config.dirtyRing > 0) vm.enableDirtyRings(config.dirtyRing);
  const isRamShared =
    config.sharedMemory || config.hugePages !== 'off' || needsSharedMemory(container, all.devices);
  const ram = ports.requestRam(isRamShared);
  const memory = container.resolve(MemoryMap);
  const mapping = scope.own(Mapping.borrow(ram, ram.fd));
  addPcRam(memory, mapping);
  container.resolve(ExitDispatcher); // before the devices, whose drivers look for what it offers
  const check = (devices: readonly DeviceConfig[]) => checkLateDevices(container, devices, isRamShared);
  const { machine, saved, platform, hotplug, devices } = buildMachine(container, scope, config, program, {
    ports,
    plugins,
    check,
    ram: mapping,
  });
  holder.machine = machine;
  if (ports.restored === undefined) program.load(memory, machine.bootVcpu);
  else {
    const { isCopy, plugged } = ports.restored;
    using arriving = new ArrivingDevices(devices);
    const { sections, target } = ports.awaitState((piece) => arriving.take(piece));
    saved.load(new SectionReader(sections, target), arriving);
    if (isCopy) {
      saved.start();
      takeIdentity(program, memory, platform);
    }
    hotplug.attach(plugged);
  }
  const owned = scope.move();
  return { machine, [Symbol.dispose]: () => owned[Symbol.dispose]() };
}

/** A guest that is put back in time is told that it is another machine now. */
function takeIdentity(program: GuestProgram, memory: MemoryMap, platform: Platform): void {
  if (program.renewGeneration === undefined) return;
  program.renewGeneration(memory);
  platform.announceGeneration();
}

/**
 * Lets vendor drivers of this process use the VM's memory, unless a plug-in dispatches exits itself: what drivers track is
 * served there.
 * @returns to be given the machine whose vCPUs are held while pages begin or end to be tracked
 */
function offerGuest(container: DependencyContainer, scope: Scope): { machine?: Machine } {
  const holder: { machine?: Machine } = {};
  registerDefault(container, ExitDispatcher, () => {
    const vm = container.resolve<Vm>(VmToken);
    const memory = container.resolve(MemoryMap);
    const buses = [
      rangeBus(container.resolve<Bus>(PioBus)),
      rangeBus(container.resolve<Bus>(MmioBus)),
    ] as const;
    if (vm.checkExtension('KVM_CAP_READONLY_MEM') === 0) return new ExitDispatcher(...buses);
    const hold = () => holder.machine?.hold() ?? holdNothing();
    const track = scope.own(new PageTrack({ memory, reference: vm.reference, hold }));
    scope.own(vm.offerGuest(track));
    return new ExitDispatcher(...buses, track);
  });
  return holder;
}

/** Whether other processes must map guest RAM. @throws SysError ENODEV for an address that no provider takes */
function needsSharedMemory(
  container: DependencyContainer,
  devices: readonly Pick<DeviceConfig, 'address'>[],
): boolean {
  const providers = container.resolveAll<VfioProvider>(VfioProvider);
  const users = devices.map(({ address }) => requireProvider(providers, address));
  return users.some((provider) => provider.needsSharedMemory === true);
}

/**
 * Checks devices that are attached to a running machine, whose memory is what it is.
 * @throws ConfigError for a wrong address or option; SysError EINVAL for a device that needs shared memory
 */
function checkLateDevices(
  container: DependencyContainer,
  devices: readonly DeviceConfig[],
  isRamShared: boolean,
): void {
  checkDevices(container.resolveAll<VfioProvider>(VfioProvider), devices);
  if (isRamShared) return;
  const needy = devices.find((device) => needsSharedMemory(container, [device]));
  if (needy === undefined) return;
  const hint =
    'another process has to map the guest’s memory, and cannot, because it was made private to this one: start the ' +
    'machine with `--memory SIZE,shared=on` (sharedMemory: true), or with such a device';
  throw new SysError({ call: 'attach', target: needy.address, errno: errno.EINVAL, hint });
}

/** What the machine's parts get from outside. */
interface Surroundings {
  readonly ports: MachinePorts;
  readonly plugins: readonly Plugin[];
  /** Checks devices that are attached later. */
  readonly check: (devices: readonly DeviceConfig[]) => void;
  readonly ram: Mapping;
}

interface Built {
  readonly machine: Machine;
  readonly saved: SavedMachine;
  readonly platform: Platform;
  readonly hotplug: Hotplug;
  readonly devices: AssignedDevices;
}

function buildMachine(
  container: DependencyContainer,
  scope: Scope,
  config: VmConfig,
  program: GuestProgram,
  { ports, plugins, check, ram }: Surroundings,
): Built {
  const vm = container.resolve<Vm>(VmToken);
  const clock = container.resolve<Clock>(Clock);
  const pio = container.resolve<RangeBus>(PioBus);
  const mmio = container.resolve<RangeBus>(MmioBus);
  const put = (bus: Bus, base: number | bigint, bytes: number | bigint, device: BusDevice) =>
    scope.own(bus.add(BigInt(base), BigInt(bytes), device));
  const reset = () => machine.end({ kind: 'reset' });

  const pci = PciHost.create({ reset });
  put(pio, PCI_CONFIG_PORT, PCI_CONFIG_PORTS, pci.ports);
  put(mmio, layout.ECAM_BASE, layout.ECAM_BYTES, pci.ecam);
  const serial = scope.own(
    SerialPorts.create({
      links: ports.serial,
      emit: (event) => ports.events.emit(event),
      hasRoom: () => ports.hasSerialRoom(),
      eventThread: container.resolve<EventThread>(EventThread),
      irqLine: (gsi, level) => vm.irqLine(gsi, level),
    }),
  );
  for (const { base, device } of serial.ranges) put(pio, base, SERIAL_PORTS, device);
  const door = openDoor(config.ffi);
  const kvm = container.resolve<Kvm>(KvmToken);
  const vcpus = createVcpus(kvm, vm, { config, program, door }, scope);
  const platform = createPlatform({
    nowNs: () => clock.nowNs(),
    nowMs: () => clock.nowMs(),
    irqLine: (gsi, level) => vm.irqLine(gsi, level),
    powerOff: () => machine.end({ kind: 'powered-off' }),
    reset,
    eject: (slot) => hotplug.ejected(slot),
    report: (slot, event, status) => hotplug.reported(slot, event, status),
  });
  for (const { base, count, device } of platform.ranges) put(pio, base, count, device);
  const devices = scope.own(
    new AssignedDevices({
      assignment: container.resolve(Assignment),
      pci,
      requested: (slot) => hotplug.requested(slot),
      naming: (address, attach) => withPluginNamed(plugins, address, attach),
    }),
  );
  const hotplug = new Hotplug({
    devices,
    guest: program.hasAcpi ? platform : undefined,
    check,
    changed: (now) => ports.events.emit({ kind: 'devices', devices: now }),
  });
  // Devices that are restored may master the bus at once.
  const mapIn = ports.restored === undefined ? container.resolve<EventThread>(EventThread) : undefined;
  devices.attach(config.devices, undefined, { mapIn });
  hotplug.tell();
  if (program.expectsBars && ports.restored === undefined) assignBarsOf(pci);
  const configs = () => devices.list.map((device) => device.config);
  const saved = new SavedMachine({
    machine: () => describeMachine(config, configs()),
    processors: new Processors({ vm, vcpus, msrs: () => kvm.getMsrIndexList() }),
    parts: [
      { name: 'pci host', save: () => pci.save(), load: (state) => pci.load(state) },
      ...serial.saved,
      ...platform.saved,
      { name: 'hotplug', save: () => hotplug.save(), load: (state) => hotplug.load(state) },
    ],
    devices,
    awaited: () => hotplug.awaited,
  });
  const machine = new Machine({
    ports,
    memory: container.resolve(MemoryMap),
    pio,
    mmio,
    exits: container.resolve(ExitDispatcher),
    vm,
    vcpus,
    door: door.name,
    serial,
    devices,
    hotplug,
    platform,
    mover: new Mover({
      machine: saved,
      config: () => savedConfig(config, configs()),
      memory: container.resolve(MemoryMap),
      ramBytes: ram.bytes,
      devices: () =>
        devices.list.map((device) => {
          const { name, assigned } = device;
          return { name, place: placeOf(device), file: assigned.file };
        }),
    }),
    start: () => saved.start(),
    saver: new Saver({
      machine: saved,
      config: (unplugged) => savedConfig(config, configs(), unplugged),
      ram,
    }),
  });
  const mark = createPostCode((code) => machine.mark(code));
  put(pio, POST_CODE_PORT, 1, mark);
  const exit = createDebugExit((status) => machine.end({ kind: 'verdict', status }));
  put(pio, DEBUG_EXIT_PORT, 1, exit);
  return { machine, saved, platform, hotplug, devices };
}

/** As firmware does; reports what found no room. */
function assignBarsOf(pci: PciHost): void {
  const functions = [...pci.entries()].map(({ function: each }) => each);
  for (const { function: name, register, size, base } of assignBars(functions, WINDOWS)) {
    if (base !== undefined) continue;
    attachStep(`${name}: no window has room for the ${size} bytes of the BAR at 0x${register.toString(16)}`);
  }
}

interface VcpuNeeds {
  readonly config: VmConfig;
  readonly program: GuestProgram;
  readonly door: IoctlDoor;
}

function createVcpus(kvm: Kvm, vm: Vm, { config, program, door }: VcpuNeeds, scope: Scope): readonly Vcpu[] {
  const host = {
    supported: kvm.getSupportedCpuid(),
    hasTscDeadline: kvm.checkExtension('KVM_CAP_TSC_DEADLINE_TIMER') > 0,
  };
  return Array.from({ length: config.vcpus }, (_, id) => {
    const vcpu = scope.own(vm.createVcpu(id, door));
    program.setUpVcpu(vcpu, id, host);
    return vcpu;
  });
}
