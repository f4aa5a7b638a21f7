import { ConfigSpace } from '../pci/config-space.js';
import {
  PCI_CAP_ID_MSI,
  PCI_CLASS_DEVICE,
  PCI_COMMAND,
  PCI_COMMAND_MEMORY,
  PCI_DEVICE_ID,
  PCI_MSI_FLAGS_64BIT,
  PCI_SUBSYSTEM_ID,
  PCI_SUBSYSTEM_VENDOR_ID,
  PCI_VENDOR_ID,
} from '../pci/pci-regs.js';
import { PCI_CLASS_DISPLAY_OTHER } from '../vgpu/spec.js';
import { PCI_DEVICE_ID_VGPU_GTT, PCI_VENDOR_ID_TSVISOR } from './spec.js';

/** Address, upper address and data; the flags come first. */
const MSI_BODY_BYTES = 12;

/** The card's configuration space in its initial state, without its BARs: one message, no pin. */
export function createGttConfig(): ConfigSpace {
  const space = new ConfigSpace();
  space.set(PCI_VENDOR_ID, 2, PCI_VENDOR_ID_TSVISOR);
  space.set(PCI_DEVICE_ID, 2, PCI_DEVICE_ID_VGPU_GTT);
  space.set(PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
  space.allow(PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
  space.set(PCI_CLASS_DEVICE, 2, PCI_CLASS_DISPLAY_OTHER);
  space.set(PCI_SUBSYSTEM_VENDOR_ID, 2, PCI_VENDOR_ID_TSVISOR);
  space.set(PCI_SUBSYSTEM_ID, 2, PCI_DEVICE_ID_VGPU_GTT);
  const body = new Uint8Array(MSI_BODY_BYTES);
  body[0] = PCI_MSI_FLAGS_64BIT;
  space.addCapability(PCI_CAP_ID_MSI, body);
  return space;
}
