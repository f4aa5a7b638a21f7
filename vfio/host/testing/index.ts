/** A kernel and a host in memory and in a temporary folder, for tests of what uses the host provider. */
export type { ErrnoName } from './call.js';
export { chain, type FakeCapability } from './container.js';
export {
  type FakeDevice,
  type FakeDeviceShape,
  type FakeIrqState,
  type FakeRegion,
  REGION_STRIDE,
} from './device.js';
export { type FakeCall, FakeKernel } from './kernel.js';
export { FakeHost, type FakeMdevType, type FakePciFunction } from './sysfs.js';
