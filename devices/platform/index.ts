/** The PC's platform devices: ACPI fixed hardware, PCI hotplug, keyboard controller, real-time clock. */
export { ACPI_PM_PORT, ACPI_PM_PORTS, ACPI_SCI_GSI, AcpiPm, type AcpiPmPorts } from './acpi-pm.js';
export { I8042, I8042_COMMAND_PORT, I8042_DATA_PORT, type I8042Ports } from './i8042.js';
export {
  PCI_HOTPLUG_GPE,
  PCI_HOTPLUG_PORT,
  PCI_HOTPLUG_PORTS,
  PciHotplug,
  type PciHotplugPorts,
} from './pci-hotplug.js';
export { RTC_PORT, RTC_PORTS, Rtc, type RtcPorts } from './rtc.js';
