import { ConfigSpace } from '../pci/config-space.js';
import {
  PCI_CLASS_DEVICE,
  PCI_CLASS_PROG,
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  PCI_COMMAND_IO,
  PCI_DEVICE_ID,
  PCI_INTERRUPT_LINE,
  PCI_INTERRUPT_PIN,
  PCI_REVISION_ID,
  PCI_SUBSYSTEM_ID,
  PCI_SUBSYSTEM_VENDOR_ID,
  PCI_VENDOR_ID,
} from '../pci/pci-regs.js';
import {
  MTTY_REVISION,
  PCI_CLASS_COMMUNICATION_SERIAL,
  PCI_DEVICE_ID_WCH_CH353_2S,
  PCI_VENDOR_ID_WCH,
  SERIAL_16550,
} from './spec.js';

/** A card's configuration space in its initial state, without the BARs of its ports; I/O decoding is enabled. */
export function createMttyConfig(): ConfigSpace {
  const space = new ConfigSpace();
  space.set(PCI_VENDOR_ID, 2, PCI_VENDOR_ID_WCH);
  space.set(PCI_DEVICE_ID, 2, PCI_DEVICE_ID_WCH_CH353_2S);
  space.set(PCI_COMMAND, 2, PCI_COMMAND_IO);
  space.allow(PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_INTX_DISABLE);
  space.set(PCI_REVISION_ID, 1, MTTY_REVISION);
  space.set(PCI_CLASS_PROG, 1, SERIAL_16550);
  space.set(PCI_CLASS_DEVICE, 2, PCI_CLASS_COMMUNICATION_SERIAL);
  space.set(PCI_SUBSYSTEM_VENDOR_ID, 2, PCI_VENDOR_ID_WCH);
  space.set(PCI_SUBSYSTEM_ID, 2, PCI_DEVICE_ID_WCH_CH353_2S);
  space.allow(PCI_INTERRUPT_LINE, 1, 0xff);
  space.set(PCI_INTERRUPT_PIN, 1, 1);
  return space;
}
