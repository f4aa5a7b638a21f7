/**
 * For tests of your own: fakes of every port, a core in a box, a KVM with nothing behind it, a scheduler that chooses
 * who runs next, faults on demand, and the uAPI's rules as a suite.
 * @module
 */

export { InlineEventThread } from '../../sys/inline-event-thread.js';
export * from '../../vfio/testing/index.js';
export * from '../hostile/index.js';
export * from './fake-ports.js';
export { bootGuest, type CommandResult, Guest, type GuestOptions } from './guest/guest.js';
export { GuestError, type GuestFailure } from './guest/guest-error.js';
export type { QemuEnd } from './guest/qemu-process.js';
export type { DriverDevice, GuestDevice } from './guest/served-devices.js';
export type { RegisterReport, TouchedRegister } from './registers/burn-down.js';
export type { Register } from './registers/register-map.js';
export { type RegisterAccess, RegisterTrace } from './registers/register-trace.js';
export { RegisterWatch, type RegisterWatchOptions, type ResetMismatch } from './registers/register-watch.js';
export type { Spin, SpinLimits } from './registers/spin-watch.js';
