export type { VgpuDevice } from './device.js';
export type { Plane } from './dispi.js';
export { createVgpuDriver, type VgpuInstance } from './driver.js';
