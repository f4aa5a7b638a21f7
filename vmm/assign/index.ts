/**
 * Attaches VFIO devices to the VM of any hypervisor: the assignment module (vfio/assign), its ports with their KVM
 * defaults, and two ways to wire them: by hand or in a tsyringe container.
 * @module
 */

export {
  type AddressWindow,
  type Bus,
  type BusDevice,
  Doorbells,
  GuestMapper,
  Interrupts,
  type LevelLine,
  MmioBus,
  type MsiLine,
  PciWindows,
  PioBus,
  Signals,
} from '../../devices/contracts.js';
export { SysError } from '../../sys/error.js';
export { EventThread } from '../../sys/event-task.js';
export { type TraceName, trace } from '../../sys/trace.js';
export * from '../../vfio/assign/index.js';
export { VfioProvider } from '../../vfio/provider.js';
export { defaultPorts, registerAssignment } from './built-ins.js';
export { RangeBus } from './bus.js';
export { createAssignment, type WiredAssignment } from './create.js';
export { KvmDoorbells } from './doorbells.js';
export { type ExitBus, type ExitCounts, ExitDispatcher, type ExitRam } from './exit-dispatcher.js';
export { joinFileOps } from './file-ops.js';
export { KvmInterrupts } from './interrupts.js';
export {
  type DmaMapState,
  MemoryMap,
  type MemoryRegionState,
  MemorySlotPort,
  type MemorySlotUse,
  type PortSlot,
  type RamPart,
  type WrittenRam,
} from './memory-map.js';
export { holdNothing, PageTrack, type PageTrackPorts } from './page-track.js';
export { PolledEventThread } from './polled-event-thread.js';
export { type AssignmentPorts, type GetPort, type PortName, portTokens } from './ports.js';
export { registerDefault } from './register.js';
export { EventSignals } from './signals.js';
export type { PageRun } from './split-slot.js';
export { GsiRoutingToken, KvmToken, VmToken } from './tokens.js';
