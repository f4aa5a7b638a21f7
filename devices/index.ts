/**
 * Devices of the guest's platform, assigned PCI functions, and the vendor drivers of mediated devices.
 * @module
 */
export * from './contracts.js';
export { createDebugExit, DEBUG_EXIT_PORT } from './debug-exit.js';
export {
  DeviceInterrupts,
  type InterruptControl,
  type InterruptTargets,
  irqInfo,
  type MessageCounts,
} from './mdev/device-interrupts.js';
export { createIntxPin, IntxPin, type IntxPinBuffer } from './mdev/intx-pin.js';
export {
  createMessageSignals,
  MessageSignals,
  type MessageSignalsBuffer,
} from './mdev/message-signals.js';
export type { SavedState } from './mdev/migration-streams.js';
export {
  type BarRegion,
  type ConfigRegion,
  PciRegions,
  type PciRegionTable,
  type RegionContents,
  type RegisterArea,
  type TypedRegion,
} from './mdev/pci-regions.js';
export {
  PreCopiedMemory,
  type PreCopiedParts,
  type PreCopy,
  readPages,
  type SavedPages,
  storePages,
  usedPages,
  writePages,
} from './mdev/pre-copy.js';
export { memoryAccess, type RegionAccess, type Registers, registerAccess } from './mdev/region-access.js';
export { RegionOps } from './mdev/region-ops.js';
export { readState, StateReader, StateWriter } from './mdev/state-fields.js';
export { StopCopyMigration, type StoppableDevice } from './mdev/stop-copy-migration.js';
export * from './mtty/index.js';
export * from './net/index.js';
export {
  addBar,
  addRomBar,
  type BarKind,
  type BarShape,
  barAddress,
  barBus,
  barRegister,
  barSize,
  decodeBarType,
  romAddress,
  romSize,
} from './pci/bar.js';
export { type AssignedAddress, assignBars, type FoundBar } from './pci/bar-assignment.js';
export { ConfigSpace, type ConfigSpaceSize } from './pci/config-space.js';
export {
  formatSlot,
  PCI_CONFIG_PORT,
  PCI_CONFIG_PORTS,
  PCI_ECAM_BUS_BYTES,
  PciHost,
  type PciHostOptions,
  type PciSlot,
  type ReservedFunctions,
} from './pci/host-bridge.js';
export * from './pci/pci-regs.js';
export * from './platform/index.js';
export { createPostCode, POST_CODE_PORT } from './post-code.js';
export { COM1_GSI, COM1_PORT, SERIAL_PORTS, Serial, type SerialPorts } from './serial.js';
export * from './testcard/index.js';
export { type BarArea, type BarLayoutInput, type BarSpan, layOutBar } from './vfio-pci/bar-layout.js';
export { VfioPciDevice } from './vfio-pci/device.js';
export type { SlotOptions } from './vfio-pci/device-parts.js';
export { VfioPciFunctions } from './vfio-pci/functions.js';
export type { InterruptModeName } from './vfio-pci/interrupt-mode.js';
export { type SlotMember, SlotMembers } from './vfio-pci/slot-members.js';
export * from './vgpu/index.js';
export * from './vgpu-gtt/index.js';
export * from './virtio-blk/index.js';
export * from './virtio-gpu/index.js';
export * from './virtio-input/index.js';
export * from './virtio-net/index.js';
