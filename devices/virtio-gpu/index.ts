export { createVirtioGpuDriver, type VirtioGpuDriver, type VirtioGpuInstance } from './driver.js';
export { readGpuCounters, type VirtioGpuCounters } from './shared-state.js';
