/**
 * ACPI PCI hotplug: three 32-bit registers with one bit per slot of bus 0, through which the guest's AML detects changed
 * slots and ejects devices. The DSDT describes them; the guest's own hotplug driver uses its methods.
 */
import type { BusDevice } from '../contracts.js';

/** First port of {@link PciHotplug}. */
export const PCI_HOTPLUG_PORT = 0x620;
/** Number of ports of {@link PciHotplug}. */
export const PCI_HOTPLUG_PORTS = 12;
/** Number of the general-purpose event that makes the guest check the slots. */
export const PCI_HOTPLUG_GPE = 1;

/** Slots with a new device. Read to clear. */
export const PCI_HOTPLUG_UP = 0;
/** Slots whose device should be removed. Read to clear. */
export const PCI_HOTPLUG_DOWN = 4;
/** The guest writes it to eject the devices in these slots. */
export const PCI_HOTPLUG_EJECT = 8;

const SLOTS = 32;

/** What {@link PciHotplug} needs of the machine. Called in the machine thread. */
export interface PciHotplugPorts {
  /** Raises {@link PCI_HOTPLUG_GPE}. */
  readonly raiseGpe: () => void;
  /**
   * The guest ejected the device in `slot` (1 to 31), on request or by itself. The callee may remove the device before it
   * returns; the slot may be empty.
   */
  readonly eject: (slot: number) => void;
}

/** The hotplug registers. Machine thread only. */
export class PciHotplug implements BusDevice {
  readonly name = 'PCI hotplug';
  readonly #ports: PciHotplugPorts;
  #up = 0;
  #down = 0;

  constructor(ports: PciHotplugPorts) {
    this.#ports = ports;
  }

  /** Reports a new device in `slot` to the guest. @throws RangeError unless `slot` is 1 to 31 */
  announce(slot: number): void {
    this.#up |= bit(slot);
    this.#ports.raiseGpe();
  }

  /**
   * Asks the guest to eject the device in `slot`. The guest responds through {@link PciHotplugPorts.eject}, or not at
   * all: it may be busy, still booting, or refuse.
   * @throws RangeError unless `slot` is 1 to 31
   */
  requestUnplug(slot: number): void {
    this.#down |= bit(slot);
    this.#ports.raiseGpe();
  }

  read(offset: number, data: Uint8Array): void {
    if (data.length !== 4) return;
    const write = (value: number) => new DataView(data.buffer, data.byteOffset).setUint32(0, value, true);
    if (offset === PCI_HOTPLUG_UP) {
      write(this.#up >>> 0);
      this.#up = 0;
    } else if (offset === PCI_HOTPLUG_DOWN) {
      write(this.#down >>> 0);
      this.#down = 0;
    }
  }

  write(offset: number, data: Uint8Array): void {
    if (offset !== PCI_HOTPLUG_EJECT || data.length !== 4) return;
    const slots = new DataView(data.buffer, data.byteOffset).getUint32(0, true);
    for (let slot = 1; slot < SLOTS; slot++) {
      if ((slots & bit(slot)) === 0) continue;
      this.#down &= ~bit(slot);
      this.#ports.eject(slot);
    }
  }
}

function bit(slot: number): number {
  if (!Number.isInteger(slot) || slot < 1 || slot >= SLOTS)
    throw new RangeError(`PCI slot ${slot} cannot change`);
  return 1 << slot;
}
