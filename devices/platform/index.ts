/** The PC's platform devices: ACPI fixed hardware, PCI hotplug, keyboard controller, real-time clock. */
export { ACPI_PM_PORT, ACPI_PM_PORTS, ACPI_SCI_GSI, AcpiPm, type AcpiPmPorts } from './acpi-pm.js';
export { I8042, I8042_COMMAND_PORT, I8042_DATA_PORT, type I8042Ports } from './i8042.js';
export {
  ACPI_NOTIFY_DEVICE_CHECK,
  ACPI_NOTIFY_EJECT_REQUEST,
  ACPI_OST_SC_EJECT_IN_PROGRESS,
  ACPI_OST_SC_SUCCESS,
  PCI_HOTPLUG_DOWN,
  PCI_HOTPLUG_EJECT,
  PCI_HOTPLUG_GPE,
  PCI_HOTPLUG_PORT,
  PCI_HOTPLUG_PORTS,
  PCI_HOTPLUG_STATUS,
  PCI_HOTPLUG_UP,
  PciHotplug,
  type PciHotplugPorts,
} from './pci-hotplug.js';
export { RTC_PORT, RTC_PORTS, Rtc, type RtcPorts } from './rtc.js';
