/** The machine's assigned devices: attaches them to its PCI bus and removes them, before the guest boots and while it runs. */

import { formatSlot, type PciHost } from '../devices/pci/host-bridge.js';
import { errno } from '../sys/errno.js';
import { SysError } from '../sys/error.js';
import { disposable, Scope } from '../sys/scope.js';
import type { AssignedDevice, Assignment, AttachOptions, VfPlaces } from '../vfio/assign/index.js';
import type { InputEvent } from '../vfio/driver.js';
import type { DeviceConfig } from './config.js';
import { giveFaults } from './device-faults.js';
import { giveInput } from './device-input.js';
import { DeviceDisplay } from './display/device-display.js';
import * as layout from './layout.js';
import { slotsOf } from './slots.js';

/** A device in its PCI slot. */
export interface SlottedDevice {
  readonly slot: number;
  /** Its number among the functions of the slot. */
  readonly function: number;
  /** `00:03.0 virtio-net` */
  readonly name: string;
  /** As it was attached, with its slot. */
  readonly config: DeviceConfig;
  readonly assigned: AssignedDevice;
  /** Absent if it shows no picture, or another function of the slot does. */
  readonly displays: readonly DeviceDisplay[];
}

/** What {@link AssignedDevices} needs of its machine. */
export interface AssignedDevicesPorts {
  readonly assignment: Assignment;
  readonly pci: PciHost;
  /** The host wants the device in this slot back. */
  readonly requested: (slot: number) => void;
  /** Runs the attaching of a device, to name its plug-in in errors. */
  readonly naming?: <T>(address: string, attach: () => T) => T;
}

interface Plug extends Disposable {
  readonly device: SlottedDevice;
}

/** The assigned devices by slot and function, in the order in which they were attached. Machine thread only. */
export class AssignedDevices implements Disposable {
  readonly #ports: AssignedDevicesPorts;
  readonly #plugs = new Set<Plug>();

  constructor(ports: AssignedDevicesPorts) {
    this.#ports = ports;
  }

  get list(): readonly SlottedDevice[] {
    return [...this.#plugs].map(({ device }) => device);
  }

  find(slot: number, number = 0): SlottedDevice | undefined {
    return this.list.find((device) => device.slot === slot && device.function === number);
  }

  /** @param call that names the slot. @throws SysError ENODEV for an empty one, or one without that function */
  get(slot: number, call: string, number = 0): SlottedDevice {
    const device = this.find(slot, number);
    if (device !== undefined) return device;
    const others = this.list.map(({ name }) => name).join(', ');
    const hint = others === '' ? 'the machine has no assigned device' : `devices are: ${others}`;
    const target = `PCI slot ${slot}${number === 0 ? '' : `, function ${number}`}`;
    throw new SysError({ call, target, errno: errno.ENODEV, hint });
  }

  /**
   * Gives faults to a function of a slot, which may be a virtual one. @see AssignableDevice.inject
   * @throws also SysError ENODEV for an empty slot, or a VF that the guest has not enabled; ENOTSUP for a device that has no
   *   faults to give
   */
  inject(slot: number, faults: string, number: number): void {
    const physfn =
      this.find(slot, number) === undefined
        ? this.list.findLast((each) => each.slot === slot && each.function < number)
        : undefined;
    const vf = physfn?.assigned.vf?.(number - physfn.function - 1);
    if (physfn !== undefined && vf !== undefined) {
      giveFaults(vf, vfName(physfn.config.address, slot, physfn.function, number), faults);
      return;
    }
    const { name, assigned } = this.get(slot, 'inject', number);
    giveFaults(assigned.device, name, faults);
  }

  /** @see AssignableDevice.input. @throws also SysError ENODEV for an empty slot, ENOTSUP for a device that takes no events */
  input(slot: number, events: readonly InputEvent[], number: number): void {
    const { name, assigned } = this.get(slot, 'input', number);
    giveInput(assigned.device, name, events);
  }

  /**
   * Attaches devices, all or none: if one fails, those before it are detached, last attached first.
   * @param taken as {@link slotsOf} takes it, for slots without a device
   * @param options for a machine that starts: see there
   * @throws SysError of the device that failed; what fails of detaching is its `suppressed` list. EBUSY, ENOSPC: no slot
   */
  attach(
    devices: readonly DeviceConfig[],
    taken: (slot: number) => string | undefined = () => undefined,
    options: AttachOptions = {},
  ): readonly SlottedDevice[] {
    const holder = (slot: number) => this.find(slot)?.name;
    const slots = slotsOf(devices, (slot) => holder(slot) ?? taken(slot));
    const attachEach = (undo: Scope) =>
      devices.map((config, i) => this.#attach({ ...config, slot: slots[i] as number }, undo));
    return this.#ports.assignment.together(devices, attachEach, options);
  }

  #attach(config: DeviceConfig & { readonly slot: number }, undo: Scope): SlottedDevice {
    const { assignment, pci, requested, naming = (_address, attach) => attach() } = this.#ports;
    const { address, options, interface: how, slot, function: number = 0 } = config;
    const place = { device: slot, function: number };
    const name = `${formatSlot(place)} ${address}`;
    const request = {
      address,
      options,
      interface: how,
      name,
      // INTA# to INTD# are swizzled by slot, so that neighbours do not share a line.
      routeIntx: (pin: number) => layout.PCI_INTX_GSIS[(slot + pin - 1) % layout.PCI_INTX_GSIS.length],
      requested: () => requested(slot),
      reserveVfs: (count: number): VfPlaces => {
        const reserved = pci.reserve({ device: slot, function: number + 1 }, count, name);
        return {
          function: number,
          firstOffset: 1,
          stride: 1,
          name: (i) => vfName(address, slot, number, number + 1 + i),
          add: (i, vf) => reserved.add(i, vf),
          [Symbol.dispose]: () => reserved[Symbol.dispose](),
        };
      },
    };
    using scope = new Scope();
    const assigned = scope.own(naming(address, () => assignment.attach(request)));
    scope.own(pci.add(place, assigned.function));
    const isShown = this.list.some((other) => other.slot === slot && other.displays.length > 0);
    const displays = isShown ? [] : DeviceDisplay.all(slot, name, assigned.file);
    for (const display of displays) scope.own(display);
    const device = { slot, function: number, name, config, assigned, displays };
    scope.defer(() => this.#plugs.delete(plug));
    const owned = scope.move();
    const plug = { device, ...disposable(() => owned[Symbol.dispose]()) };
    this.#plugs.add(plug);
    undo.own(plug);
    return device;
  }

  /**
   * Removes the device in a slot, with all its functions, from the bus, detaches and closes it. Does nothing for an empty slot.
   * @throws what failed on the way; the device is gone in any case
   */
  remove(slot: number): void {
    using scope = new Scope();
    for (const plug of this.#plugs) if (plug.device.slot === slot) scope.own(plug);
  }

  /** Resets all devices first, so that functions of one slot are reset together: the guest no longer runs. */
  [Symbol.dispose](): void {
    this.#ports.assignment.reset(true);
    using scope = new Scope();
    for (const plug of this.#plugs) scope.own(plug);
  }
}

/** `00:03.1 testcard VF 0` */
const vfName = (address: string, slot: number, physfn: number, number: number): string =>
  `${formatSlot({ device: slot, function: number })} ${address} VF ${number - physfn - 1}`;
