/** Attaches VFIO devices to a VM, over ports that any hypervisor can implement. */
export {
  type AssignedDevice,
  Assignment,
  type AssignmentParts,
  type AttachOptions,
  type AttachRequest,
  type VfioInterface,
} from './assignment.js';
export { attachStep } from './attach-step.js';
export { DevicePreCopy, type PreCopyLeft } from './device-pre-copy.js';
export {
  DeviceLoading,
  deviceStateBytes,
  loadDeviceState,
  migrationFlags,
  quiesceDevice,
  saveDeviceState,
  startDevice,
  stopDevice,
} from './device-state.js';
export { GuestMemory, type MemoryListener, type MemoryRegion } from './guest-memory.js';
export { KvmAssociation } from './kvm-association.js';
export {
  type AffectedFunction,
  type BarPart,
  type BarState,
  type OpenedVf,
  type PageExits,
  type PciFunction,
  type PciFunctionState,
  PciFunctions,
  type PciWiring,
  type SlotReset,
  type VectorState,
  type VfPlaces,
  type VirtualFunctionState,
} from './pci-functions.js';
export { requireProvider } from './require-provider.js';
