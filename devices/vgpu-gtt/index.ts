export type { VgpuGttDevice } from './device.js';
export { createVgpuGttDriver, type VgpuGttInstance } from './driver.js';
