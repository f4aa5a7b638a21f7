/**
 * A kit for tests of code that uses VFIO or associates devices with a VM: an isolated core, a scripted KVM, a scheduler
 * that explores interleavings, fault injection, and the uAPI's rules as a conformance suite.
 */

export type { Clock } from '../core/clock.js';
export type { CoreContainerFile } from '../core/container.js';
export type { CoreDeviceFile } from '../core/device-file.js';
export type { CoreGroupFile } from '../core/group-file.js';
export { type LockContext, Mutex, RwSemaphore, SpinLock } from '../core/locks.js';
export type { Executor, Lock, Step, Steps, Task, Wait, WaitQueue, WakeReason } from '../core/steps.js';
export { DeadlockError } from '../core/steps.js';
export { Timeline, type TimelineEvent } from '../timeline.js';
export * from '../user/conformance/index.js';
export { type ConformanceCase, type ConformanceTarget, vfioConformance } from './conformance.js';
export { FakeClock, settle } from './fake-clock.js';
export { type ErrnoName, FaultInjector } from './fault-injector.js';
export { faultyProvider } from './faulty-provider.js';
export { RecordingDevice, type RecordingDeviceOptions } from './recording-device.js';
export { RecordingListener } from './recording-listener.js';
export {
  type Choose,
  everyInterleaving,
  type InterleavingRun,
  ScheduledTask,
  Scheduler,
} from './scheduler.js';
export { type ScriptedFile, ScriptedKvmVfio, ScriptedVm } from './scripted-kvm.js';
export { type Contained, World, type WorldDevice } from './world.js';
