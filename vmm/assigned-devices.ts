/** Attaches the configured devices to the machine's PCI bus, and detaches them while the guest runs. */
import { formatSlot, type PciHost } from '../devices/pci/host-bridge.js';
import { Scope } from '../sys/scope.js';
import { type AssignedDevice, type Assignment, attachStep } from '../vfio/assign/index.js';
import type { DeviceConfig } from './config.js';
import * as layout from './layout.js';
import { slotsOf } from './slots.js';

/** A device in its PCI slot. */
export interface SlottedDevice {
  readonly slot: number;
  /** `00:03.0 virtio-net` */
  readonly name: string;
  readonly assigned: AssignedDevice;
}

/** The assigned devices by slot; detaches them at any time. Machine thread only. */
export class AssignedDevices implements Disposable {
  readonly list: readonly SlottedDevice[];
  readonly #assignment: Assignment;
  readonly #scope = new Scope();
  /** By slot: disposing detaches the device and closes it. */
  readonly #plugs = new Map<number, Disposable>();

  /**
   * @param askGuest asks the guest to release the device in a slot; undefined for a guest without ACPI hotplug
   * @param naming runs the attaching of a device, to name its plug-in in errors
   * @throws SysError of the device that cannot be attached; those before it have been detached
   */
  constructor(
    assignment: Assignment,
    pci: PciHost,
    devices: readonly DeviceConfig[],
    askGuest: ((slot: number) => void) | undefined,
    naming: <T>(address: string, attach: () => T) => T = (_address, attach) => attach(),
  ) {
    this.#assignment = assignment;
    using scope = new Scope();
    const slots = slotsOf(devices);
    this.list = devices.map((device, i) => {
      const slot = slots[i] as number;
      const plug = scope.own(new Scope());
      this.#plugs.set(slot, plug);
      const place = { device: slot, function: 0 };
      const name = `${formatSlot(place)} ${device.address}`;
      const { address, options, interface: how } = device;
      const request = {
        address,
        options,
        interface: how,
        name,
        // INTA# to INTD# are swizzled by slot, so that neighbours do not share a line.
        routeIntx: (pin: number) => layout.PCI_INTX_GSIS[(slot + pin - 1) % layout.PCI_INTX_GSIS.length],
        requested: this.#onRequest(slot, askGuest),
      };
      const assigned = plug.own(naming(address, () => assignment.attach(request)));
      plug.own(pci.add(place, assigned.function));
      return { slot, name, assigned };
    });
    this.#scope.own(scope.move());
  }

  /** The host repeats its request every ten seconds. The guest has until the second one to release the device. */
  #onRequest(slot: number, askGuest: ((slot: number) => void) | undefined): () => void {
    let isAsked = false;
    return () => {
      if (askGuest === undefined || isAsked) this.detach(slot);
      else askGuest(slot);
      isAsked = true;
    };
  }

  /** Detaches the device in a slot and closes it. A failure on the way is reported; the guest keeps running. */
  detach(slot: number): void {
    try {
      this.#plugs.get(slot)?.[Symbol.dispose]();
    } catch (error) {
      attachStep(`while detaching: ${(error as Error).message}`);
    }
  }

  /** Resets all devices first, so that functions of one slot are reset together: the guest no longer runs. */
  [Symbol.dispose](): void {
    this.#assignment.reset(true);
    this.#scope[Symbol.dispose]();
  }
}
