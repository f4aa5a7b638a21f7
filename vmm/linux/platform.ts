/** The devices that Linux expects on a PC besides PCI and the serial port, at their usual ports. */

import type { BusDevice } from '../../devices/contracts.js';
import { ACPI_PM_PORT, ACPI_PM_PORTS, ACPI_SCI_GSI, AcpiPm } from '../../devices/platform/acpi-pm.js';
import { GENERATION_ID_GPE } from '../../devices/platform/generation-id.js';
import { I8042, I8042_COMMAND_PORT, I8042_DATA_PORT } from '../../devices/platform/i8042.js';
import {
  PCI_HOTPLUG_GPE,
  PCI_HOTPLUG_PORT,
  PCI_HOTPLUG_PORTS,
  PciHotplug,
} from '../../devices/platform/pci-hotplug.js';
import { RTC_PORT, RTC_PORTS, Rtc } from '../../devices/platform/rtc.js';
import type { SavedPart } from '../saved-part.js';

/** What the platform needs from its machine. Callbacks run in the machine thread, during an exit. */
export interface PlatformPorts {
  /** Monotonic clock in nanoseconds. */
  readonly nowNs: () => bigint;
  /** Milliseconds since 1970, UTC. */
  readonly nowMs: () => number;
  /** Sets the level of an I/O APIC pin. */
  readonly irqLine: (gsi: number, level: boolean) => void;
  /** The guest shut down. */
  readonly powerOff: () => void;
  /** The guest requested a restart. */
  readonly reset: () => void;
  /** The guest ejected the device in this PCI slot. */
  readonly eject: (slot: number) => void;
  /** The guest reports what became of a notification. @see PciHotplugPorts.report */
  readonly report: (slot: number, event: number, status: number) => void;
}

/** A device and its I/O ports. */
export interface PortRange {
  readonly base: number;
  readonly count: number;
  readonly device: BusDevice;
}

export interface Platform {
  /** The port ranges to register on the I/O bus. */
  readonly ranges: readonly PortRange[];
  /** Requests the guest to shut down. */
  pressPowerButton(): void;
  /** Reports a device plugged into a PCI slot to the guest. */
  announce(slot: number): void;
  /** Requests the guest to eject the device in a PCI slot; it answers through {@link PlatformPorts.eject}, or never. */
  requestUnplug(slot: number): void;
  /** Withdraws that request. Returns whether it could: the guest has not read it. */
  withdrawUnplug(slot: number): boolean;
  /** Tells the guest that its generation ID has changed. */
  announceGeneration(): void;
  /** The devices whose state is saved and loaded with the machine's, by the names of their sections. */
  readonly saved: readonly SavedPart[];
}

export function createPlatform(ports: PlatformPorts): Platform {
  const { nowNs, nowMs, powerOff, reset, eject, report } = ports;
  const pm = new AcpiPm({ nowNs, powerOff, reset, raiseSci: (level) => ports.irqLine(ACPI_SCI_GSI, level) });
  const hotplug = new PciHotplug({ raiseGpe: () => pm.raiseGpe(PCI_HOTPLUG_GPE), eject, report });
  const rtc = new Rtc({ nowMs });
  const keyboard = new I8042({ reset });
  return {
    ranges: [
      { base: ACPI_PM_PORT, count: ACPI_PM_PORTS, device: pm },
      { base: PCI_HOTPLUG_PORT, count: PCI_HOTPLUG_PORTS, device: hotplug },
      { base: RTC_PORT, count: RTC_PORTS, device: rtc },
      { base: I8042_DATA_PORT, count: 1, device: keyboard.data },
      { base: I8042_COMMAND_PORT, count: 1, device: keyboard.command },
    ],
    saved: [part('rtc', rtc), part('i8042', keyboard), part('pci-hotplug', hotplug), part('acpi-pm', pm)],
    pressPowerButton: () => pm.pressPowerButton(),
    announce: (slot) => hotplug.announce(slot),
    announceGeneration: () => pm.raiseGpe(GENERATION_ID_GPE),
    requestUnplug: (slot) => hotplug.requestUnplug(slot),
    withdrawUnplug: (slot) => hotplug.withdrawUnplug(slot),
  };
}

const part = (name: string, device: Omit<SavedPart, 'name'>): SavedPart => ({
  name: `platform/${name}`,
  save: () => device.save(),
  load: (state) => device.load(state),
});
