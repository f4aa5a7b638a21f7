/**
 * The registers by which a guest's ACPI code learns that PCI slots have changed, and lets go of a device: three words of
 * one bit for each slot of bus 0. The DSDT describes them; the guest's own hotplug driver does the rest.
 */
import type { BusDevice } from '../contracts.js';

export const PCI_HOTPLUG_PORT = 0x620;
export const PCI_HOTPLUG_PORTS = 12;
/** The general-purpose event that tells the guest to look. */
export const PCI_HOTPLUG_GPE = 1;

/** Slots with a new device; reading clears it. */
export const PCI_HOTPLUG_UP = 0;
/** Slots whose device is wanted back; reading clears it. */
export const PCI_HOTPLUG_DOWN = 4;
/** The guest has let go of the devices in these slots. */
export const PCI_HOTPLUG_EJECT = 8;

const SLOTS = 32;

export interface PciHotplugPorts {
  /** Raises {@link PCI_HOTPLUG_GPE}. */
  readonly raiseGpe: () => void;
  /**
   * The guest is done with the device in this slot (1 to 31), whether it was asked or its own administrator wished it:
   * the device may be taken away during the call. There may be none.
   */
  readonly eject: (slot: number) => void;
}

/** Machine thread only. */
export class PciHotplug implements BusDevice {
  readonly name = 'PCI hotplug';
  readonly #ports: PciHotplugPorts;
  #up = 0;
  #down = 0;

  constructor(ports: PciHotplugPorts) {
    this.#ports = ports;
  }

  /** Tells the guest that there is a device in `slot` now. @throws RangeError for a slot that cannot change */
  announce(slot: number): void {
    this.#up |= bit(slot);
    this.#ports.raiseGpe();
  }

  /**
   * Asks the guest to let go of the device in `slot`. It answers by {@link PciHotplugPorts.eject}, or never: it may be
   * busy, not there yet, or of no mind to.
   * @throws RangeError for a slot that cannot change
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
