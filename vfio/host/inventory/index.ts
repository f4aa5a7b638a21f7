/** What the host has: apart from the provider, so that a machine that attaches devices does not load it. */
export type { Assignability } from './assignability.js';
export { type InventoryOptions, readPciFunction, readPciInventory } from './inventory.js';
export type {
  GroupMemberRecord,
  IommuGroupRecord,
  ReservedRegionRecord,
} from './iommu-group.js';
export { type MdevRecord, readMdevs, removeUnusedMdev } from './mdev-record.js';
export type {
  NamedId,
  PciFunctionRecord,
  PciInventory,
  PciSubsystem,
  PhysfnRecord,
  VirtfnRecord,
} from './pci-function.js';
export type { PciInterrupts, VectorCount } from './pci-interrupts.js';
export { PCI_IDS_PATHS, PciNames } from './pci-names.js';
export type { PciBar } from './pci-resources.js';
