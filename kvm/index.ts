/**
 * KVM (`/dev/kvm`): one class per kind of file descriptor, and the kvm-vfio device.
 * @module
 */

// The Linux primitives that a hypervisor needs beside KVM.
export { type Gpa, gpa, type Hva, hva, offset } from '../sys/address.js';
export { SysError, type SysErrorInit } from '../sys/error.js';
export { Fd } from '../sys/fd.js';
export type { Request } from '../sys/ioctl.js';
export {
  DOOR_NAMES,
  type DoorChoice,
  type DoorName,
  type IoctlDoor,
  type NamedDoor,
} from '../sys/ioctl-door.js';
export { installKickSignal, kickThread } from '../sys/kick.js';
export type { KvmGuest, KvmPageTrackNotifierNode } from '../sys/kvm-guest.js';
export type { PreparedIoctl } from '../sys/libc.js';
export {
  createSharedMemory,
  type MapOptions,
  type MappedFile,
  type MappedRange,
  Mapping,
  type MemoryView,
  type SharedMemory,
  type SharedMemoryOptions,
} from '../sys/mapping.js';
export { openDoor } from '../sys/open-door.js';
export { Scope } from '../sys/scope.js';
export { decodeSections, encodeSections, SectionReader, type StateSection } from '../sys/state-sections.js';
export type {
  Field,
  Fields,
  FieldValue,
  Layout,
  Scalar,
  ScalarValue,
  StructOf,
  StructValue,
} from '../sys/struct.js';
export { type Cap, caps } from './caps.js';
export { CoalescedRing, type CoalescedWrite, type CoalescedZone, registerCoalesced } from './coalesced.js';
export { KvmDevice } from './device.js';
export type { IoeventfdOptions, IrqfdOptions } from './eventfd-bindings.js';
export type * from './exits.js';
export { RunPage } from './exits.js';
export { GsiRouting, type GsiRoutingOptions, type GsiTarget, type MsiRoute } from './gsi-routing.js';
export { cpuidFor } from './guest-cpuid.js';
export { LONG_MODE_BYTES, longModeSregs, longModeTables } from './long-mode.js';
export { type MemorySlot, type MemorySlotOptions, MemorySlots } from './memory-slots.js';
export type { KvmReference } from './reference.js';
export { type VcpuHandle, VcpuRunner } from './runner.js';
export { Kvm } from './system.js';
export * from './uapi.js';
export * from './uapi-vcpu.js';
export { Vcpu, type VcpuParts } from './vcpu.js';
export { loadVcpu, msrsOf, saveVcpu } from './vcpu-state.js';
export { KvmVfio, type VfioFile, VfioFileOps } from './vfio.js';
export { type MsiMessage, type UserMemoryRegion, Vm } from './vm.js';
export { type KernelChips, loadVm, saveVm } from './vm-state.js';
