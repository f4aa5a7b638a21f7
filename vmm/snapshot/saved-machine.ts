/** A machine's state as sections: what of it is saved, and in which order it is loaded. Machine thread only. */
import { formatSlot } from '../../devices/pci/host-bridge.js';
import { loadCpuid, saveCpuid } from '../../kvm/cpuid-state.js';
import type { Vcpu } from '../../kvm/vcpu.js';
import { loadVcpu, msrsOf, saveVcpu } from '../../kvm/vcpu-state.js';
import type { Vm } from '../../kvm/vm.js';
import { loadVm, saveVm } from '../../kvm/vm-state.js';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { Scope } from '../../sys/scope.js';
import type { SectionReader, StateSection } from '../../sys/state-sections.js';
import {
  attachStep,
  type DevicePreCopy,
  loadDeviceState,
  migrationFlags,
  quiesceDevice,
  saveDeviceState,
  startDevice,
  stopDevice,
} from '../../vfio/assign/index.js';
import { VFIO_MIGRATION_STOP_COPY } from '../../vfio/feature.js';
import type { SlottedDevice } from '../assigned-devices.js';
import type { ArrivingDevices } from '../move/arriving-devices.js';
import type { SavedPart } from '../saved-part.js';
import { differenceOf, type Machine } from './config.js';
import type { UnsavableDevice } from './unplugged-save.js';

const VERSION = 1;
const MACHINE = 'machine';
/** What compose.ts gives a VM. */
const CHIPS = { hasIrqchip: true, hasPit: true };

/** A device as it is saved; {@link SlottedDevice} is one. */
export interface SavedDevice {
  readonly slot: number;
  readonly function: number;
  readonly name: string;
  readonly assigned: Pick<SlottedDevice['assigned'], 'file' | 'function'>;
}

/** What KVM has of a machine. */
export interface SavedProcessors {
  readonly vm: Vm;
  readonly vcpus: readonly Vcpu[];
  /** KVM_GET_MSR_INDEX_LIST */
  readonly msrs: () => readonly number[];
}

/** The parts of a machine. */
export interface SavedMachineParts {
  /** What it is, for the machine that takes it over. */
  readonly machine: () => Machine;
  readonly processors: Pick<Processors, 'save' | 'load'>;
  /** The PCI host, platform devices, serial ports, hotplug. */
  readonly parts: readonly SavedPart[];
  readonly devices: { readonly list: readonly SavedDevice[] };
  /** Slots with a device that is being detached. */
  readonly awaited: () => readonly number[];
}

/** Interrupt controllers, clock and vCPUs. */
export class Processors {
  readonly #of: SavedProcessors;

  constructor(of: SavedProcessors) {
    this.#of = of;
  }

  /** @throws SysError of the KVM call that failed. All vCPUs are at an instruction boundary */
  save(): StateSection[] {
    const { vm, vcpus, msrs } = this.#of;
    const list = msrs();
    return [
      ...saveVm(vm, CHIPS),
      ...vcpus.flatMap((vcpu, i) => [
        ...saveVcpu(vcpu, `vcpu ${i}`, msrsOf(vcpu, list), true),
        saveCpuid(vcpu, `vcpu ${i}`),
      ]),
    ];
  }

  /** @throws SysError that names the section */
  load(state: SectionReader): void {
    const { vm, vcpus } = this.#of;
    loadVm(vm, state, CHIPS);
    for (const [i, vcpu] of vcpus.entries()) {
      loadVcpu(vcpu, `vcpu ${i}`, state, true);
      loadCpuid(vcpu, `vcpu ${i}`, state);
    }
  }
}

/** Devices that are read while they run, by their file. */
export type PreCopied = ReadonlyMap<unknown, Pick<DevicePreCopy, 'quiesce' | 'stop' | 'rest'>>;

/** A machine whose devices are at rest. */
export interface StoppedMachine extends Disposable {
  /** @throws SysError of the device or the call that failed */
  sections(): readonly StateSection[];
}

export class SavedMachine {
  readonly #parts: SavedMachineParts;

  constructor(parts: SavedMachineParts) {
    this.#parts = parts;
  }

