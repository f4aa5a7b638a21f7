/**
 * ACPI PCI hotplug: 32-bit registers, three of them with one bit per slot of bus 0, through which the guest's AML detects
 * changed slots, ejects devices and reports what became of a notification. The DSDT describes them; the guest's own hotplug
 * driver uses its methods.
 */
import type { BusDevice } from '../contracts.js';

/** First port of {@link PciHotplug}. */
export const PCI_HOTPLUG_PORT = 0x620;
/** Number of ports of {@link PciHotplug}. */
export const PCI_HOTPLUG_PORTS = 16;
/** Number of the general-purpose event that makes the guest check the slots. */
export const PCI_HOTPLUG_GPE = 1;

/** Slots with a new device. Read to clear. */
export const PCI_HOTPLUG_UP = 0;
/** Slots whose device should be removed. Read to clear. */
export const PCI_HOTPLUG_DOWN = 4;
/** The guest writes it to eject the devices in these slots. */
export const PCI_HOTPLUG_EJECT = 8;
/** The guest's _OST writes it: the slot in bits 0 to 7, the event in bits 8 to 23, the status in bits 24 to 31. */
export const PCI_HOTPLUG_STATUS = 12;

/** Event of a new device, which _OST reports on. @see ACPI 6.5, section 5.6.6 */
export const ACPI_NOTIFY_DEVICE_CHECK = 1;
/** Event of a request to eject a device. */
export const ACPI_NOTIFY_EJECT_REQUEST = 3;

/** Status of _OST: done. @see ACPI 6.5, section 6.3.5 */
export const ACPI_OST_SC_SUCCESS = 0;
/** Not a refusal: the guest has begun to eject the device. */
export const ACPI_OST_SC_EJECT_IN_PROGRESS = 0x84;

const SLOTS = 32;

/** Length of PciHotplug.save's result in bytes. */
const PCI_HOTPLUG_STATE_BYTES = 8;

/** What {@link PciHotplug} needs of the machine. Called in the machine thread. */
export interface PciHotplugPorts {
  /** Raises {@link PCI_HOTPLUG_GPE}. */
  readonly raiseGpe: () => void;
  /**
   * The guest ejected the device in `slot` (1 to 31), on request or by itself. The callee may remove the device before it
   * returns; the slot may be empty.
   */
  readonly eject: (slot: number) => void;
  /**
   * The guest reports what became of a notification (_OST). Not every guest does, and it may report anything at any time.
   * Default: ignored.
   * @param event {@link ACPI_NOTIFY_DEVICE_CHECK}, {@link ACPI_NOTIFY_EJECT_REQUEST}, or another
   * @param status {@link ACPI_OST_SC_SUCCESS}, or the reason of a failure
   */
  readonly report?: ((slot: number, event: number, status: number) => void) | undefined;
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

  /**
   * Withdraws the request to eject the device in `slot`. Returns whether it could: there was one, and the guest has not
   * read it. One that it has read it may still follow.
   * @throws RangeError unless `slot` is 1 to 31
   */
  withdrawUnplug(slot: number): boolean {
    const isUnread = (this.#down & bit(slot)) !== 0;
    this.#down &= ~bit(slot);
    return isUnread;
  }

  /** Saves what the guest has not read yet, always of one length. */
  save(): Uint8Array {
    return new Uint8Array(Uint32Array.of(this.#up, this.#down).buffer);
  }

  /** Takes over a saved state; the GPE is ACPI's state. Returns false if it is no state. */
  load(state: Uint8Array): boolean {
    if (state.length !== PCI_HOTPLUG_STATE_BYTES) return false;
    const view = new DataView(state.buffer, state.byteOffset, state.length);
    this.#up = view.getUint32(0, true) & ~1; // there is no slot 0
    this.#down = view.getUint32(4, true) & ~1;
    return true;
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
    if (data.length !== 4) return;
    const value = new DataView(data.buffer, data.byteOffset).getUint32(0, true);
    if (offset === PCI_HOTPLUG_EJECT) this.#eject(value);
    else if (offset === PCI_HOTPLUG_STATUS) this.#report(value);
  }

  #eject(slots: number): void {
    for (let slot = 1; slot < SLOTS; slot++) {
      if ((slots & bit(slot)) === 0) continue;
      this.#down &= ~bit(slot);
      this.#ports.eject(slot);
    }
  }

  #report(value: number): void {
    const slot = value & 0xff;
    if (slot >= 1 && slot < SLOTS) this.#ports.report?.(slot, (value >>> 8) & 0xffff, value >>> 24);
  }
}

function bit(slot: number): number {
  if (!Number.isInteger(slot) || slot < 1 || slot >= SLOTS)
    throw new RangeError(`PCI slot ${slot} cannot change`);
  return 1 << slot;
}
