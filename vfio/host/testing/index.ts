/** A kernel and a host in memory and in a temporary folder, for tests of what uses the host provider. */
export type { ErrnoName } from './call.js';
export { chain, type FakeCapability } from './container.js';
export type {
  FakeDevice,
  FakeDeviceShape,
  FakeIrqState,
  FakeRegion,
} from './device.js';
export { FailingSystem, parseSystemFailures, type SystemFailure } from './failing-system.js';
export { FakeDmaLogging, type FakeFeature, FakeMigration, storedFeature } from './feature.js';
export { type FakeCall, FakeKernel } from './kernel.js';
export { FakeNodes } from './nodes.js';
export {
  FakeHost,
  type FakeMdevType,
  type FakePciFunction,
  type FakeVfType,
  type FakeVgpuCard,
} from './sysfs.js';
