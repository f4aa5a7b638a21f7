export type { Plane } from './dispi.js';
export { createVgpuDriver, type VgpuInstance } from './driver.js';