  /** The devices that cannot be saved. @throws SysError of a device */
  get unsavable(): readonly UnsavableDevice[] {
    return this.#parts.devices.list.flatMap((device) => {
      const why = whyNot(device);
      return why === undefined ? [] : [{ slot: device.slot, name: device.name, why }];
    });
  }

  /**
   * Refuses what cannot be saved, before anything is stopped. @param call named in the error
   * @throws SysError ENOTSUP naming every device that cannot be saved, EBUSY while one is being detached; of a device
   */
  check(call = 'snapshot'): void {
    const unable = this.unsavable;
    if (unable.length > 0) {
      const hint = unable.map(({ name, why }) => `${name}: ${why}`).join('; ');
      const target = unable.map(({ name }) => name).join(', ');
      // Only a snapshot can have it done.
      const remedy =
        call === 'snapshot' ? 'detach it first, or have it done (--detach-unmigratable)' : 'detach it first';
      throw new SysError({ call, target, errno: errno.ENOTSUP, hint: `${hint}: ${remedy}` });
    }
    const [slot] = this.#parts.awaited();
    if (slot === undefined) return;
    const hint = 'it is being detached: wait until it is gone';
    throw new SysError({ call, target: `PCI slot ${slot}`, errno: errno.EBUSY, hint });
  }

  /**
   * Stops every device, passes the state to `use`, together with the guest's memory, which nobody changes meanwhile, and lets the
   * devices go on. All vCPUs are at an instruction boundary.
   * @throws SysError of the device or the call that failed, or of `use`; the devices go on then, too
   */
  save<T>(use: (sections: readonly StateSection[]) => T): T {
    using stopped = this.stop();
    return use(stopped.sections());
  }

  /**
   * Stops every device, after those with VFIO_MIGRATION_P2P begin no DMA any more. All vCPUs are at an instruction boundary.
   * @param preCopied devices of which something was read while they ran, by their file: the state has the rest
   * @returns the state; disposing lets the devices go on
   * @throws SysError of the device that failed; all go on then
   */
  stop(preCopied: PreCopied = new Map()): StoppedMachine {
    const { list } = this.#parts.devices;
    using undo = new Scope();
    undo.defer(() => letGoOn(list));
    for (const { assigned } of list) {
      const preCopy = preCopied.get(assigned.file);
      if (preCopy === undefined) quiesceDevice(assigned.file);
      else preCopy.quiesce();
    }
    for (const { assigned } of list) {
      const preCopy = preCopied.get(assigned.file);
      if (preCopy === undefined) stopDevice(assigned.file);
      else preCopy.stop();
    }
    const owned = undo.move();
    return { sections: () => this.#sections(preCopied), [Symbol.dispose]: () => owned[Symbol.dispose]() };
  }

  #sections(preCopied: PreCopied): readonly StateSection[] {
    const { machine, processors, parts, devices } = this.#parts;
    const section = (name: string, data: Uint8Array): StateSection => ({ name, version: VERSION, data });
    return [
      section(MACHINE, Buffer.from(JSON.stringify(machine()))),
      ...devices.list.flatMap((device) => [
        section(
          `${placeOf(device)}/device`,
          preCopied.get(device.assigned.file)?.rest() ?? saveDeviceState(device.assigned.file, device.name),
        ),
        section(`${placeOf(device)}/function`, device.assigned.function.save?.() ?? new Uint8Array(0)),
      ]),
      ...parts.map((part) => section(part.name, part.save())),
      // Last: what was on its way to a local APIC has arrived there once the functions' interrupts have been masked.
      ...processors.save(),
    ];
  }

  /**
   * Loads a state into a new machine, whose memory has its contents already; {@link start} lets its devices go on. No vCPU has run.
   * @param arriving devices that have had pieces of their state
   * @throws SysError that names the section; the machine is of no use then
   */
  load(state: SectionReader, arriving?: Pick<ArrivingDevices, 'finish'>): void {
    const { machine, processors, parts, devices } = this.#parts;
    state.load(MACHINE, VERSION, undefined, (data) => checkMachine(data, machine()));
    processors.load(state);
    for (const part of parts)
      state.load(part.name, VERSION, undefined, (data) => {
        if (!part.load(data)) throw new RangeError(`${data.length} bytes that are no state of it`);
      });
    for (const device of devices.list) {
      const { file, function: pciFunction } = device.assigned;
      state.load(`${placeOf(device)}/device`, VERSION, undefined, (data) => {
        if (arriving?.finish(placeOf(device), data) !== true) loadDeviceState(file, device.name, data);
      });
      state.load(`${placeOf(device)}/function`, VERSION, undefined, (data) => {
        if (pciFunction.load === undefined) throw unloadable(device);
        pciFunction.load(data);
      });
    }
    state.finish();
  }

  /** Lets devices that were loaded go on. @throws SysError of the device that failed */
  start(): void {
    const { list } = this.#parts.devices;
    for (const { assigned } of list) quiesceDevice(assigned.file);
    for (const { assigned } of list) startDevice(assigned.file);
  }
}

/** `pci 03.0`: the names of sections have no colon. */
export const placeOf = (device: Pick<SavedDevice, 'slot' | 'function'>): string =>
  `pci ${formatSlot({ device: device.slot, function: device.function }).slice(3)}`;

function whyNot({ assigned }: SavedDevice): string | undefined {
  if ((migrationFlags(assigned.file) & VFIO_MIGRATION_STOP_COPY) === 0)
    return 'it has no migration (VFIO_DEVICE_FEATURE_MIGRATION)';
  const { save, load, inspect } = assigned.function;
  if (save === undefined || load === undefined) return 'its PCI function cannot be saved';
  const vfs = inspect?.call(assigned.function).virtualFunctions?.length ?? 0;
  return vfs > 0
    ? `its guest has enabled ${vfs} virtual functions, which cannot be saved (sriov_numvfs 0 disables them)`
    : undefined;
}

const unloadable = ({ name }: SavedDevice): SysError =>
  new SysError({
    call: 'load',
    target: name,
    errno: errno.ENOTSUP,
    hint: 'its PCI function cannot be loaded',
  });

/** As {@link SavedMachine.start}, whichever of them fails. */
function letGoOn(list: readonly SavedDevice[]): void {
  for (const { assigned } of list) {
    try {
      quiesceDevice(assigned.file);
    } catch {
      // then its start tells
    }
  }
  for (const { name, assigned } of list) {
    try {
      startDevice(assigned.file);
    } catch (error) {
      attachStep(`${name} does not go on after it was saved: ${(error as Error).message}`);
    }
  }
}

/** @throws RangeError for no description, or another machine's */
function checkMachine(data: Uint8Array, now: Machine): void {
  let saved: unknown;
  try {
    saved = JSON.parse(Buffer.from(data).toString());
  } catch {
    throw new RangeError('is not JSON');
  }
  const isDescription =
    typeof saved === 'object' &&
    saved !== null &&
    Object.values(saved).every((value) => typeof value === 'string');
  if (!isDescription) throw new RangeError('describes no machine');
  const difference = differenceOf(saved as Machine, now);
  if (difference !== undefined) throw new RangeError(difference);
}
