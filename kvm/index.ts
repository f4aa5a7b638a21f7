/** KVM (`/dev/kvm`): one class per kind of file descriptor, and the kvm-vfio device. */
export { type Cap, caps } from './caps.js';
export { CoalescedRing, type CoalescedWrite, type CoalescedZone, registerCoalesced } from './coalesced.js';
export { KvmDevice } from './device.js';
export type * from './exits.js';
export { RunPage } from './exits.js';
export { GsiRouting, type GsiRoutingOptions, type GsiTarget, type MsiRoute } from './gsi-routing.js';
export { type MemorySlot, type MemorySlotOptions, MemorySlots } from './memory-slots.js';
export type { KvmReference } from './reference.js';
export { type VcpuHandle, VcpuRunner } from './runner.js';
export { Kvm } from './system.js';
export * from './uapi.js';
export * from './uapi-vcpu.js';
export { Vcpu, type VcpuParts } from './vcpu.js';
export { KvmVfio, type VfioFile, VfioFileOps } from './vfio.js';
export {
  type IoeventfdOptions,
  type IrqfdOptions,
  type MsiMessage,
  type UserMemoryRegion,
  Vm,
} from './vm.js';
