export {
  ACPI_PM_PORT,
  ACPI_PM_PORTS,
  ACPI_SCI_GSI,
  AcpiPm,
} from './acpi-pm.js';
export { I8042, I8042_COMMAND_PORT, I8042_DATA_PORT } from './i8042.js';
export { PCI_HOTPLUG_GPE, PCI_HOTPLUG_PORT, PCI_HOTPLUG_PORTS, PciHotplug } from './pci-hotplug.js';
export { RTC_PORT, RTC_PORTS, Rtc } from './rtc.js';
